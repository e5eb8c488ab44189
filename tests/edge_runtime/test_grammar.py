"""Structured output: whatever the model wants to say, the text follows the grammar."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CORPUS, ScriptedEngine, byte_tokenizer, hashed_row

from edge_runtime.errors import GrammarError
from edge_runtime.generate import Completion, generate
from edge_runtime.grammar import Grammar, GrammarCompiler
from edge_runtime.sampling import SamplingParams
from edge_runtime.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_tokenizer().to_str(), eos_ids=(0,), bos_id=1, pad_id=2, vocab_size=384)
COMPILER = GrammarCompiler(TOKENIZER)
SLOTS = {
    "type": "object",
    "properties": {
        "area": {"type": "string", "maxLength": 8},
        "brightness": {"type": "integer", "minimum": 0, "maximum": 100},
    },
    "required": ["area"],
    "additionalProperties": False,
}
INTENTS = ["HassLightSet", "HassTurnOff", "HassTurnOn"]
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": INTENTS}, "slots": SLOTS},
    "required": ["intent", "slots"],
    "additionalProperties": False,
}


def say(grammar: Grammar, start: int = 0, **params: object) -> Completion:
    """What an engine with random opinions says under the grammar."""
    engine = ScriptedEngine(hashed_row(384, 3), 384, context_length=400)
    return generate(
        engine, TOKENIZER, [1, 40 + start], SamplingParams(**params), constraint=COMPILER.compile(grammar)  # type: ignore[arg-type]
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 200), temperature=st.sampled_from([0.0, 1.5]))
def test_text_under_a_schema_is_compact_json_that_fits_it(seed: int, temperature: float) -> None:
    done = say(Grammar.json_schema(SCHEMA), seed, temperature=temperature, seed=seed)
    frame = json.loads(done.text)
    assert done.text == json.dumps(frame, separators=(",", ":"), ensure_ascii=False) or "\\" in done.text
    assert frame["intent"] in INTENTS
    assert set(frame["slots"]) <= {"area", "brightness"}
    assert 0 <= frame["slots"].get("brightness", 0) <= 100
    assert done.finish_reason == "stop"


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 200))
def test_text_under_a_regex_matches_it(seed: int) -> None:
    done = say(Grammar.regex(r"[a-f]{3}-[0-9]{1,3}"), seed)
    assert re.fullmatch(r"[a-f]{3}-[0-9]{1,3}", done.text)


def test_text_under_a_lark_grammar_follows_it() -> None:
    done = say(Grammar.lark('start: ("on" | "off") " " NUMBER\nNUMBER: /[0-9]{2}/'))
    assert re.fullmatch(r"(on|off) [0-9]{2}", done.text)


def test_forced_text_is_spelled_as_the_tokenizer_spells_it() -> None:
    for text in (CORPUS[0], CORPUS[1], '{"a":"naïve café 東京"}'):
        done = say(Grammar.json_schema({"const": json.loads(text)}))
        assert done.text == text
        assert [token.id for token in done.tokens] == TOKENIZER.encode(text)
        assert all(token.forced for token in done.tokens)


def test_what_a_grammar_settles_costs_no_forward_pass() -> None:
    done = say(Grammar.json_schema({"const": {"intent": "HassTurnOff"}}))
    assert done.usage["forward_passes"] == 0
    assert done.evidence.n_scored == 0
    assert done.evidence.mean_logprob is None


def test_evidence_is_of_the_raw_distribution_and_not_of_the_allowed_part() -> None:
    done = say(Grammar.regex("[0-9]"))
    (token, *_) = [token for token in done.tokens if not token.forced]
    assert token.logprob is not None
    assert token.logprob < -1.0  # ten digits of 384 tokens: the masked share would be near 1/10 at the least
    assert token.entropy is not None
    assert token.entropy > 1.5


def test_a_grammar_that_was_used_before_starts_afresh() -> None:
    compiler = GrammarCompiler(TOKENIZER)
    for _ in range(3):
        constraint = compiler.compile(Grammar.regex("ab|c"))
        assert not constraint.finished
        constraint.consume(TOKENIZER.encode("c")[0])
        assert constraint.finished
    for i in range(40):
        compiler.compile(Grammar.regex(f"x{i}"))
    assert len(compiler._compiled) == 16


def test_the_end_is_chosen_where_the_grammar_allows_more() -> None:
    done = say(Grammar.regex("[0-9]+"), max_tokens=100)
    assert re.fullmatch("[0-9]+", done.text)


def test_whitespace_is_allowed_when_asked_for() -> None:
    grammar = Grammar.json_schema({"const": [1, 2]}, compact=False)
    constraint = COMPILER.compile(grammar)
    assert TOKENIZER.decode(constraint.forced()) == "["
    assert TOKENIZER.id_of("Ġ") in constraint.mask()
    compact = COMPILER.compile(Grammar.json_schema({"const": [1, 2]}))
    assert TOKENIZER.decode(compact.forced()) == "[1,2]"


def test_any_object_can_be_asked_for() -> None:
    done = say(Grammar.json_object(), start=3, max_tokens=200)
    if done.finish_reason == "stop":
        assert isinstance(json.loads(done.text), dict)
    assert done.text.startswith("{")


def test_a_constraint_refuses_what_the_grammar_does_not_allow() -> None:
    constraint = COMPILER.compile(Grammar.regex("ab"))
    with pytest.raises(GrammarError, match="cannot be followed any further"):
        constraint.consume(TOKENIZER.encode("z")[0])


def test_a_complete_text_may_go_on_and_a_finished_one_may_not() -> None:
    constraint = COMPILER.compile(Grammar.regex("a(b)?"))
    constraint.forced()
    assert constraint.complete
    assert not constraint.finished
    constraint.consume(TOKENIZER.encode("b")[0])
    assert constraint.finished


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Grammar.json_schema("{"), "the JSON schema is not JSON"),
        (lambda: Grammar.json_schema("[1]"), "must be an object or a boolean, not list"),
        (
            lambda: COMPILER.compile(Grammar.json_schema({"type": "strin"})),
            "JSON schema cannot be compiled: .*strin",
        ),
        (
            lambda: COMPILER.compile(Grammar.regex("a(b")),
            "regular expression cannot be compiled: .*unclosed group",
        ),
        (
            lambda: COMPILER.compile(Grammar.lark("start: nothing")),
            "Lark grammar cannot be compiled: .*nothing",
        ),
        (lambda: COMPILER.compile(Grammar("poem", "x")), "unknown kind of grammar 'poem'"),  # type: ignore[arg-type]
        (lambda: GrammarCompiler(Tokenizer(byte_tokenizer().to_str())), "needs an end token"),
    ],
)
def test_a_grammar_that_cannot_be_used_says_why(make: object, told: str) -> None:
    with pytest.raises(GrammarError, match=told):
        make()  # type: ignore[operator]
