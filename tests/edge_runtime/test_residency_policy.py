"""`[[endpoint]]`, `[[rule]]` and `edge-runtime policy`: read, checked, explained, tested on cases."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_runtime import config
from edge_runtime.cli import cli
from edge_runtime.errors import ConfigError
from edge_runtime.residency import residency_of

POLICY = """
[residency]
location = "DE"
labels = ["customer"]
purposes = ["support"]

[[endpoint]]
name = "home"
region = "eu-central"
jurisdiction = ["DE"]
operator = "me"
channel = "sealed"

[[endpoint]]
name = "big"
region = "us-east"
jurisdiction = ["US"]
operator = "bigco"
channel = "tls"

[[rule]]
name = "plain-questions"
effect = "permit"

[[rule]]
name = "health-in-the-eu"
effect = "permit"
labels = ["health", "customer"]
jurisdictions = ["EU"]

[[rule]]
name = "ask-about-health"
effect = "require"
labels = ["health"]
consent = true

[[rule]]
name = "forget-health"
effect = "require"
labels = ["health"]
no_cache = true
retain_h = 24

[[rule]]
name = "no-secrets"
effect = "forbid"
labels = ["secret"]
"""

CASES = """
[[case]]
name = "a plain question goes anywhere"
allow = ["home", "big"]
cache = true

[[case]]
name = "health is asked about"
labels = ["health"]
allow = []
consent_for = ["home"]
rules = ["ask-about-health"]
cache = false
retain_h = 24

[[case]]
name = "with consent it goes home"
labels = ["health.topic"]
consent = true
allow = ["home"]
redact = []
"""


def run(tmp_path: Path, *words: str, policy: str = POLICY) -> Result:
    file = tmp_path / "c.toml"
    file.write_text(policy, encoding="utf-8")
    return CliRunner().invoke(cli, ["--config", str(file), "policy", *words])


def run_cases(tmp_path: Path, text: str, *words: str) -> Result:
    (tmp_path / "cases.toml").write_text(text, encoding="utf-8")
    return run(tmp_path, "test", str(tmp_path / "cases.toml"), *words)


def test_without_rules_nothing_leaves_and_check_says_so() -> None:
    assert residency_of(config.defaults()).policy.rules == ()
    found = CliRunner().invoke(
        cli, ["policy", "check"], env={"HOME": "/nowhere", "XDG_CONFIG_HOME": "/nowhere"}
    )
    assert found.exit_code == 0
    assert "there is no [[endpoint]]: every query stays on the device" in found.output


def test_a_good_policy_has_no_warnings(tmp_path: Path) -> None:
    found = run(tmp_path, "check", "--strict")
    assert (found.exit_code, found.output) == (0, "endpoints: 2, rules: 5, warnings: 0\n")


def test_a_rule_that_never_matters_is_a_warning_and_with_strict_a_failure(tmp_path: Path) -> None:
    more = POLICY + '[[rule]]\nname = "asia"\neffect = "forbid"\nregions = ["ap-*"]\n'
    assert run(tmp_path, "check", policy=more).exit_code == 0
    found = run(tmp_path, "check", "--strict", "--json", policy=more)
    assert found.exit_code == 1
    [warning] = json.loads(found.output)["warnings"]
    assert (warning["kind"], warning["rule"]) == ("unreachable", "asia")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[[rule]]\nname='x'\nefect='permit'\n",
            "unknown key 'efect' in [[rule]] number 1. Did you mean effect?",
        ),
        ("[[rule]]\nname='x'\neffect='allow'\n", "effect in [[rule]] number 1 must be one of 'permit', "),
        ("[[rule]]\neffect='permit'\n", "rule number 1 has no name; every one needs it"),
        ("[[rule]]\nname='x'\n", "rule 'x' has no effect"),
        ("[[endpoint]]\nregion='x'\n", "endpoint number 1 has no name"),
        ("[rule]\nname='x'\n", "write each rule as a table of its own: [[rule]]"),
        (
            "[[rule]]\nname='x'\neffect='permit'\nlabels='pii'\n",
            "labels in [[rule]] number 1 must be a list of texts",
        ),
        ("[[rule]]\nname='x'\neffect='permit'\nlabels=['pi']\n", "unknown label 'pi'. Did you mean 'pii'?"),
        ("[residency]\nlocation='Germany'\n", "location under [residency] is 'Germany': it is a country"),
        ("effect = 'permit'\n", "put it under [[rule]]"),
    ],
)
def test_a_mistake_names_file_rule_and_key(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        residency_of(config.parse(text.encode(), Path("c.toml")))
    assert said in str(caught.value)
    assert str(caught.value).startswith("c.toml")


def test_a_broken_policy_ends_with_the_code_of_the_configuration(tmp_path: Path) -> None:
    found = run(tmp_path, "check", policy="[[rule]]\nname='x'\n")
    assert found.exit_code == 3
    assert "rule 'x' has no effect" in found.output


def test_explain_names_the_rule_for_every_endpoint(tmp_path: Path) -> None:
    found = run(tmp_path, "explain", "--label", "health", "--json")
    value = json.loads(found.output)
    assert value["location"] == "DE"
    assert (value["allowed"], value["consent_for"], value["cache"]) == ([], ["home"], False)
    assert value["retain_s"] == 24 * 3600
    assert [e["rule"] for e in value["endpoints"]] == ["ask-about-health", "default-deny"]
    told = run(tmp_path, "explain", "--label", "health", "--consent").output
    assert "home      may go   health-in-the-eu" in told
    assert "Cached: never. Kept: 24 hours (forget-health)." in told
    assert "stays on this device" in run(tmp_path, "explain", "--label", "secret.key").output


def test_explain_says_which_words_the_policy_does_not_know(tmp_path: Path) -> None:
    told = run(tmp_path, "explain", "--label", "helth", "--purpose", "suport").output
    assert "does not know the label 'helth'" in told
    assert "does not know the purpose 'suport'" in told
    assert "unknown-label" in told


def test_cases_that_hold_pass_and_one_that_does_not_is_told_apart(tmp_path: Path) -> None:
    good = run_cases(tmp_path, CASES)
    assert (good.exit_code, good.output) == (0, "cases: 3, failed: 0\n")
    bad = run_cases(tmp_path, CASES.replace('allow = ["home"]', 'allow = ["big"]'))
    assert bad.exit_code == 1
    assert "FAILED with consent it goes home: allow is ['home'], expected ['big']" in bad.output
    value = json.loads(run_cases(tmp_path, CASES.replace("retain_h = 24", "retain_h = 1"), "--json").output)
    assert value["cases"][1]["differences"] == ["retain_h is 24.0, expected 1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[case]]\nalow = []\n", "case number 1: unknown key 'alow'. Did you mean 'allow'?"),
        ("[[case]]\nlabels = []\n", "case number 1 expects nothing; give one of allow"),
        (
            "[[case]]\nallow = ['hom']\n",
            "allow has 'hom', which the policy does not have. Did you mean 'home'?",
        ),
        ("[[case]]\nallow = 'home'\n", "allow must be a list of texts, but it is 'home'"),
        ("[[case]]\nretain_h = true\n", "retain_h must be a number, but it is True"),
        ("[[case]]\npurpose = 'x'\nallow = []\n", "purpose has 'x', which the policy does not have"),
        ("[[cases]]\n", "must hold [[case]] tables alone, one or more, and has 'cases'"),
        ("", "must hold [[case]] tables alone, one or more"),
        ("[[case]\n", "is not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_of_cases_is_told(tmp_path: Path, text: str, said: str) -> None:
    found = run_cases(tmp_path, text)
    assert found.exit_code == 5
    assert said in found.output


def test_a_file_of_cases_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "nowhere.toml is not there" in run(tmp_path, "test", str(tmp_path / "nowhere.toml")).output


def test_the_documented_policy_and_cases_hold(tmp_path: Path, repository: Path) -> None:
    page = (repository / "docs" / "residency.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in page.split("```toml\n")[1:]]
    policy = "".join(block for block in blocks if "[[case]]" not in block)
    cases = "".join(block for block in blocks if "[[case]]" in block)
    (tmp_path / "cases.toml").write_text(cases, encoding="utf-8")
    assert run(tmp_path, "check", "--strict", policy=policy).output.endswith("warnings: 0\n")
    found = run(tmp_path, "test", str(tmp_path / "cases.toml"), policy=policy)
    assert (found.exit_code, found.output) == (0, f"cases: {cases.count('[[case]]')}, failed: 0\n")


def test_explain_searches_a_text_and_the_contacts_that_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("Anna Müller\n", encoding="utf-8")
    policy = POLICY.replace("[residency]", '[residency]\ndetectors = ["email"]\ncontacts = "people.txt"')
    text = "write anna müller at a@b.com, +49 30 1234567"
    value = json.loads(run(tmp_path, "explain", text, "--label", "customer", "--json", policy=policy).output)
    assert value["labels"] == ["customer", "pii.email", "pii.name"]
    assert [text[f["start"] : f["end"]] for f in value["findings"]] == ["anna müller", "a@b.com"]
    assert "Found in the text: pii.email, pii.name." in run(tmp_path, "explain", text, policy=policy).output
    assert json.loads(run(tmp_path, "check", "--json", policy=policy).output)["detectors"] == [
        "email",
        "name",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('detectors = ["mail"]', "there is no detector 'mail'; there are address, card, email"),
        ('contacts = "gone.txt"', "gone.txt cannot be read: No such file or directory"),
    ],
)
def test_a_detector_or_file_of_contacts_that_is_not_there_is_told(
    tmp_path: Path, line: str, said: str
) -> None:
    found = run(tmp_path, "check", policy=f"[residency]\n{line}\n")
    assert found.exit_code == 3
    assert said in found.output


def test_national_ids_that_cannot_be_searched_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdnum", "stdnum.es", "stdnum.es.dni"):
        monkeypatch.setitem(sys.modules, name, None)
    told = run(tmp_path, "check")
    assert told.exit_code == 0
    assert "note: the detector 'national_id' needs the Python package 'python-stdnum'" in told.output
    named = POLICY.replace("[residency]", '[residency]\ndetectors = ["national_id"]')
    assert run(tmp_path, "check", policy=named).exit_code == 3
