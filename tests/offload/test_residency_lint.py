"""Warnings about rules that can never matter: exact, checked by trying every query."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from offload.residency import Endpoint, Evaluator, Facts, Policy, Rule, warnings_of

EU = Endpoint("eu", "eu-1", ("DE",), "acme", "sealed")
US = Endpoint("us", "us-1", ("US",), "acme", "tls")
LABELS = ("a", "a.b", "c")


def policy(*rules: Rule) -> Policy:
    return Policy((EU, US), rules, LABELS, ("support",))


def told(*rules: Rule, location: str | None = None) -> list[tuple[str, str | None]]:
    return [(w.kind, w.rule) for w in warnings_of(policy(*rules), location)]


def test_a_policy_that_permits_nothing_is_told() -> None:
    assert [w.kind for w in warnings_of(Policy())] == ["no-endpoints"]
    assert told(Rule("f", "forbid")) == [("no-permit", None)]


def test_a_permit_under_a_forbid_is_shadowed_also_under_two_that_do_it_together() -> None:
    permit = Rule("p", "permit")
    found = warnings_of(policy(permit, Rule("no", "forbid")))
    assert [w.message for w in found] == ["rule 'p' never permits anything: 'no' forbids it"]
    halves = (Rule("f1", "forbid", endpoints=("eu",)), Rule("f2", "forbid", endpoints=("us",)))
    assert told(permit, *halves) == [("shadowed", "p")]
    assert told(permit, halves[0]) == []


def test_the_later_of_two_equal_rules_is_named() -> None:
    assert told(Rule("p1", "permit"), Rule("p2", "permit")) == [("repeated", "p2")]
    assert told(
        Rule("p", "permit", ("a", "c")), Rule("f1", "forbid", ("a",)), Rule("f2", "forbid", ("a",))
    ) == [("repeated", "f2")]


def test_a_rule_whose_conditions_no_endpoint_fulfils_is_unreachable_and_says_which() -> None:
    found = warnings_of(policy(Rule("p", "permit"), Rule("x", "forbid", regions=("ap-*",))))
    assert found[0].message == "rule 'x' can never apply: no endpoint fits regions = ['ap-*']"
    found = warnings_of(policy(Rule("p", "permit", locations=("US",)), Rule("q", "permit")), "DE")
    assert found[0].message == "rule 'p' can never apply: the device is in DE, and locations is ['US']"


def test_a_fact_that_a_rule_asks_for_and_an_endpoint_does_not_state_is_told() -> None:
    found = warnings_of(Policy((EU, Endpoint("new")), (Rule("p", "permit", regions=("eu-*",)),)))
    assert [w.kind for w in found] == ["unmeasured"]
    assert "endpoint 'new' states no region, and 'p' asks for it" in found[0].message


def test_a_permit_of_every_label_is_told() -> None:
    assert told(Rule("p", "permit", ("*",))) == [("any-label", "p")]


RULES = st.builds(
    Rule,
    st.just("r"),
    st.sampled_from(["permit", "forbid"]),
    st.lists(st.sampled_from(LABELS), max_size=2, unique=True).map(tuple),
    st.sampled_from([(), ("support",), ("!support",)]),
    endpoints=st.sampled_from([(), ("eu",), ("!eu",)]),
)


def verdicts(p: Policy) -> list[tuple[str, ...]]:
    queries = itertools.product(
        [frozenset(s) for n in range(4) for s in itertools.combinations(LABELS, n)], (None, "support")
    )
    evaluator = Evaluator(p)
    return [evaluator.verdict(Facts(labels, purpose)).allowed for labels, purpose in queries]


@settings(max_examples=120, deadline=None)
@given(st.lists(RULES, min_size=1, max_size=5))
def test_rules_that_are_warned_about_change_no_verdict_and_permits_that_are_not_change_one(
    found: list[Rule],
) -> None:
    named = tuple(
        Rule(f"r{i}", r.effect, r.labels, r.purposes, endpoints=r.endpoints) for i, r in enumerate(found)
    )
    p = policy(*named)
    idle = {w.rule for w in warnings_of(p) if w.kind in ("shadowed", "repeated", "unreachable")}
    kept = tuple(r for r in named if r.name not in idle)
    assert verdicts(policy(*kept)) == verdicts(p)
    for rule in kept:
        if rule.effect == "permit":
            assert verdicts(policy(*(r for r in kept if r is not rule))) != verdicts(p)
