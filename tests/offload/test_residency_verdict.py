"""Residency verdicts: what the language means, checked against a plain reading of it and against Cedar."""

import dataclasses
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import ResidencyError
from offload.policy import Policy as RouterPolicy
from offload.policy import State, Target
from offload.residency import Endpoint, Evaluator, Facts, Policy, Rule, targets_allowed
from offload.residency.rules import ABOUT_ENDPOINTS, matches
from offload.router import decide
from offload.types import Message, Query

EU = Endpoint("eu", "eu-central-1", ("DE",), "acme", "sealed")
US = Endpoint("us", "us-east-1", ("US",), "acme", "tls")
BOTH = Endpoint("frankfurt", "eu-central-2", ("DE", "US"), "globex", "tls")
BARE = Endpoint("bare")
ENDPOINTS = (EU, US, BOTH, BARE)

WORDS = ("health", "health.topic", "pii", "pii.email", "pii.phone", "work", "work.plans")
PURPOSES = ("support", "research")


def policy(*rules: Rule) -> Policy:
    return Policy(ENDPOINTS, rules, ("work",), PURPOSES)


def allowed(rules: list[Rule], *labels: str, **facts: object) -> tuple[str, ...]:
    return Evaluator(policy(*rules)).verdict(Facts(frozenset(labels), **facts)).allowed  # type: ignore[arg-type]


def read_plainly(p: Policy, facts: Facts, endpoint: Endpoint) -> bool:
    """The language as the documentation says it, one condition after the other."""

    def applies(rule: Rule) -> bool:
        return (
            matches(rule, "labels", facts.labels)
            and matches(rule, "purposes", facts.purpose, p.purposes)
            and matches(rule, "locations", facts.location)
            and all(matches(rule, key, endpoint) for key in ABOUT_ENDPOINTS)
        )

    hit = [rule for rule in p.rules if applies(rule)]
    return (
        all(map(p.knows, facts.labels))
        and any(rule.effect == "permit" for rule in hit)
        and not any(rule.effect == "forbid" for rule in hit)
        and (facts.consent is True or not any(rule.consent for rule in hit))
    )


def some(values: tuple[str, ...], most: int = 2, negated: bool = True) -> st.SearchStrategy[tuple[str, ...]]:
    shown = [*values, *(f"!{v}" for v in values)] if negated else list(values)
    return st.lists(st.sampled_from(shown), max_size=most, unique=True).map(tuple)


@st.composite
def rules(draw: st.DrawFn, name: str = "r") -> Rule:
    effect = draw(st.sampled_from(["permit", "permit", "forbid", "require"]))
    about = {
        "endpoints": draw(some(tuple(e.name for e in ENDPOINTS), 1)),
        "regions": draw(some(("eu-*", "us-east-1"), 1)),
        "jurisdictions": draw(some(("EU", "US", "DE"))),
        "operators": draw(some(("acme", "globex"), 1)),
        "channels": draw(some(("sealed", "tls"), 1)),
    }
    kept = draw(st.sampled_from([*about, "none"]))
    return Rule(
        name,
        effect,
        draw(some(("*", *WORDS), 3, negated=False)),
        draw(some(PURPOSES, 1)),
        draw(some(("EU", "CH"), 1)),
        **{key: value for key, value in about.items() if key == kept},
        consent=effect == "require",
    )


POLICIES = st.lists(rules(), max_size=6).map(
    lambda found: policy(*(dataclasses.replace(r, name=f"r{i}") for i, r in enumerate(found)))
)
FACTS = st.builds(
    Facts,
    st.frozensets(st.sampled_from([*WORDS, "strange"]), max_size=3),
    st.sampled_from([None, *PURPOSES, "undeclared"]),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, "DE", "CH", "nowhere"]),
)


def test_nothing_is_permitted_by_default() -> None:
    verdict = Evaluator(policy()).verdict(Facts())
    assert verdict.device_only
    assert {r.rule for r in verdict.rulings.values()} == {"default-deny"}
    assert verdict.ruling("eu").reason == "no rule permits it"


def test_a_permit_covers_the_labels_it_names_and_their_kinds_alone() -> None:
    rule = Rule("p", "permit", ("pii",), endpoints=("eu",))
    assert allowed([rule]) == allowed([rule], "pii.email", "pii") == ("eu",)
    assert allowed([rule], "pii.email", "work") == ()
    assert allowed([Rule("p", "permit", endpoints=("eu",))], "pii") == ()
    assert allowed([Rule("p", "permit", ("pii.email",), endpoints=("eu",))], "pii") == ()


def test_a_forbid_wins_and_is_named_also_for_a_label_that_may_be_of_its_kind() -> None:
    found = [Rule("p", "permit", ("*",), endpoints=("eu",)), Rule("f", "forbid", ("pii.email",))]
    for labels in ({"pii.email"}, {"pii"}, {"pii.email", "work"}):
        ruling = Evaluator(policy(*found)).verdict(Facts(frozenset(labels))).ruling("eu")
        assert (ruling.allowed, ruling.rule, ruling.reason) == (False, "f", "rule 'f' forbids it")
    assert allowed(found, "pii.phone") == ("eu",)


def test_every_law_over_an_endpoint_counts_and_what_is_not_stated_counts_against_it() -> None:
    assert allowed([Rule("p", "permit", jurisdictions=("EU",))]) == ("eu",)
    assert allowed([Rule("p", "permit", jurisdictions=("!US",))]) == ("eu",)
    assert allowed([Rule("p", "permit"), Rule("f", "forbid", jurisdictions=("US",))]) == ("eu",)
    assert allowed([Rule("p", "permit"), Rule("f", "forbid", jurisdictions=("!EU",))]) == ("eu",)
    assert allowed([Rule("p", "permit", regions=("eu-*",))]) == ("eu", "frankfurt")
    assert allowed([Rule("p", "permit", channels=("sealed",))]) == ("eu",)


def test_a_purpose_or_place_that_is_not_known_counts_against_leaving() -> None:
    permit = Rule("p", "permit", purposes=("support",), locations=("EU",), endpoints=("eu",))
    assert allowed([permit], purpose="support", location="DE") == ("eu",)
    for facts in ({"purpose": "support"}, {"location": "DE"}, {"purpose": "suport", "location": "DE"}):
        assert allowed([permit], **facts) == ()
    forbid = Rule("f", "forbid", locations=("CH",))
    everything = Rule("p", "permit", endpoints=("eu",))
    assert allowed([everything, forbid], location="DE") == ("eu",)
    assert allowed([everything, forbid], location="CH") == allowed([everything, forbid]) == ()


def test_consent_that_is_missing_is_asked_for_and_a_refusal_holds() -> None:
    found = policy(
        Rule("p", "permit", ("health",), endpoints=("eu",)), Rule("ask", "require", ("health",), consent=True)
    )
    verdicts = {
        c: Evaluator(found).verdict(Facts(frozenset({"health"}), consent=c)) for c in (None, True, False)
    }
    assert [v.allowed for v in verdicts.values()] == [(), ("eu",), ()]
    assert verdicts[None].consent_for == ("eu",)
    assert not verdicts[None].device_only
    assert verdicts[None].ruling("eu").reason == "rule 'ask' asks for the user's consent first"
    assert verdicts[False].device_only
    assert "refused" in verdicts[False].ruling("eu").reason


def test_redactions_and_limits_of_keeping_are_named_with_their_rules() -> None:
    found = policy(
        Rule("p", "permit", ("pii", "work"), endpoints=("eu",)),
        Rule("hide", "require", ("pii",), redact=("pii.email", "pii.phone")),
        Rule("short", "require", ("work",), retain_h=2),
        Rule("never", "require", ("pii",), no_cache=True, retain_h=48),
    )
    verdict = Evaluator(found).verdict(Facts(frozenset({"pii.email", "pii.name", "work"})))
    ruling = verdict.ruling("eu")
    assert ruling.redact == ("pii.email",)
    assert ruling.demanded_by == ("hide",)
    assert ruling.reason == "rule 'p' permits it, with pii.email replaced"
    assert (verdict.cache, verdict.retain_s, verdict.kept_by) == (False, 7200.0, ("short", "never"))
    assert Evaluator(found).verdict(Facts()).cache


def test_a_label_that_the_policy_does_not_know_keeps_a_query_here_and_out_of_the_cache() -> None:
    verdict = Evaluator(policy(Rule("p", "permit", ("*",)))).verdict(Facts(frozenset({"heath"})))
    assert verdict.device_only
    assert verdict.ruling("eu").rule == "unknown-label"
    assert (verdict.cache, verdict.kept_by) == (False, ("unknown-label",))


@settings(max_examples=150, deadline=None)
@given(POLICIES, FACTS)
def test_the_fast_evaluator_says_what_the_plain_reading_says(p: Policy, facts: Facts) -> None:
    verdict = Evaluator(p).verdict(facts)
    for endpoint in ENDPOINTS:
        ruling = verdict.ruling(endpoint.name)
        assert ruling.allowed == read_plainly(p, facts, endpoint)
        assert ruling.rule in {*(r.name for r in p.rules), "default-deny", "unknown-label"}
        assert ruling.reason


@settings(max_examples=150, deadline=None)
@given(POLICIES, FACTS, st.sampled_from([*WORDS, "strange"]))
def test_a_further_label_never_allows_more_nor_asks_for_less(p: Policy, facts: Facts, label: str) -> None:
    less = Evaluator(p).verdict(facts)
    more = Evaluator(p).verdict(dataclasses.replace(facts, labels=facts.labels | {label}))
    assert set(more.allowed) <= set(less.allowed)
    assert more.cache <= less.cache
    assert (more.retain_s or 1e99) <= (less.retain_s or 1e99)
    for name in more.allowed:
        assert set(less.ruling(name).redact) <= set(more.ruling(name).redact)


@settings(max_examples=60, deadline=None)
@given(POLICIES, FACTS, rules("extra"))
def test_a_further_forbid_or_require_never_allows_more_and_a_permit_never_less(
    p: Policy, facts: Facts, extra: Rule
) -> None:
    before = set(Evaluator(p).verdict(facts).allowed)
    after = set(Evaluator(dataclasses.replace(p, rules=(*p.rules, extra))).verdict(facts).allowed)
    assert before <= after if extra.effect == "permit" else after <= before


def test_another_policy_has_another_id() -> None:
    assert policy().id == policy().id != policy(Rule("p", "permit")).id


def test_a_flood_of_labels_does_not_fill_the_memory() -> None:
    evaluator = Evaluator(policy(Rule("p", "permit", ("work",), endpoints=("eu",))))
    for i in range(5000):
        assert evaluator.verdict(Facts(frozenset({f"work.n{i}"}))).allowed == ("eu",)
    assert len(evaluator._by_label) <= 4096


@settings(max_examples=100, deadline=None)
@given(POLICIES, FACTS, st.sampled_from(["auto", "device", "cloud"]), st.booleans())
def test_the_router_never_names_an_endpoint_that_the_verdict_does_not_allow(
    p: Policy, facts: Facts, preference: str, online: bool
) -> None:
    verdict = Evaluator(p).verdict(facts)
    targets = [Target(name, True, quality=0.9) for name in ("eu", "us", "frankfurt", "bare", "elsewhere")]
    state = State(
        RouterPolicy(),
        targets_allowed(verdict, targets),
        preference=preference,
        online=online,  # type: ignore[arg-type]
    )
    decision = decide(Query("q", (Message("user", "hi"),)), None, state)
    assert decision.endpoint is None or decision.endpoint in verdict.allowed


def test_the_adapter_leaves_device_models_alone_and_refuses_what_it_cannot_redact() -> None:
    found = policy(Rule("p", "permit", ("pii",), endpoints=("eu",)), Rule("hide", "require", redact=("pii",)))
    verdict = Evaluator(found).verdict(Facts(frozenset({"pii.email"})))
    targets = (Target("eu", False), Target("small", True, place="device"), Target("elsewhere", True))
    eu, small, elsewhere = targets_allowed(verdict, targets)
    assert not eu.allowed
    assert eu.verdict == "p: rule 'p' permits it, with pii.email replaced, which cannot be done here"
    assert small is targets[1]
    assert (elsewhere.allowed, elsewhere.verdict) == (False, "unknown-endpoint: no rule permits it")
    assert targets_allowed(verdict, targets, can_redact=True)[0].allowed


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule("", "permit"), "rule number 1 has no name"),
        (Rule("default-deny", "permit"), "that name belongs to a built-in rule"),
        (Rule("x", "allow"), "effect is 'allow', not one of permit, forbid, require"),  # type: ignore[arg-type]
        (Rule("x", "permit", ("helth",)), "unknown label 'helth'. Did you mean 'health'?"),
        (Rule("x", "permit", ("!pii",)), "labels cannot be excluded"),
        (Rule("x", "permit", purposes=("suport",)), "unknown 'suport'. Did you mean 'support'?"),
        (Rule("x", "permit", endpoints=("eu2",)), "unknown 'eu2'. Did you mean 'eu'?"),
        (Rule("x", "permit", channels=("seald",)), "Did you mean 'sealed'?"),
        (Rule("x", "permit", locations=("de",)), "no country (ISO 3166-1 alpha-2, such as DE)"),
        (Rule("x", "permit", jurisdictions=("eu",)), "Codes are written in capitals."),
        (Rule("x", "permit", consent=True), "consent is asked for by a rule with effect 'require'"),
        (Rule("x", "require"), "a 'require' needs one of redact"),
        (Rule("x", "require", retain_h=-1), "retain_h is -1"),
        (Rule("x", "require", endpoints=("eu",), no_cache=True), "cannot depend on endpoints"),
    ],
)
def test_a_mistake_in_a_rule_is_told_with_the_way_out(rule: Rule, said: str) -> None:
    with pytest.raises(ResidencyError) as caught:
        policy(rule)
    assert said in str(caught.value)


def test_names_are_given_once_and_endpoints_are_checked() -> None:
    with pytest.raises(ResidencyError, match="rule number 2: the name 'a' is taken"):
        policy(Rule("a", "permit"), Rule("a", "forbid"))
    with pytest.raises(ResidencyError, match="endpoint 'x': jurisdiction has 'UK'"):
        Policy((Endpoint("x", jurisdiction=("UK",)),))
    with pytest.raises(ResidencyError, match="labels has 'My Label'"):
        Policy(labels=("My Label",))


# --- Cedar -----------------------------------------------------------------------------------------------


def cedar_text(p: Policy) -> Iterator[str]:
    """The policy in Cedar's language, over sets of labels that are spelled out without our own matching."""

    def quoted(values: object) -> str:
        return "[" + ", ".join(f'"{v}"' for v in sorted(values)) + "]"  # type: ignore[call-overload]

    for rule in p.rules:
        if rule.effect == "require":
            continue
        permit = rule.effect == "permit"
        kinds = {w for w in WORDS for n in rule.labels if n == "*" or f"{w}.".startswith(f"{n}.")}
        parents = set() if permit else {w for w in WORDS for n in rule.labels if f"{n}.".startswith(f"{w}.")}
        parts = []
        if permit:
            parts.append(f"{quoted(kinds)}.containsAll(context.labels)")
        elif rule.labels:
            parts.append(f"{quoted(kinds | parents)}.containsAny(context.labels)")
        for key, attribute in (
            ("purposes", "context.purpose"),
            ("endpoints", "resource.name"),
            ("operators", "resource.operator"),
            ("channels", "resource.channel"),
        ):
            given = getattr(rule, key)
            wanted, barred = [v for v in given if v[0] != "!"], [v[1:] for v in given if v[0] == "!"]
            if not given:
                continue
            test = f"!({quoted(barred)}.contains({attribute}))"
            test += f" && {quoted(wanted)}.contains({attribute})" if wanted else ""
            unknown = f'{attribute} == "?"'
            parts.append(f"(!({unknown}) && {test})" if permit else f"({unknown} || ({test}))")
        yield f"{rule.effect}(principal, action, resource) when {{ {' && '.join(parts) or 'true'} }};"


def test_cedar_decides_random_policies_alike() -> None:
    cedarpy = pytest.importorskip("cedarpy", reason="the second opinion is Cedar's: pip install cedarpy")
    rng = random.Random(20)

    def pick(values: tuple[str, ...], chance: float) -> tuple[str, ...]:
        return tuple(
            ("!" if rng.random() < 0.3 else "") + rng.choice(values)
            for _ in range(2)
            if rng.random() < chance
        )

    said = []
    for _ in range(40):
        found = policy(
            *(
                Rule(
                    f"r{i}",
                    "permit" if rng.random() < 0.6 else "forbid",
                    tuple(rng.choice(("*", *WORDS)) for _ in range(rng.randrange(4))),
                    pick(PURPOSES, 0.2),
                    endpoints=pick(tuple(e.name for e in ENDPOINTS), 0.2),
                    operators=pick(("acme", "globex"), 0.2),
                    channels=pick(("sealed", "tls"), 0.2),
                )
                for i in range(rng.randrange(1, 7))
            )
        )
        evaluator, text = Evaluator(found), "\n".join(cedar_text(found))
        entities = [
            {
                "uid": {"type": "Endpoint", "id": e.name},
                "attrs": {"name": e.name, "operator": e.operator or "?", "channel": e.channel or "?"},
                "parents": [],
            }
            for e in ENDPOINTS
        ]
        asked, requests = [], []
        for _ in range(8):
            facts = Facts(frozenset(rng.sample(WORDS, rng.randrange(4))), rng.choice([None, *PURPOSES]))
            for e in ENDPOINTS:
                asked.append((facts, e.name))
                requests.append(
                    {
                        "principal": 'Device::"d"',
                        "action": 'Action::"send"',
                        "resource": f'Endpoint::"{e.name}"',
                        "context": {"labels": sorted(facts.labels), "purpose": facts.purpose or "?"},
                    }
                )
        answers = cedarpy.is_authorized_batch(requests, text, entities)
        for (facts, name), answer in zip(asked, answers, strict=True):
            assert not answer.diagnostics.errors, answer.diagnostics.errors
            ours = evaluator.verdict(facts).ruling(name).allowed
            assert ours == answer.allowed, (text, facts, name)
            said.append(ours)
    assert 0.05 < sum(said) / len(said) < 0.95  # both answers are well represented
