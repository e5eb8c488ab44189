"""An answer of a calibrated package has a probability; a calibration of another package is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support import make_package

from edge_runtime.calibration import find_calibration, fingerprint, user_file
from edge_runtime.cli.calibrate import asker_with_probes
from edge_runtime.cli.show import evidence_rows, status_line
from edge_runtime.evaluation.marked import asker
from edge_runtime.model import LoadedModel
from edge_runtime.probing import ModelProber
from edge_runtime.runtime import Runtime
from model_zoo import amend, open_package
from offload.calibration import FILE_NAME, Calibration, Entry, Fingerprint
from offload.calibrators import Platt
from offload.errors import CalibrationError
from offload.types import Answer, Confidence, Evidence, Token

ASKED = [{"role": "user", "content": "turn off"}]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return make_package(tmp_path / "tiny")


def calibration_of(package: Path, *, signal: str = "mean_logprob", intercept: float = 0.0) -> Calibration:
    entry = Entry("text", (signal,), Platt(1.0, intercept), 60, 30)
    return Calibration((entry,), fingerprint(open_package(package).manifest), "tiny", "2026-01-31T12:00:00Z")


def test_a_shipped_calibration_gives_answers_a_probability(package: Path) -> None:
    # A sampled stop is not needed: the grammar ends the text.
    shipped = calibration_of(package)
    amend(package, {}, {FILE_NAME: shipped.to_json()})
    with Runtime.open(package, threads=1) as runtime:
        confidence = runtime.answer("turn off", regex="[a-z]{3}").confidence
        cut = runtime.answer("turn off", max_tokens=3).confidence
    assert confidence is not None
    assert confidence.p_correct == pytest.approx(np.exp(confidence.raw), rel=1e-3)
    assert confidence.calibration_id == shipped.id
    assert cut is not None
    assert (cut.p_correct, cut.calibration_id) == (None, shipped.id)
    assert "not whole" in (cut.reason or "")


def test_the_users_own_calibration_wins(package: Path, tmp_path: Path) -> None:
    amend(package, {}, {FILE_NAME: calibration_of(package).to_json()})
    own = calibration_of(package, intercept=2.0)
    with LoadedModel.open(package, threads=1) as model:
        assert model.manifest_sha256 is not None
        own.save(user_file(model.manifest_sha256, tmp_path / "state"))
        assert find_calibration(model, tmp_path / "state") == own
        assert find_calibration(model, tmp_path / "elsewhere") == calibration_of(package)


def test_a_package_without_a_calibration_has_none(package: Path, tmp_path: Path) -> None:
    with LoadedModel.open(package, threads=1) as model:
        assert find_calibration(model, tmp_path) is None


def test_a_package_with_another_models_calibration_is_refused(package: Path) -> None:
    other = dataclasses.replace(
        calibration_of(package), fingerprint=Fingerprint("0" * 64, "0" * 64, "0" * 64)
    )
    amend(package, {}, {FILE_NAME: other.to_json()})
    with pytest.raises(CalibrationError, match="does not belong to this model") as error:
        Runtime.open(package, threads=1)
    assert "edge-runtime calibrate" in str(error.value)


def test_the_fingerprint_follows_what_computes_and_nothing_else(package: Path) -> None:
    def of(changes: dict[str, object], files: dict[str, bytes | str | Path]) -> Fingerprint:
        amend(package, changes, files)
        return fingerprint(open_package(package).manifest)

    first = of({}, {})
    assert of({"evaluation": {"x": 1}}, {FILE_NAME: "{}", "MODEL_CARD.md": "new", "LICENSE": "new"}) == first
    template = of({}, {"chat_template.jinja": "{{ messages[-1].content }}"})
    assert (template.model, template.quantization) == (first.model, first.quantization)
    assert template.template != first.template
    assert of({}, {"tokenizer.json": (package / "tokenizer.json").read_text() + " "}).model != first.model


def test_a_calibration_that_needs_a_probe_has_it_taken(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelProber, "sample", lambda *_, **__: "abc")
    with LoadedModel.open(package, threads=1) as model:
        runtime = Runtime(model, calibration=calibration_of(package, signal="agreement"))
        answer = runtime.answer("turn off", regex="abc")
    assert answer.evidence is not None
    assert answer.evidence.extra == {"agreement": 1.0}
    assert answer.confidence is not None
    assert answer.confidence.p_correct == pytest.approx(0.99)


def test_a_model_is_asked_again_by_sampling_and_by_choice(package: Path) -> None:
    with LoadedModel.open(package, threads=1) as model:
        prober = ModelProber(model, 5)
        drawn = [prober.sample(ASKED, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        chances = prober.choice(ASKED, ("True", "False"))
        assert sum(chances.values()) == pytest.approx(1)
        assert set(chances) == {"True", "False"}
        assert prober.choice(ASKED, ("True", "Tree")) == {}, "they begin with the same tokens"
        huge = [{"role": "user", "content": "on " * 400}]
        assert prober.sample(huge, temperature=0.0, seed=0) is None
        assert prober.choice(huge, ("True", "False")) == {}


def test_a_choice_is_the_models_own_distribution_over_the_first_tokens(package: Path) -> None:
    # This tokenizer begins " True" and " False" with the same token, the space, which tells nothing.
    with LoadedModel.open(package, threads=1) as model:
        chances = ModelProber(model, 5).choice(ASKED, ("True", "False"))
        sequence = model.engine.new_sequence()
        row = sequence.forward(model.prompt(ASKED), want_logits=True).logits
        assert row is not None
        weight = {
            option: np.exp(float(row[-1, model.tokenizer.encode(option)[0]])) for option in ("True", "False")
        }
        sequence.close()
    assert chances["True"] == pytest.approx(weight["True"] / sum(weight.values()))


def test_a_finished_answer_has_its_spans_and_checks(package: Path) -> None:
    with Runtime.open(package, threads=1) as runtime:
        stream = runtime.stream("set it to the b", regex='\\{"a":"[b-z]"\\}')
        running = next(stream).evidence
        answer = stream.finish()
    assert answer.evidence is not None
    assert (running.spans, running.extra) == ({}, {}), "while tokens arrive there is no answer to take apart"
    assert set(answer.evidence.spans) == {"answer", "slots", "keys"}
    # A value of one letter is grounded when a word of the prompt begins with it.
    begins = {word[0] for word in ("user", "set", "it", "to", "the", "b", "assistant")}
    assert answer.evidence.extra == {"grounded": float(answer.text[6] in begins)}


def test_an_asker_with_probes_takes_them(package: Path) -> None:
    with LoadedModel.open(package, threads=1) as model:
        text, evidence = asker_with_probes(model, ("second_prompt", "p_true"), 4)(ASKED)
        assert text == asker(model, 4)(ASKED)[0]
    assert evidence.extra["second_prompt"] in (0.0, 1.0)
    assert 0 < evidence.extra["p_true"] < 1


@pytest.mark.parametrize(
    ("confidence", "told"),
    [
        (Confidence(0.93, "mean_logprob", "id"), "P(correct) 0.93"),
        (Confidence(None, "mean_logprob", "id", -0.5, "the answer is not whole"), "-0.500 (no probability)"),
        (Confidence(None, "mean_logprob", None, -0.5, "no calibration"), "-0.500 (uncalibrated)"),
    ],
)
def test_the_status_line_says_how_sure_and_the_evidence_why_not(confidence: Confidence, told: str) -> None:
    evidence = Evidence.fold([Token(0, "x", logprob=-0.5)], "stop")
    evidence = dataclasses.replace(evidence, extra={"grounded": 0.5})
    answer = Answer("1", "x", "device", confidence=confidence, evidence=evidence)
    assert told in status_line(answer)
    shown = dict(evidence_rows(answer))
    assert shown["grounded"] == "0.50"
    assert shown.get("no probability because") == confidence.reason
