"""A calibration gives each kind of answer its own probability, and is refused where it does not belong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from offload.calibration import Calibration, Entry, Fingerprint
from offload.calibrators import Isotonic, Logistic, Platt
from offload.confidence import score
from offload.errors import CalibrationError
from offload.spans import decisive_spans
from offload.types import Evidence, Token

HERE = Fingerprint(model="1" * 64, quantization="2" * 64, template="3" * 64)
FRAME, HOME = '{"intent":"alarm_set","slots":{}}', '{"intent":"HassTurnOn","slots":{}}'
SOLUTION = "1+1=2\nanswer: 2"


def calibration(*entries: Entry) -> Calibration:
    return Calibration(
        entries or ENTRIES, HERE, "tiny", "2026-01-31T12:00:00Z", {"description": "x", "n": 90}
    )


ENTRIES = (
    Entry("frame", ("mean_logprob",), Platt(1.0, 0.0), 60, 40, {"brier": 0.1, "auroc": 0.9}),
    Entry("frame/hass", ("mean_logprob",), Platt(1.0, 2.0), 120, 90),
    Entry("solution", ("answer.min_logprob",), Isotonic((-1.0, 1.0), (0.2, 0.9)), 70, 30),
)


def evidence(text: str, logprob: float = -0.2, reason: str = "stop") -> Evidence:
    tokens = [Token(i, c, logprob=logprob, entropy=-logprob, margin=1.0) for i, c in enumerate(text)]
    return Evidence.fold(tokens, reason, decisive_spans(tokens))  # type: ignore[arg-type]


def test_every_kind_of_answer_has_its_own_entry() -> None:
    c = calibration()
    plain, home = c.apply(evidence(FRAME), FRAME), c.apply(evidence(HOME), HOME)
    p = np.exp(-0.2)
    assert plain == pytest.approx(p)
    assert home == pytest.approx(1 / (1 + np.exp(-np.log(p / (1 - p)) - 2)))
    assert c.apply(evidence(SOLUTION), SOLUTION) == pytest.approx(
        np.interp(np.log(p / (1 - p)), [-1, 1], [0.2, 0.9])
    )


def test_without_the_text_the_spans_tell_the_form() -> None:
    c = calibration()
    assert c.apply(evidence(HOME)) == c.apply(evidence(FRAME), FRAME)
    assert c.apply(evidence(SOLUTION)) == c.apply(evidence(SOLUTION), SOLUTION)


def test_a_kind_without_an_entry_has_no_probability_and_says_why() -> None:
    confidence = score(evidence("Paris."), calibration(), text="Paris.")
    assert (confidence.p_correct, confidence.raw) == (None, pytest.approx(-0.2))
    assert "kind 'text'; it has: frame, frame/hass, solution" in (confidence.reason or "")


def test_the_confidence_names_signal_and_calibration() -> None:
    c = calibration()
    confidence = score(evidence(FRAME), c, text=FRAME)
    assert (confidence.signal, confidence.calibration_id) == ("mean_logprob", c.id)
    assert confidence.raw == pytest.approx(-0.2)
    assert confidence.reason is None


@pytest.mark.parametrize(
    ("poor", "reason"),
    [
        (evidence(FRAME, reason="length"), "not whole"),
        (Evidence.fold([Token(0, FRAME)], "stop", decisive_spans([Token(0, FRAME)])), "no token has"),
        (dataclasses.replace(evidence(FRAME), mean_logprob=float("nan")), "not finite"),
    ],
)
def test_poor_evidence_has_no_probability(poor: Evidence, reason: str) -> None:
    confidence = score(poor, calibration(), text=FRAME)
    assert confidence.p_correct is None
    assert reason in (confidence.reason or "")


def test_an_entry_whose_signal_is_missing_says_nothing() -> None:
    c = calibration(Entry("frame", ("p_true",), Platt(1.0, 0.0), 60, 40))
    assert c.probes == ("p_true",)
    assert c.apply(evidence(FRAME)) is None
    assert "has no p_true" in (c.confidence(evidence(FRAME)).reason or "")


def test_a_combiner_is_named_by_its_size_and_has_no_raw_signal() -> None:
    both = Logistic((1.0, 1.0), 0.0, (0.0, 0.0), (1.0, 1.0), (-50.0, -50.0), (50.0, 50.0))
    c = calibration(Entry("frame", ("mean_logprob", "length"), both, 60, 40))
    confidence = c.confidence(evidence(FRAME))
    assert confidence.signal == "logistic(2 signals)"
    assert confidence.p_correct is not None
    assert confidence.raw is None
    assert not c.entries[0].single


def test_a_file_gives_the_same_calibration_again(tmp_path: Path) -> None:
    c = calibration()
    path = tmp_path / "deep" / "calibration.json"
    c.save(path)
    assert Calibration.load(path) == c
    assert list(path.parent.iterdir()) == [path], "nothing else is left behind"
    assert path.read_text() == c.to_json()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"model": "9" * 64},
            "the model's files are others (111111111111… in the calibration, 999999999999… here)",
        ),
        ({"quantization": "9" * 64}, "quantized in another way"),
        ({"template": "9" * 64}, "the chat template is another"),
    ],
)
def test_another_models_calibration_is_refused(changed: dict[str, str], told: str) -> None:
    c = calibration()
    c.check(HERE)
    with pytest.raises(CalibrationError) as error:
        c.check(dataclasses.replace(HERE, **changed))
    assert told in str(error.value)
    assert f"the calibration {c.id} of 'tiny'" in str(error.value)
    assert "edge-runtime calibrate" in str(error.value)


def edited(**changes: object) -> str:
    return json.dumps({**json.loads(calibration().to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not valid JSON"),
        ("[]", "'format' is None and this release reads 1"),
        (edited(format=2), "'format' is 2"),
        (edited(model="other"), "was changed after it was written"),
        (edited(entries=[]), "needs one entry per kind"),
        (edited(entries=[ENTRIES[0].to_dict()] * 2), "needs one entry per kind"),
        (edited(entries=[{"kind": "frame"}]), "an entry has no 'figures'"),
        (edited(entries=[ENTRIES[0].to_dict() | {"signals": ["vibes"]}]), "has no signal 'vibes'"),
        (edited(entries=[ENTRIES[0].to_dict() | {"method": "magic"}]), "has no method 'magic'"),
        (edited(entries=[ENTRIES[0].to_dict() | {"parameters": {}}]), "wrong parameters"),
        (
            edited(entries=[ENTRIES[0].to_dict() | {"signals": ["length"] * 2}]),
            "2 signals for a calibrator of 1",
        ),
        (edited(fingerprint={}), "has no 'model'"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(CalibrationError) as error:
        Calibration.load(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"c\.json: cannot be read"):
        Calibration.load(tmp_path / "c.json")


def test_one_changed_byte_of_a_file_never_goes_unnoticed() -> None:
    raw = calibration().to_json()
    for at in range(len(raw)):
        other = "7" if raw[at] != "7" else "8"
        with pytest.raises(CalibrationError):
            Calibration.from_json(raw[:at] + other + raw[at + 1 :])
