"""From configuration and labelled rows to a policy: what is said arrives, what cannot be is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge_runtime import config
from edge_runtime.calibration import fingerprint
from edge_runtime.cli import cli
from edge_runtime.errors import ConfigError
from edge_runtime.routing import Certified, confidence_of, read_certified, routing_of, write_certified
from model_zoo import open_package
from offload.budget import Limit
from offload.calibrate import Labelled
from offload.calibration import Calibration, Entry
from offload.calibrators import Platt
from offload.errors import GuaranteeError
from offload.guarantee import Certificate, selective
from offload.outcomes import Outcome, write_outcomes
from offload.policy import Policy
from offload.spans import decisive_spans
from offload.types import Evidence, Token

CERTIFICATE = Certificate("selective", 0.1, 0.1, 0.8, 500, 300, 20, 0.09)
FRAME = '{"intent":"alarm_set","slots":{}}'


def routing(text: str, folder: Path = Path()):  # type: ignore[no-untyped-def]
    return routing_of(config.parse(text.encode(), folder / "c.toml"))


def test_without_settings_the_policy_is_the_default() -> None:
    found = routing_of(config.defaults())
    assert found.policy == Policy()
    assert found.limits == ()
    assert (found.prefer, found.early_stop, found.context, found.context_turns) == ("auto", True, "auto", 4)


def test_what_the_file_says_arrives() -> None:
    found = routing(
        '[router]\nobjective = "quality"\naccuracy = 0.9\nlatency_weight = 0.02\notherwise = "refuse"\n'
        'prefer = "device"\nqueue = false\nmin_battery = 0.2\ncontext = "last"\ncontext_turns = 2\n'
        "[budget]\nescalated_share = 0.2\nescalated_window = 50\ncost = 0.5\ntraffic_mb = 3\n"
        "traffic_window_h = 1\nenergy_wh = 2\n"
    )
    assert found.policy == Policy(
        "quality", accuracy=0.9, latency_weight=0.02, otherwise="refuse", queue=False, min_battery=0.2
    )
    assert found.limits == (
        Limit("escalated_share", "queries", 0.2, 50),
        Limit("cost", "cost", 0.5, 86_400.0),
        Limit("traffic_mb", "bytes", 3e6, 3600.0),
        Limit("energy_wh", "joules", 7200.0, 86_400.0),
    )
    assert (found.prefer, found.context, found.context_turns) == ("device", "last", 2)


def test_a_certificate_is_found_beside_the_configuration(tmp_path: Path) -> None:
    write_certified(tmp_path / "safe.json", Certified(CERTIFICATE, "c1", "pocket", "0" * 64))
    found = routing('[router]\nobjective = "guarantee"\ncertificate = "safe.json"\n', tmp_path)
    assert found.policy == Policy("guarantee", certificate=CERTIFICATE, certified_calibration="c1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[router]\nobjective = "quality"\n', "c.toml: .* objective 'quality' needs accuracy"),
        ('[router]\nobjective = "guarantee"\n', "edge-runtime certify makes one"),
        ("[budget]\nescalated_share = 0.001\n", "Widen the window to 1000 queries"),
        ('[router]\ncertificate = "none.json"\n', "certificate .*none.json cannot be read: No such file"),
        ("[router]\nthreshold = 2\n", "threshold in .router. must be from 0 to 1"),
    ],
)
def test_settings_that_cannot_be_followed_name_the_file(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        routing(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not valid JSON"),
        ("[]", "'format' is None, this release reads 1"),
        ('{"format": 2}', "'format' is 2"),
        ('{"format": 1, "model": "m"}', "has no 'calibration'"),
        (
            '{"format": 1, "model": "m", "calibration": "c", "data_sha256": "", "certificate": {"n": 1}}',
            "field 'promise' is missing",
        ),
    ],
)
def test_a_damaged_certificate_is_refused_with_the_way_out(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(GuaranteeError, match=f"{said}.*Make one with: edge-runtime certify"):
        read_certified(path)


def evidence(logprob: float, text: str = FRAME) -> Evidence:
    tokens = [Token(i, c, logprob=logprob, entropy=-logprob, margin=1.0) for i, c in enumerate(text)]
    return Evidence.fold(tokens, "stop", decisive_spans(tokens))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder with a calibration of the shipped model; the fitted rows have the hash `f…`."""
    from edge_runtime.calibration import user_file

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    package = open_package("pocket")
    made = Calibration(
        (Entry("frame", ("mean_logprob",), Platt(1.0, 0.0), 60, 40),),
        fingerprint(package.manifest),
        "pocket",
        "2026-01-31T12:00:00Z",
        {"sha256": "f" * 64},
    )
    made.save(user_file(package.manifest_sha256))
    return tmp_path


def rows(path: Path, n: int = 400, strong: bool = True) -> Path:
    """Answers that are right with the probability that the calibration gives them."""
    rng = np.random.default_rng(1)
    made = []
    for p in rng.uniform(0.4, 0.999, n):
        made.append(
            Outcome(
                prompt="x",
                weak_correct=bool(rng.random() < p),
                strong_correct=True if strong else None,
                response=FRAME,
                evidence=evidence(math.log(p)),
            )
        )
    write_outcomes(path, made)
    return path


def certify(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["certify", *map(str, args)])


def test_certify_writes_what_the_router_reads(home: Path) -> None:
    data, out = rows(home / "rows.jsonl"), home / "certificate.json"
    result = certify("--data", data, "--alpha", "0.2", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert 0.4 < value["threshold"] < 0.9
    assert value["bound"] <= 0.2
    assert value["n"] == 400
    found = routing(f'[router]\nobjective = "guarantee"\ncertificate = "{out}"\n')
    assert found.policy.certificate is not None
    assert found.policy.certificate.threshold == value["threshold"]
    assert found.policy.certified_calibration == value["calibration"]


def test_certify_says_what_it_found_and_what_is_missing(home: Path) -> None:
    data = rows(home / "rows.jsonl")
    shown = certify("--data", data, "--alpha", "0.2")
    assert "at most 0.2 wrong of the kept answers, with confidence 0.9: keep from" in shown.output
    few = certify("--data", rows(home / "few.jsonl", 10), "--alpha", "0.05")
    assert few.exit_code == 0
    assert "nothing can be promised at 0.05 wrong of the kept answers" in few.output
    assert "are needed" in few.output
    everything = certify("--data", data, "--promise", "overall", "--alpha", "0.1", "--json")
    assert json.loads(everything.stdout)["promise"] == "overall"
    average = certify("--data", data, "--promise", "conformal", "--json")
    assert json.loads(average.stdout)["delta"] is None
    lone = certify("--data", rows(home / "lone.jsonl", strong=False), "--promise", "overall")
    assert lone.exit_code != 0
    assert "400 of 400 rows have no 'strong_correct'" in lone.output


def test_rows_that_the_calibration_has_seen_are_refused(home: Path) -> None:
    import hashlib

    from edge_runtime.calibration import user_file

    data = rows(home / "rows.jsonl", 30)
    package = open_package("pocket")
    path = user_file(package.manifest_sha256)
    old = Calibration.load(path)
    seen = {"sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    Calibration(old.entries, old.fingerprint, old.model_id, old.created, seen).save(path)
    result = certify("--data", data)
    assert result.exit_code != 0
    assert "calibrate on one part and certify on the other" in result.output


def test_the_command_line_answers_by_the_configured_policy(home: Path) -> None:
    file, strict = home / "c.toml", home / "certificate.json"
    nothing = Certificate("selective", 0.1, 0.1, None, 10, reason="10 rows, but at least 22 are needed")
    write_certified(strict, Certified(nothing, "c1", "pocket", "0" * 64))
    file.write_text(f'[router]\nobjective = "guarantee"\ncertificate = "{strict}"\n')
    result = CliRunner().invoke(cli, ["--config", str(file), "run", "turn on the lamp"])
    assert (result.exit_code, result.stdout) == (1, "\n")
    assert "refused: nothing can be promised" in result.stderr
    assert "at least 22 are needed" in result.stderr
    file.write_text("[router]\nthreshold = 0.0\n")
    kept = CliRunner().invoke(cli, ["--config", str(file), "run", "--json", "turn on the lamp"])
    answer = json.loads(kept.stdout)
    assert (answer["source"], answer["fallback"]) == ("device", False)
    assert answer["decision"]["rule"] == "threshold"
    assert answer["decision"]["numbers"]["p_correct"] == answer["confidence"]["p_correct"]
    file.write_text('[router]\nobjective = "quality"\n')
    wrong = CliRunner().invoke(cli, ["--config", str(file), "run", "turn on the lamp"])
    assert wrong.exit_code != 0
    assert f"{file}: [router] and [budget]: objective 'quality' needs accuracy" in wrong.output


def test_an_answer_of_a_kind_without_an_entry_has_no_confidence() -> None:
    calibration = Calibration(
        (Entry("frame", ("mean_logprob",), Platt(1.0, 0.0), 60, 40),),
        fingerprint(open_package("pocket").manifest),
        "m",
        "2026-01-31T12:00:00Z",
    )
    found = confidence_of(
        calibration,
        [
            Labelled(evidence(-0.1), True, "frame/alarm"),
            Labelled(evidence(-0.1), True, "text"),
            Labelled(Evidence(3, 0), True, "frame"),
        ],
    )
    assert found[0] == pytest.approx(math.exp(-0.1))
    assert [math.isnan(p) for p in found[1:]] == [True, True]
    assert selective(found * 40, [True] * 120, 0.2).kept == 40
