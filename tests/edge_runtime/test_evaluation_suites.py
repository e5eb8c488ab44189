"""Rows are read, asked and marked; the verb prints one JSON object."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from edge_runtime.cli import evaluate
from edge_runtime.errors import DataError
from edge_runtime.evaluation import MarkedFrame, ask, parse_frame, read, summarise_frames, summarise_oos
from edge_runtime.evaluation.marked import NO_EVIDENCE
from edge_runtime.evaluation.rows import find
from edge_runtime.evaluation.suites import domain_score
from offload.outcomes import read_outcomes
from offload.types import Evidence, Token

HWU = {
    "text": "wake me at five",
    "intent": "alarm_set",
    "entities": [{"start": 11, "end": 15, "value": "five", "entity": "time"}],
}
HOME = {
    "text": "lights off in here",
    "intent": "HassTurnOff",
    "slots": {"domain": "light", "area": "Living Room"},
    "context": {"area": "Living Room"},
}
OOS = {"text": "how tall is my dog", "intent": "oos"}
BANK = {"text": "what is my balance", "intent": "balance"}
RIGHT = {
    HWU["text"]: '{"intent":"alarm_set","slots":{"time":"five"}}',
    HOME["text"]: '{"intent":"HassTurnOff","slots":{"area":"living room","domain":"light"}}',
    OOS["text"]: '{"intent":"none","slots":{}}',
    BANK["text"]: '{"intent":"none","slots":{}}',
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def evidence(logprob: float) -> Evidence:
    return Evidence.fold([Token(0, "x", logprob=logprob, entropy=-logprob, margin=1 + logprob)], "stop")


class FakeModel:
    """Answers from a table; wrong answers are less sure."""

    id = "fake"

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.asked = answers, []

    def __enter__(self) -> "FakeModel":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def prompt(self, messages: list) -> list:
        self.asked.append(messages)
        return messages

    def generate(self, prompt: list, params: object) -> SimpleNamespace:
        text = self.answers.get(prompt[-1]["content"], "no idea")
        return SimpleNamespace(text=text, evidence=evidence(-0.1 if text != "no idea" else -2.0))


def outcome(row: dict, text: str, logprob: float, tmp_path: Path) -> MarkedFrame:
    case = read(write(tmp_path / "one.jsonl", row))[0]
    return ask([case], lambda messages: (text, evidence(logprob)), MarkedFrame)[0]


def test_each_format_is_asked_in_its_own_dialect(tmp_path: Path) -> None:
    cases = read(write(tmp_path / "rows.jsonl", HWU, HOME, OOS, BANK))
    system = [[m["content"] for m in case.messages() if m["role"] == "system"] for case in cases]
    assert system == [["frames: hwu64"], ["frames: ha\narea: Living Room"], [], []]
    untagged = [
        [m["content"] for m in case.messages(tagged=False) if m["role"] == "system"] for case in cases
    ]
    assert untagged == [[], ["area: Living Room"], [], []]


def test_right_answers_count_as_right_and_others_do_not(tmp_path: Path) -> None:
    cases = read(write(tmp_path / "rows.jsonl", HWU, HWU, HOME, OOS, BANK))
    texts = iter(
        [RIGHT[HWU["text"]], '{"intent":"alarm_set","slots":{}}', "nonsense", RIGHT[OOS["text"]], "{}"]
    )
    metrics = summarise_frames(ask(cases, lambda messages: (next(texts), evidence(-0.5)), MarkedFrame))
    assert (metrics["intent_accuracy"].value, metrics["intent_accuracy"].n) == (3 / 4, 4)
    assert metrics["frame_accuracy"].value == 2 / 4
    assert metrics["valid_json"].value == 3 / 4


def test_every_signal_is_turned_so_that_sure_is_high(tmp_path: Path) -> None:
    outcomes = [outcome(HWU, RIGHT[HWU["text"]], -0.01 * i, tmp_path) for i in range(1, 6)]
    outcomes += [outcome(HWU, "wrong", -1.0 - i, tmp_path) for i in range(3)]
    metrics = summarise_frames(outcomes)
    found = {name: metric.value for name, metric in metrics.items() if name.startswith("auroc_")}
    assert found.pop("auroc_mean_margin") == 1.0
    assert len(found) == 9
    assert set(found.values()) == {1.0}


def test_an_answer_without_evidence_is_the_least_sure(tmp_path: Path) -> None:
    case = read(write(tmp_path / "rows.jsonl", HWU))[0]
    found = ask([case], lambda messages: ("", Evidence.fold([Token(0, "x", forced=True)])), MarkedFrame)[0]
    assert set(found.signals.values()) == {NO_EVIDENCE}


def test_a_sure_none_is_the_surest_sign_of_out_of_scope(tmp_path: Path) -> None:
    none = RIGHT[OOS["text"]]
    order = [
        outcome(OOS, none, -0.01, tmp_path),
        outcome(OOS, none, -2.0, tmp_path),
        outcome(OOS, "no frame", -0.01, tmp_path),
        outcome(OOS, RIGHT[HWU["text"]], -2.0, tmp_path),
        outcome(OOS, RIGHT[HWU["text"]], -0.01, tmp_path),
    ]
    scores = [domain_score(o, "mean_logprob") for o in order]
    assert scores == sorted(scores)
    assert len(set(scores)) == 5


def test_oos_judges_in_domain_rows_against_out_of_scope_ones_and_keeps_clinc_apart(tmp_path: Path) -> None:
    cases = read(write(tmp_path / "rows.jsonl", HWU, HOME, OOS, BANK))
    metrics = summarise_oos(
        ask(cases, lambda m: (RIGHT[m[-1]["content"]], evidence(-0.2)), MarkedFrame, tagged=False)
    )
    assert metrics["none_rate_out_of_scope"].value == 1
    assert metrics["none_rate_in_domain"].value == 0
    assert metrics["auroc_verdict_mean_logprob"].value == 1
    assert metrics["auroc_mean_logprob"].n == 3
    assert metrics["none_rate_clinc150_in_scope"].n == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: is not a JSON object"),
        ('{"text": "x"}', "line 2: needs 'text' and 'intent'"),
        (
            '{"text": "x", "intent": "y", "entities": [{}]}',
            "line 2: needs 'entities' to be a list of objects",
        ),
        ('{"text": "x", "intent": "y", "slots": []}', "line 2: needs 'slots' and 'context' to be objects"),
        ('{"text": "x", "intent": "y", "slots": {"a": null}}', "line 2: slot value None is neither"),
    ],
)
def test_a_wrong_row_is_refused_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(HWU) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl, ") as caught:
        read(path)
    assert message in str(caught.value)


def test_missing_and_empty_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set EDGE_DATA_DIR .* or name a file with --data"):
        find(["hwu64/test.jsonl"], {"EDGE_DATA_DIR": str(tmp_path)})
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="has no rows"):
        read(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("suite", ["frames", "oos"])
def test_the_verb_prints_one_json_object(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel(RIGHT)
    monkeypatch.setattr(evaluate, "open_model", lambda name, threads: model)
    data = write(tmp_path / "rows.jsonl", HWU, HOME, OOS, BANK)
    done = CliRunner().invoke(
        evaluate.command,
        ["--suite", suite, "--data", str(data), "--json", "--rows", str(tmp_path / "out.jsonl")],
    )
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert (value["suite"], value["model"], value["n"]) == (suite, "fake", 4)
    assert all(set(metric) == {"value", "low", "high", "n"} for metric in value["metrics"].values())
    tags = [[m["content"] for m in asked if m["role"] == "system"] for asked in model.asked]
    assert tags[0] == (["frames: hwu64"] if suite == "frames" else [])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["weak_correct"] for row in rows] == [True] * 3  # nobody can mark the last one
    assert [row.suite for row in read_outcomes(tmp_path / "out.jsonl")] == ["hwu64", "ha_intents", "oos"]
    assert parse_frame(rows[0]["response"]) is not None
    assert Evidence.from_dict(rows[0]["evidence"]) == evidence(-0.1)


def test_the_verb_prints_a_table_per_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "open_model", lambda name, threads: FakeModel(RIGHT))
    data = write(tmp_path / "rows.jsonl", HWU, HOME, OOS)
    done = CliRunner().invoke(evaluate.command, ["--data", str(data), "--limit", "2"])
    assert done.exit_code == 0, done.output
    for title in ("fake · frames · all rows", "fake · frames · hwu64", "fake · frames · ha_intents"):
        assert title in done.output
    assert "oos" not in done.output
