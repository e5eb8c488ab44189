"""From the facts about a query to a verdict, fast: rules and endpoints as bits of whole numbers.

What each condition means is in `rules.matches`; here it is asked once per value and remembered. Verdicts are
pure functions of policy and facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, TypeVar

from offload.policy import Target
from offload.residency.labels import touches
from offload.residency.rules import ABOUT_ENDPOINTS, Endpoint, Facts, Policy, Rule, matches

__all__ = ["Evaluator", "Ruling", "Verdict", "targets_allowed"]

Why = Literal["permit", "forbid", "default-deny", "unknown-label", "consent-needed", "consent-refused"]
K = TypeVar("K")

REMEMBERED = 4096
"""Values per condition that are remembered; others are judged afresh, so that no caller fills memory."""

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the policy says about one endpoint.

    Args:
        rule: the rule that decided: the first forbid of the file, else the require whose consent is missing,
            else the first permit.
        redact: the query's labels that must be replaced before it goes there.
        demanded_by: the `require` rules that apply.
    """

    endpoint: str
    allowed: bool
    rule: str
    why: Why
    redact: tuple[str, ...] = ()
    demanded_by: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """One sentence without its full stop."""
        if self.why == "permit":
            hidden = f", with {', '.join(self.redact)} replaced" if self.redact else ""
            return f"rule '{self.rule}' permits it{hidden}"
        return {
            "forbid": f"rule '{self.rule}' forbids it",
            "default-deny": "no rule permits it",
            "unknown-label": "the query has a label that the policy does not know",
            "consent-needed": f"rule '{self.rule}' asks for the user's consent first",
            "consent-refused": f"rule '{self.rule}' asks for the user's consent, which was refused",
        }[self.why]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a query may go, and how long it may be kept.

    Args:
        rulings: one per endpoint of the policy.
        cache: query and answer may be cached.
        retain_s: seconds that they may be kept on the device; `None`: no limit.
        kept_by: the rules that limit caching and keeping.
        policy_id: of the policy that was asked; who sends later asks again.
    """

    facts: Facts
    rulings: Mapping[str, Ruling]
    cache: bool
    retain_s: float | None
    kept_by: tuple[str, ...]
    policy_id: str

    @property
    def allowed(self) -> tuple[str, ...]:
        """The endpoints that may be asked now (after the redactions that their rulings name)."""
        return tuple(name for name, ruling in self.rulings.items() if ruling.allowed)

    @property
    def consent_for(self) -> tuple[str, ...]:
        """The endpoints that only the user's consent is missing for."""
        return tuple(name for name, ruling in self.rulings.items() if ruling.why == "consent-needed")

    @property
    def device_only(self) -> bool:
        """Whether the query stays here, whatever the user consents to."""
        return not self.allowed and not self.consent_for

    def ruling(self, endpoint: str) -> Ruling:
        """The ruling on an endpoint; one that the policy does not have is never allowed."""
        found = self.rulings.get(endpoint)
        return found or Ruling(endpoint, False, "unknown-endpoint", "default-deny")


def targets_allowed(
    verdict: Verdict, endpoints: Iterable[Target], *, can_redact: bool = False
) -> tuple[Target, ...]:
    """Write a verdict into the router's targets (`Target.allowed`, `Target.verdict`).

    Models on this device are left as they are. A target that the policy has no endpoint for is not allowed,
    nor is one whose redactions the caller cannot make.
    """
    return tuple(
        target if target.place == "device" else _judged(target, verdict.ruling(target.name), can_redact)
        for target in endpoints
    )


def _judged(target: Target, ruling: Ruling, can_redact: bool) -> Target:
    words = f"{ruling.rule}: {ruling.reason}"
    if ruling.allowed and ruling.redact and not can_redact:
        return replace(target, allowed=False, verdict=f"{words}, which cannot be done here")
    return replace(target, allowed=ruling.allowed, verdict=words)


class Evaluator:
    """A policy, ready for many queries. Threads may share it: what is remembered is only repeated."""

    def __init__(self, policy: Policy) -> None:
        rules = policy.rules
        self.policy = policy
        self._id = policy.id
        self._permits = _bits(rule.effect == "permit" for rule in rules)
        self._forbids = _bits(rule.effect == "forbid" for rule in rules)
        self._requires = _bits(rule.effect == "require" for rule in rules)
        self._unlabelled = _bits(matches(rule, "labels", frozenset()) for rule in rules)
        self._endpoints = [(e.name, _bits(_reaches(rule, e) for rule in rules)) for e in policy.endpoints]
        self._by_label: dict[str, int] = {}
        self._by_purpose: dict[str | None, int] = {}
        self._by_location: dict[str | None, int] = {}

    def verdict(self, facts: Facts) -> Verdict:
        """Judge a query. Total: every `Facts` has a verdict."""
        permits, others = self._permits, self._unlabelled & ~self._permits
        strange = False
        for label in facts.labels:
            # A permit must cover every label; one label is enough for the others.
            mask = _remembered(self._by_label, label, self._for_label)
            strange = strange or mask < 0
            permits &= mask
            others |= mask & ~self._permits
        purpose = facts.purpose if facts.purpose in self.policy.purposes else None
        alive = permits | others
        alive &= _remembered(self._by_purpose, purpose, self._for_purpose)
        alive &= _remembered(self._by_location, facts.location, self._for_location)
        rulings = {
            name: Ruling(name, False, "unknown-label", "unknown-label")
            if strange
            else self._rule_on(name, alive & reaching, facts)
            for name, reaching in self._endpoints
        }
        keeping = [rule for rule in self._named(alive & self._requires) if rule.no_cache or rule.retain_h]
        hours = [rule.retain_h for rule in keeping if rule.retain_h is not None]
        names = tuple(rule.name for rule in keeping)
        return Verdict(
            facts,
            MappingProxyType(rulings),
            not strange and not any(rule.no_cache for rule in keeping),
            min(hours) * HOUR if hours else None,
            ("unknown-label", *names) if strange else names,
            self._id,
        )

    def _rule_on(self, name: str, alive: int, facts: Facts) -> Ruling:
        forbids, permits = alive & self._forbids, alive & self._permits
        if forbids:
            return Ruling(name, False, self._first(forbids), "forbid")
        if not permits:
            return Ruling(name, False, "default-deny", "default-deny")
        demanding = [rule for rule in self._named(alive & self._requires) if rule.redact or rule.consent]
        names = tuple(rule.name for rule in demanding)
        for rule in demanding:
            if rule.consent and facts.consent is not True:
                why: Why = "consent-refused" if facts.consent is False else "consent-needed"
                return Ruling(name, False, rule.name, why, demanded_by=names)
        wanted = [label for rule in demanding for label in rule.redact]
        redact = sorted(label for label in facts.labels if any(touches(w, label) for w in wanted))
        return Ruling(name, True, self._first(permits), "permit", tuple(redact), names)

    def _first(self, mask: int) -> str:
        return self.policy.rules[(mask & -mask).bit_length() - 1].name

    def _named(self, mask: int) -> Iterator[Rule]:
        while mask:
            lowest = mask & -mask
            yield self.policy.rules[lowest.bit_length() - 1]
            mask ^= lowest

    def _for_label(self, label: str) -> int:
        if not self.policy.knows(label):
            return -1
        return _bits(matches(rule, "labels", frozenset({label})) for rule in self.policy.rules)

    def _for_purpose(self, purpose: str | None) -> int:
        known = self.policy.purposes
        return _bits(matches(rule, "purposes", purpose, known) for rule in self.policy.rules)

    def _for_location(self, location: str | None) -> int:
        return _bits(matches(rule, "locations", location) for rule in self.policy.rules)


def _reaches(rule: Rule, endpoint: Endpoint) -> bool:
    return all(matches(rule, key, endpoint) for key in ABOUT_ENDPOINTS)


def _bits(flags: Iterable[bool]) -> int:
    return sum(1 << place for place, flag in enumerate(flags) if flag)


def _remembered(memory: dict[K, int], value: K, judge: Callable[[K], int]) -> int:
    found = memory.get(value)
    if found is None:
        found = judge(value)
        if len(memory) < REMEMBERED:
            memory[value] = found
    return found
