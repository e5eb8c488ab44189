"""From the configuration to a residency policy: `[[endpoint]]`, `[[rule]]`, `[residency]`; files of cases.

Knows: which keys stand for what, and how a mistake is told. Does not know: how a query is judged
(`offload.residency`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edge_runtime.config import Config
from edge_runtime.errors import ConfigError, DataError
from offload.residency import Endpoint, Facts, Policy, ResidencyError, Rule, Verdict
from offload.residency.detect import BUILT_IN, Detector, make_detectors
from offload.residency.detect.people import read_contacts
from offload.residency.places import countries_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Case", "Residency", "differences", "read_cases", "residency_of"]


@dataclass(frozen=True, slots=True)
class Residency:
    """What the configuration says about where queries may go; `location` is the device's country."""

    policy: Policy
    location: str | None = None
    detectors: tuple[Detector, ...] = ()
    without: str = ""
    """Why a detector that is on by default is missing; empty when none is."""


def residency_of(config: Config) -> Residency:
    """Read the policy.

    Raises:
        ConfigError: the policy contradicts itself; names file, rule and key.
    """
    where = "the defaults" if config.path is None else str(config.path)
    location = config.get("residency", "location")
    try:
        policy = Policy(
            tuple(_made(Endpoint, table, number) for number, table in _numbered(config, "endpoint")),
            tuple(_made(Rule, table, number) for number, table in _numbered(config, "rule")),
            tuple(config.get("residency", "labels")),
            tuple(config.get("residency", "purposes")),
        )
    except ResidencyError as error:
        raise ConfigError(f"{where}: {error}") from error
    if location is not None and not countries_of(location):
        raise ConfigError(
            f"{where}: location under [residency] is {location!r}: "
            "it is a country, such as DE (ISO 3166-1 alpha-2)"
        )
    try:
        detectors, without = _detectors(config)
    except ResidencyError as error:
        raise ConfigError(f"{where}: {error}") from error
    return Residency(policy, location, tuple(detectors), without)


def _detectors(config: Config) -> tuple[list[Detector], str]:
    """Those that the file names, else all that can be had; a missing one is told, never passed over."""
    named, contacts = config.get("residency", "detectors"), _contacts(config)
    if named is not None:
        return make_detectors(named, contacts), ""
    try:
        return make_detectors(contacts=contacts), ""
    except ResidencyError as error:
        return make_detectors([name for name in BUILT_IN if name != "national_id"], contacts), str(error)


def _contacts(config: Config) -> list[str]:
    named = config.get("residency", "contacts")
    if named is None:
        return []
    folder = Path() if config.path is None else config.path.parent
    path = folder / Path(named).expanduser()
    try:
        return read_contacts(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResidencyError(
            f"contacts under [residency]: {path} cannot be read: {error.strerror or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise ResidencyError(f"contacts under [residency]: {path} is not UTF-8 text") from error


def _numbered(config: Config, name: str) -> enumerate[Mapping[str, Any]]:
    return enumerate(config.tables.get(name, ()), 1)


def _made(kind: Any, table: Mapping[str, Any], number: int) -> Any:
    for field in fields(kind):
        if field.default is MISSING and field.name not in table:
            name = f"'{table['name']}'" if table.get("name") else f"number {number}"
            raise ResidencyError(f"{kind.__name__.lower()} {name} has no {field.name}; every one needs it")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


@dataclass(frozen=True, slots=True)
class Case:
    """A query and what the policy should say about it; what is `None` is not looked at.

    Args:
        allow: exactly these endpoints. consent_for: exactly these need consent. redact: exactly these labels,
            over all allowed endpoints. rules: these are named, by whatever endpoint.
    """

    name: str
    facts: Facts
    allow: tuple[str, ...] | None = None
    consent_for: tuple[str, ...] | None = None
    redact: tuple[str, ...] | None = None
    rules: tuple[str, ...] | None = None
    cache: bool | None = None
    retain_h: float | None = None


_FACTS: Mapping[str, type] = {"labels": list, "purpose": str, "consent": bool, "location": str}
_EXPECTED: Mapping[str, type] = {
    "allow": list,
    "consent_for": list,
    "redact": list,
    "rules": list,
    "cache": bool,
    "retain_h": float,
}


def read_cases(path: Path, residency: Residency) -> list[Case]:
    """Read a TOML file of `[[case]]` tables.

    A case without a `location` is on the device of the configuration.

    Raises:
        DataError: names the file, the case and the key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is not valid TOML: {error}") from error
    tables = document.pop("case", [])
    if document or not isinstance(tables, list) or not tables:
        other = f", and has '{next(iter(document))}'" if document else ""
        raise DataError(f"{path} must hold [[case]] tables alone, one or more{other}")
    return [_case(table, f"{path}: case number {n}", residency) for n, table in enumerate(tables, 1)]


def _case(table: object, where: str, residency: Residency) -> Case:
    if not isinstance(table, dict):
        raise DataError(f"{where} is not a table; write each as [[case]]")
    types = {"name": str, **_FACTS, **_EXPECTED}
    for key, value in table.items():
        if key not in types:
            near = get_close_matches(key, types, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(types)}."
            raise DataError(f"{where}: unknown key '{key}'. {hint}")
        wanted: Any = (int, float) if types[key] is float else types[key]
        texts = not isinstance(value, list) or all(isinstance(item, str) for item in value)
        if not isinstance(value, wanted) or not texts or (isinstance(value, bool) and types[key] is not bool):
            kind = {list: "a list of texts", str: "a text", bool: "true or false", float: "a number"}
            raise DataError(f"{where}: {key} must be {kind[types[key]]}, but it is {value!r}")
    if not any(key in table for key in _EXPECTED):
        raise DataError(f"{where} expects nothing; give one of {', '.join(_EXPECTED)}")
    policy = residency.policy
    names = [e.name for e in policy.endpoints]
    for key in ("allow", "consent_for"):
        _known(where, key, table.get(key, ()), names)
    _known(
        where,
        "rules",
        table.get("rules", ()),
        [*(r.name for r in policy.rules), "default-deny", "unknown-label"],
    )
    _known(where, "purpose", [table["purpose"]] if "purpose" in table else (), list(policy.purposes))
    facts = Facts(
        frozenset(table.get("labels", ())),
        table.get("purpose"),
        table.get("consent"),
        table.get("location", residency.location),
    )
    expected: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in table.items() if key in _EXPECTED
    }
    return Case(table.get("name") or where.rpartition(": ")[2], facts, **expected)


def _known(where: str, key: str, values: Any, known: list[str]) -> None:
    for value in values:
        if value not in known:
            near = get_close_matches(value, known, n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known) or 'none'}."
            raise DataError(f"{where}: {key} has '{value}', which the policy does not have. {hint}")


def differences(case: Case, verdict: Verdict) -> list[str]:
    """What the verdict says otherwise than the case expects, one sentence each; empty when it passes."""
    named = {ruling.rule for ruling in verdict.rulings.values()} | set(verdict.kept_by)
    named.update(name for ruling in verdict.rulings.values() for name in ruling.demanded_by)
    redact = {label for name in verdict.allowed for label in verdict.ruling(name).redact}
    found = []
    for key, expected, actual in (
        ("allow", case.allow, verdict.allowed),
        ("consent_for", case.consent_for, verdict.consent_for),
        ("redact", case.redact, redact),
    ):
        if expected is not None and set(expected) != set(actual):
            found.append(f"{key} is {sorted(actual)}, expected {sorted(expected)}")
    if case.rules is not None and not set(case.rules) <= named:
        found.append(f"rules named are {sorted(named)}, expected {sorted(case.rules)} among them")
    if case.cache is not None and case.cache != verdict.cache:
        found.append(f"cache is {verdict.cache}, expected {case.cache}")
    hours = None if verdict.retain_s is None else verdict.retain_s / 3600
    if case.retain_h is not None and case.retain_h != hours:
        found.append(f"retain_h is {hours}, expected {case.retain_h:g}")
    return found
