"""What is wrong with a policy that is valid: rules that can never matter.

Exact, not a guess, and cheap, because labels only ever take away (`rules`): at one endpoint, purpose and
place the forbids leave a largest set of labels, and a permit matters there if and only if it matters for
that set. Endpoints and purposes are finite; of countries only those that the rules tell apart are tried. A
require is only tried for whether it can apply at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from offload.residency.labels import DETECTED
from offload.residency.places import COUNTRIES
from offload.residency.rules import ABOUT_ENDPOINTS, Policy, Rule, matches

__all__ = ["PolicyWarning", "warnings_of"]

Kind = Literal["no-endpoints", "no-permit", "unreachable", "shadowed", "repeated", "any-label", "unmeasured"]
_UNDECLARED = "\0"
"""A purpose that the policy does not know."""


@dataclass(frozen=True, slots=True)
class PolicyWarning:
    """One thing to look at; `rule` is `None` when it is about the policy as a whole."""

    kind: Kind
    message: str
    rule: str | None = None


def warnings_of(policy: Policy, location: str | None = None) -> list[PolicyWarning]:
    """Look for rules that can never matter, and for what lets more go than it seems to.

    Args:
        location: where the device always is; `None`: anywhere.
    """
    if not policy.endpoints:
        return [PolicyWarning("no-endpoints", "there is no [[endpoint]]: every query stays on the device")]
    found = []
    if not any(rule.effect == "permit" for rule in policy.rules):
        found.append(PolicyWarning("no-permit", "no rule permits anything: every query stays on the device"))
    found += _incomplete(policy)
    spots = _Spots(policy, location)
    dropped = {w.rule for w in found}
    for rule in policy.rules:
        if not any(spots.of(rule)):
            message = f"rule '{rule.name}' can never apply: {_unmet(policy, rule, location)}"
            found.append(PolicyWarning("unreachable", message, rule.name))
            dropped.add(rule.name)
    # From the last on, so that of two equal rules the later one is named.
    later: list[PolicyWarning] = []
    for rule in reversed(policy.rules):
        if rule.name in dropped:
            continue
        others = [other for other in policy.rules if other is not rule and other.name not in dropped]
        warning = _idle(rule, others, spots)
        if warning is not None:
            later.append(warning)
            dropped.add(rule.name)
    found += reversed(later)
    found += [
        PolicyWarning(
            "any-label",
            f"rule '{rule.name}' permits every label, also ones that are declared later",
            rule.name,
        )
        for rule in policy.rules
        if rule.effect == "permit" and "*" in rule.labels
    ]
    return found


Spot = tuple[str, str, str]


class _Spots:
    """Where a rule's conditions other than labels hold: endpoint, purpose, and a country for its like."""

    def __init__(self, policy: Policy, location: str | None) -> None:
        self._policy = policy
        self._words = (*policy.labels, *DETECTED)
        self._purposes = (*policy.purposes, _UNDECLARED)
        places = [location] if location else [*sorted(COUNTRIES), _UNDECLARED]
        alike = {tuple(matches(r, "locations", p) for r in policy.rules): p for p in reversed(places)}
        self._places = tuple(alike.values())
        self._found = {rule.name: frozenset(self._find(rule)) for rule in policy.rules}

    def of(self, rule: Rule) -> frozenset[Spot]:
        return self._found[rule.name]

    def _find(self, rule: Rule) -> Iterator[Spot]:
        endpoints = [
            e.name for e in self._policy.endpoints if all(matches(rule, key, e) for key in ABOUT_ENDPOINTS)
        ]
        purposes = [p for p in self._purposes if matches(rule, "purposes", p, self._policy.purposes)]
        places = [p for p in self._places if matches(rule, "locations", p)]
        yield from ((e, p, c) for e in endpoints for p in purposes for c in places)

    def named(self, rule: Rule) -> frozenset[str]:
        """The labels, alone on a query, that the rule applies to."""
        words = {*self._words, *rule.labels} - {"*"}
        return frozenset(word for word in words if matches(rule, "labels", frozenset({word})))

    def always(self, rule: Rule) -> bool:
        """Whether an unlabelled query fulfils the condition on labels."""
        return matches(rule, "labels", frozenset())


def _idle(rule: Rule, others: list[Rule], spots: _Spots) -> PolicyWarning | None:
    forbids = [other for other in others if other.effect == "forbid"]
    if rule.effect == "permit":
        return _idle_permit(rule, [o for o in others if o.effect == "permit"], forbids, spots)
    if rule.effect == "require":
        return None
    by = _shadows(rule, forbids, spots)
    if by is None:
        return None
    return PolicyWarning("repeated", f"rule '{rule.name}' forbids only what {by} already", rule.name)


def _idle_permit(rule: Rule, permits: list[Rule], forbids: list[Rule], spots: _Spots) -> PolicyWarning | None:
    named, stopped, repeated = spots.named(rule), dict[str, None](), dict[str, None]()
    for spot in spots.of(rule):
        here = [f for f in forbids if spot in spots.of(f)]
        blanket = [f.name for f in here if spots.always(f)]
        if blanket:
            stopped[blanket[0]] = None
            continue
        left = named.difference(*(spots.named(f) for f in here))
        same = [p.name for p in permits if spot in spots.of(p) and left <= spots.named(p)]
        if not same:
            return None
        repeated[same[0]] = None
    if repeated:
        by = _list([*repeated, *stopped])
        return PolicyWarning("repeated", f"rule '{rule.name}' permits nothing beyond {by}", rule.name)
    return PolicyWarning(
        "shadowed", f"rule '{rule.name}' never permits anything: {_list(stopped)} forbids it", rule.name
    )


def _shadows(rule: Rule, forbids: list[Rule], spots: _Spots) -> str | None:
    """The forbids that leave `rule` nothing to forbid; `None` when it has something of its own."""
    named, by = spots.named(rule), dict[str, None]()
    for spot in spots.of(rule):
        here = [f for f in forbids if spot in spots.of(f)]
        blanket = [f for f in here if spots.always(f)]
        if blanket:
            by[blanket[0].name] = None
            continue
        left = set(named)
        for f in here:
            if left & spots.named(f):
                by[f.name] = None
                left -= spots.named(f)
        if left or spots.always(rule):
            return None
    return _list(by)


def _incomplete(policy: Policy) -> Iterator[PolicyWarning]:
    """Conditions on facts that an endpoint does not state: permits never fit it, and the others always do."""
    facts = {
        "regions": "region",
        "jurisdictions": "jurisdiction",
        "operators": "operator",
        "channels": "channel",
    }
    for key, fact in facts.items():
        asking = [rule.name for rule in policy.rules if getattr(rule, key)]
        for endpoint in policy.endpoints:
            if asking and not getattr(endpoint, fact):
                yield PolicyWarning(
                    "unmeasured",
                    f"endpoint '{endpoint.name}' states no {fact}, and {_list(asking)} asks for it: "
                    "what is not known counts against leaving",
                )


def _unmet(policy: Policy, rule: Rule, location: str | None) -> str:
    if location and not matches(rule, "locations", location):
        return f"the device is in {location}, and locations is {list(rule.locations)}"
    for key in ABOUT_ENDPOINTS:
        if not any(matches(rule, key, e) for e in policy.endpoints):
            return f"no endpoint fits {key} = {list(getattr(rule, key))}"
    if not any(all(matches(rule, key, e) for key in ABOUT_ENDPOINTS) for e in policy.endpoints):
        return "no endpoint fits all of its conditions"
    return f"no declared purpose fits purposes = {list(rule.purposes)}"


def _list(names: Iterable[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
