"""The rule language: endpoints, rules, and what makes a policy of them valid.

Three effects. A `permit` lets queries go, a `forbid` keeps them, a `require` asks for something on the way.
Nothing goes without a permit, and a forbid wins over every permit. Each condition of a rule must hold; a
condition that is not given holds always, except that a permit without labels covers unlabelled queries alone.

The same two principles decide every condition, and make the language safe by construction:

- **All for a permit, some for the others.** A permit must cover *all* of the query's labels and *all*
  countries whose law the endpoint is under; a forbid or a require applies if it names *some* of them. So a
  further label can only take away.
- **What is not known counts against leaving.** A purpose, place or fact about an endpoint that is not known
  fails the condition of a permit, and fulfils that of a forbid or a require.

Knows: data, and what contradicts itself. Does not know: how a query is judged fast (`evaluate`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from offload.errors import ResidencyError
from offload.residency.labels import ANY, DETECTED, covers, is_known, is_label, touches
from offload.residency.places import COUNTRIES, GROUPS, countries_of

__all__ = [
    "ABOUT_ENDPOINTS",
    "RESERVED",
    "Channel",
    "Effect",
    "Endpoint",
    "Facts",
    "Policy",
    "Rule",
    "matches",
]

Effect = Literal["permit", "forbid", "require"]
Channel = Literal["sealed", "tls", "plain"]

RESERVED = ("default-deny", "unknown-label", "unknown-endpoint")
"""Names of the rules that are always there."""

NOT = "!"
ABOUT_ENDPOINTS = ("endpoints", "regions", "jurisdictions", "operators", "channels")
"""Keys of a rule that are conditions on the endpoint."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Somebody to whom a query could go. What is not given is not known, and counts against it.

    Args:
        region: where it computes, in its operator's own words (`eu-central-1`).
        jurisdiction: every country whose law can reach the data there (ISO 3166-1 alpha-2, `EU`, `EEA`); for
            a foreign owner, the owner's too.
        operator: who runs it.
        channel: `sealed`: encrypted to a key of the region; `tls`: to whoever holds the certificate; `plain`.
    """

    name: str
    region: str | None = None
    jurisdiction: tuple[str, ...] = ()
    operator: str | None = None
    channel: Channel | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Lists hold alternatives; `!x` in a list excludes x (labels have no `!`).

    Args:
        labels: see the module's text; `*` is every label.
        purposes, locations: of the query's purpose, and of the device (countries, `EU`, `EEA`).
        endpoints, regions, jurisdictions, operators, channels: of the endpoint; a region may end in `*`.
        redact: labels to be replaced before a query leaves (`require`).
        consent: the user must have agreed (`require`).
        no_cache: neither query nor answer is cached (`require`).
        retain_h: hours that they may be kept on the device, in the queue too (`require`).
    """

    name: str
    effect: Effect
    labels: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    jurisdictions: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    consent: bool = False
    no_cache: bool = False
    retain_h: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a verdict depends on beside the policy. `None`: not known (`consent`: not asked)."""

    labels: frozenset[str] = frozenset()
    purpose: str | None = None
    consent: bool | None = None
    location: str | None = None


@dataclass(frozen=True)
class Policy:
    """Endpoints, rules in the order of the file, and the words that rules and queries may use.

    Args:
        labels: declared by the user, beside `offload.residency.labels.DETECTED`.
        purposes: declared by the user; a query's purpose that is not among them counts as not known.
    """

    endpoints: tuple[Endpoint, ...] = ()
    rules: tuple[Rule, ...] = ()
    labels: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ResidencyError: names the rule or endpoint, the key, the value and the way out.
        """
        for label in self.labels:
            if not is_label(label):
                raise ResidencyError(
                    f"labels has {label!r}: a label is lower-case words, digits, _ and -, joined by dots"
                )
        _unique("endpoint", [endpoint.name for endpoint in self.endpoints])
        _unique("rule", [rule.name for rule in self.rules])
        for endpoint in self.endpoints:
            _check_endpoint(endpoint)
        for rule in self.rules:
            self._check_rule(rule)

    @property
    def id(self) -> str:
        """SHA-256 of everything that a verdict depends on, in hexadecimal digits."""
        text = json.dumps(asdict(self), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def knows(self, label: str) -> bool:
        """Whether a label is declared or detected, or a parent or kind of such a one."""
        return is_label(label) and is_known(label, self.labels)

    def _check_rule(self, rule: Rule) -> None:
        where = f"rule '{rule.name}'"
        if rule.name in RESERVED:
            raise ResidencyError(f"{where}: that name belongs to a built-in rule; choose another one")
        if rule.effect not in get_args(Effect):
            raise ResidencyError(
                f"{where}: effect is {rule.effect!r}, not one of {', '.join(get_args(Effect))}"
            )
        self._check_labels(where, "labels", rule.labels)
        self._check_labels(where, "redact", rule.redact)
        _check_words(where, "purposes", rule.purposes, self.purposes, "declare it: purposes = [...]")
        names = [endpoint.name for endpoint in self.endpoints]
        _check_words(where, "endpoints", rule.endpoints, names, "it needs an [[endpoint]] of that name")
        _check_words(where, "channels", rule.channels, get_args(Channel), "choose one of these")
        for key in ("locations", "jurisdictions"):
            _check_places(where, key, getattr(rule, key))
        _check_demands(where, rule)

    def _check_labels(self, where: str, key: str, labels: Iterable[str]) -> None:
        for label in labels:
            if label.startswith(NOT):
                raise ResidencyError(
                    f"{where}: {key} has {label!r}, and labels cannot be excluded: a permit covers only the "
                    "labels that it names, and a forbid adds to them"
                )
            if label == ANY or self.knows(label):
                continue
            known = [*self.labels, *DETECTED, *{name.partition(".")[0] for name in DETECTED}]
            raise ResidencyError(
                f"{where}: {key} has the unknown label {label!r}.{_near(label, known)} "
                f"Declare one of your own under [residency]: labels = [{json.dumps(label)}]"
            )


def matches(rule: Rule, key: str, value: object, purposes: Collection[str] = ()) -> bool:
    """Whether one condition of a rule holds; the meaning of the language, key by key.

    Args:
        key: `labels` (value: the set of labels), `purposes`, `locations`, or a key about endpoints
            (value: the `Endpoint`).
        purposes: the declared ones, for the key `purposes`.
    """
    permit = rule.effect == "permit"
    if key == "labels":
        assert isinstance(value, frozenset)
        if permit:
            return all(any(covers(named, label) for named in rule.labels) for label in value)
        return not rule.labels or any(touches(named, label) for named in rule.labels for label in value)
    patterns: Sequence[str] = getattr(rule, key)
    if not patterns:
        return True
    if key == "purposes":
        known = isinstance(value, str) and value in purposes
        return _accepts(patterns, str(value)) if known else not permit
    if key == "locations":
        return _lies_in(patterns, () if value is None else (str(value),), permit)
    assert isinstance(value, Endpoint)
    if key == "jurisdictions":
        return _lies_in(patterns, value.jurisdiction, permit)
    fact = getattr(value, {"endpoints": "name"}.get(key, key[:-1]))
    return _accepts(patterns, fact) if fact is not None else not permit


def _accepts(patterns: Sequence[str], value: str) -> bool:
    def fits(pattern: str) -> bool:
        return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern

    wanted = [p for p in patterns if not p.startswith(NOT)]
    return (not wanted or any(map(fits, wanted))) and not any(
        fits(p[1:]) for p in patterns if p.startswith(NOT)
    )


def _lies_in(patterns: Sequence[str], codes: Sequence[str], permit: bool) -> bool:
    """All countries for a permit, some for the others; no or unknown countries count against leaving."""
    groups = [countries_of(code) for code in codes]
    if not groups or not all(groups):
        return not permit
    wanted = [countries_of(p) for p in patterns if not p.startswith(NOT)]
    barred = frozenset[str]().union(*(countries_of(p[1:]) for p in patterns if p.startswith(NOT)))
    inside = (COUNTRIES if not wanted else frozenset[str]().union(*wanted)) - barred
    found = frozenset[str]().union(*groups)
    return found <= inside if permit else bool(found & inside)


def _check_endpoint(endpoint: Endpoint) -> None:
    where = f"endpoint '{endpoint.name}'"
    if endpoint.channel is not None and endpoint.channel not in get_args(Channel):
        raise ResidencyError(
            f"{where}: channel is {endpoint.channel!r}, not one of {', '.join(get_args(Channel))}"
        )
    _check_places(where, "jurisdiction", endpoint.jurisdiction)


def _check_demands(where: str, rule: Rule) -> None:
    demands = [key for key in ("redact", "consent", "no_cache", "retain_h") if getattr(rule, key)]
    if rule.effect != "require":
        if demands:
            raise ResidencyError(
                f"{where}: {demands[0]} is asked for by a rule with effect 'require'; "
                "write it into one of its own"
            )
        return
    if not demands:
        raise ResidencyError(
            f"{where}: a 'require' needs one of redact, consent = true, no_cache = true, retain_h"
        )
    if rule.retain_h is not None and not 0 < rule.retain_h < float("inf"):
        raise ResidencyError(f"{where}: retain_h is {rule.retain_h!r}: it is a number of hours above 0")
    about = [key for key in ABOUT_ENDPOINTS if getattr(rule, key)]
    if about and (rule.no_cache or rule.retain_h):
        raise ResidencyError(
            f"{where}: no_cache and retain_h are about this device and cannot depend on {about[0]}; "
            "write them into a rule of their own"
        )


def _check_places(where: str, key: str, values: Iterable[str]) -> None:
    for value in values:
        bare = value.removeprefix(NOT) if key != "jurisdiction" else value
        if not countries_of(bare):
            upper = " Codes are written in capitals." if countries_of(bare.upper()) else ""
            raise ResidencyError(
                f"{where}: {key} has {value!r}, which is no country (ISO 3166-1 alpha-2, such as DE) and "
                f"none of {', '.join(GROUPS)}.{upper}"
            )


def _check_words(where: str, key: str, values: Iterable[str], known: Collection[str], way: str) -> None:
    for value in values:
        if value.removeprefix(NOT) not in known:
            near = _near(value.removeprefix(NOT), known)
            raise ResidencyError(f"{where}: {key} has the unknown {value!r}.{near} ({way})")


def _unique(kind: str, names: Sequence[str]) -> None:
    for number, name in enumerate(names, 1):
        if not name:
            raise ResidencyError(f"{kind} number {number} has no name; a verdict names what it comes from")
        if name in names[: number - 1]:
            raise ResidencyError(f"{kind} number {number}: the name '{name}' is taken; each needs its own")


def _near(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(known)}." if known else " None is declared."
