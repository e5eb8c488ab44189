"""A shipped package is calibrated on held-out rows, and the calibration becomes one of its listed files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import make_package

from edge_runtime.evaluation.marked import Asker, Messages
from edge_runtime.evaluation.rows import FrameCase, to_case
from edge_runtime.runtime import Runtime
from model_zoo import open_package
from offload.checks import with_checks
from offload.spans import decisive_spans
from offload.types import Evidence, Token
from tools.train import calibrate as tool

LIGHT = '{"intent":"HassTurnOn","slots":{"area":"kitchen"}}'


class FakeBook:
    """Answers whose tokens say how often they are right; every other line of arithmetic is wrong."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.asked: list[Messages] = []

    def __enter__(self) -> FakeBook:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def asker(self, max_tokens: int) -> Asker:
        def answer(messages: Messages) -> tuple[str, Evidence]:
            self.asked.append(messages)
            p = float(self.random.uniform(0.2, 0.98))
            text = LIGHT if self.random.random() < p else LIGHT.replace("kitchen", "cellar")
            tokens = [
                Token(i, c, logprob=float(np.log(p)), entropy=0.1, margin=1.0) for i, c in enumerate(text)
            ]
            evidence = Evidence.fold(tokens, "stop", decisive_spans(tokens))
            return text, with_checks(evidence, messages[-1]["content"], text)

        return answer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "clinc150").mkdir()
    rows = [json.dumps({"text": f"how tall is dog {i}", "intent": "oos"}) for i in range(9)]
    (tmp_path / "clinc150" / "oos_val.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> FakeBook:
    def held_out(data: Path, run: Path) -> Iterator[tuple[str, list[FrameCase]]]:
        row = {"text": "kitchen light", "intent": "HassTurnOn", "slots": {"area": "kitchen"}}
        yield "templates held out", [to_case(row)] * 90

    book = FakeBook()
    monkeypatch.setattr(tool, "held_out_frames", held_out)
    monkeypatch.setattr(tool.AnswerBook, "of", lambda *_: book)
    monkeypatch.setitem(tool.PROBLEMS, "count", 12)
    return book


def test_a_package_gets_its_calibration_as_a_listed_file(tmp_path: Path, data: Path, book: FakeBook) -> None:
    package = make_package(tmp_path / "tiny")
    steps: list[int] = []
    selection, value = tool.calibrate(
        package, tmp_path, data, answers=tmp_path, bar=lambda step, total=None: steps.append(step)
    )
    assert sum(steps) == len(book.asked) == 90 + 9 + 12
    opened = open_package(package)
    opened.verify()
    assert opened.has("calibration.json")
    assert opened.manifest.evaluation["calibration"]["n"] == 111
    assert set(opened.manifest.evaluation["calibration"]) == {"n", "brier", "auroc", "ece", "ece_floor"}
    assert [kind.kind for kind in selection.kinds] == ["frame"]
    with Runtime.open(package, threads=1) as runtime:
        assert runtime.calibration is not None
        assert runtime.calibration.id == value["id"]


def test_rows_are_held_out_ones_asked_with_and_without_their_task(data: Path, book: FakeBook) -> None:
    found = list(tool.cases(data, data, limit=6))
    assert [suite for suite, _, _ in found] == ["frames"] * 12 + ["problems"] * 6
    assert [tagged for _, _, tagged in found] == [True] * 6 + [False] * 6 + [True, False] * 3
    assert tool.PROBLEMS["split"] == "val"
