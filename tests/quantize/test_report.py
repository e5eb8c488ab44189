"""The quantization report: figures against naive references, on hand-made distributions."""

import dataclasses
import math
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.engines.base import EngineInfo, Scores
from edge_runtime.errors import MissingExtraError
from quantize import report
from quantize.errors import CheckpointError, QuantizeError
from quantize.text import read_rows


class TableEngine:
    """Logits looked up by the token that was fed last; the smallest thing with an engine's face."""

    def __init__(self, table, name="table"):
        self.table = np.asarray(table, np.float32)
        self.info = EngineInfo(name, name, self.table.shape[1], 64, 2, 1)
        self.open = 0

    def new_sequence(self):
        self.open += 1
        return TableSequence(self)


class TableSequence:
    def __init__(self, engine):
        self.engine, self.fed = engine, []

    def forward(self, tokens, *, num_logits=1, want_logits=False):
        assert want_logits
        assert num_logits == len(tokens)
        self.fed += tokens
        empty = np.zeros((0, 0), np.float32)
        return Scores(empty.astype(np.int64), empty, empty[0:0, 0:0], empty, self.engine.table[tokens])

    def close(self):
        self.engine.open -= 1


def softmax(row):
    weights = [math.exp(value) for value in row]
    return [value / sum(weights) for value in weights]


def naive(p_logits, q_logits, following):
    """(KL, same top token, log p, log q) by the definition, one number at a time."""
    p, q = softmax(p_logits), softmax(q_logits)
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return kl, p.index(max(p)) == q.index(max(q)), math.log(p[following]), math.log(q[following])


def test_the_figures_are_those_of_the_definitions():
    rng = np.random.default_rng(0)
    reference, candidate = rng.normal(size=(2, 40, 17)).astype(np.float32)
    following = rng.integers(0, 17, 40).tolist()
    found = report.divergence(reference, candidate, following)
    expected = [naive(*row) for row in zip(reference.tolist(), candidate.tolist(), following, strict=True)]
    for array, column in zip(
        (found.kl, found.same_top, found.logprob_reference, found.logprob),
        zip(*expected, strict=True),
        strict=True,
    ):
        np.testing.assert_allclose(array, column, rtol=1e-6, atol=1e-9)


def test_a_model_does_not_differ_from_itself():
    logits = np.random.default_rng(1).normal(scale=20, size=(9, 1000)).astype(np.float32)
    shifted = logits + np.float32(3)
    found = report.divergence(logits, shifted, [0] * 9)
    assert (found.kl < 1e-10).all()
    assert (found.kl >= 0).all()
    assert found.same_top.all()


def test_logits_far_apart_and_minus_infinity_do_not_overflow():
    reference = np.array([[0.0, 500.0, -500.0]], np.float32)
    candidate = np.array([[500.0, 0.0, -500.0]], np.float32)
    found = report.divergence(reference, candidate, [1])
    assert found.kl[0] == pytest.approx(500.0)
    assert not found.same_top[0]
    assert found.logprob[0] == pytest.approx(-500.0)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_every_position_with_a_successor_counts_once_whatever_the_chunk(chunk):
    rng = np.random.default_rng(2)
    table = rng.normal(size=(2, 11, 11))
    engines = [TableEngine(part) for part in table]
    rows = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10]]
    found = report.compare(*engines, rows, chunk=chunk, reference_bytes=1000, package_bytes=250)
    pairs = [(a, b) for row in rows for a, b in pairwise(row)]
    float32 = table.astype(np.float32).tolist()
    expected = [naive(float32[0][a], float32[1][a], b) for a, b in pairs]
    kl = [item[0] for item in expected]
    assert found.tokens == len(pairs) == 7
    assert found.kl_mean == pytest.approx(np.mean(kl), rel=1e-6)
    assert found.kl_p99 == pytest.approx(np.quantile(kl, 0.99), rel=1e-6)
    assert found.top1_agreement == pytest.approx(np.mean([item[1] for item in expected]))
    assert found.perplexity == pytest.approx(math.exp(-np.mean([item[3] for item in expected])), rel=1e-6)
    assert found.perplexity_ratio == pytest.approx(found.perplexity / found.perplexity_reference)
    assert [engine.open for engine in engines] == [0, 0]


def test_models_of_different_vocabularies_are_not_compared():
    with pytest.raises(QuantizeError, match="'b' has 4 tokens and its reference 'a' 3"):
        report.compare(TableEngine(np.zeros((3, 3)), "a"), TableEngine(np.zeros((4, 4)), "b"), [[0, 1]])


def test_no_text_is_an_error():
    engine = TableEngine(np.zeros((3, 3)))
    with pytest.raises(QuantizeError, match="no text to compare on"):
        report.compare(engine, engine, [[1], []])


def a_report():
    engines = [TableEngine(np.random.default_rng(seed).normal(size=(9, 9))) for seed in (0, 1)]
    return report.compare(*engines, [[1, 2, 3, 4, 5]], reference_bytes=4 << 20, package_bytes=1 << 20)


def test_the_table_and_the_json_hold_the_figures():
    found = a_report()
    table = dict(report.rows_of_table(found))
    assert table["size"] == "1.0 of 4.0 MiB (25%)"
    assert table["perplexity ratio"] == f"{found.perplexity_ratio:.4f}"
    fields = {field.name for field in dataclasses.fields(found)} - {"kl"}
    assert set(found.to_dict()) == fields
    assert all(isinstance(value, int | float) for value in found.to_dict().values())


def test_the_picture_is_written(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'edge-runtime[plot]'")
    report.draw({"int4": a_report()}, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_matplotlib_names_the_extra(monkeypatch, tmp_path):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"'matplotlib'.*edge-runtime\[plot\]"):
        report.draw({}, tmp_path / "report.png")


# --- text ---


def encode(text):
    return [ord(letter) for letter in text]


def test_plain_text_is_cut_into_windows(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcdefgh", encoding="utf-8")
    assert read_rows(path, encode, window=3) == [encode("abc"), encode("def"), encode("gh")]
    assert read_rows(path, encode, window=3, limit=4) == [encode("abc"), encode("def")]


def test_every_row_begins_with_the_start_tokens_once(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcde", encoding="utf-8")
    assert read_rows(path, encode, window=3, start=[1]) == [
        [1, *encode("ab")],
        [1, *encode("cd")],
        [1, *encode("e")],
    ]
    already = SimpleNamespace(encode=lambda text: [1, *encode(text)])
    assert read_rows(path, already.encode, window=6, start=[1]) == [[1, *encode("abcde")]]


def test_json_lines_are_rows_of_their_own(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "abc"}\n\n{"text": "de", "more": 1}\n', encoding="utf-8")
    assert read_rows(path, encode) == [encode("abc"), encode("de")]


@pytest.mark.parametrize("line", ['{"prompt": "abc"}', "abc", '{"text": 3}', "[1]"])
def test_a_line_without_text_is_named(tmp_path, line):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "abc"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"text.jsonl, line 2: expected a JSON object like"):
        read_rows(path, encode)


def test_unusable_text_files_are_named(tmp_path):
    path = tmp_path / "text.txt"
    with pytest.raises(CheckpointError, match=r"text.txt is missing"):
        read_rows(path, encode)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(CheckpointError, match=r"text.txt cannot be read as UTF-8"):
        read_rows(path, encode)
    path.write_text("a", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"too little text: at least two tokens"):
        read_rows(path, encode)
