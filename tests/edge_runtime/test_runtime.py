"""`Runtime.answer`: one query in, one answer with evidence out, and nothing pretends."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import make_package

from edge_runtime.config import Config
from edge_runtime.errors import ChatTemplateError, ContextOverflowError, EdgeRuntimeError, SamplingError
from edge_runtime.runtime import Runtime
from offload.types import Answer, Evidence, Message, Query, Token

SCHEMA = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "tiny")


@pytest.fixture
def runtime(package: Path) -> Iterator[Runtime]:
    ids = (f"id-{i}" for i in itertools.count())
    with Runtime.open(
        package, threads=1, wall_clock=lambda: 1_700_000_000.0, new_id=lambda: next(ids)
    ) as opened:
        yield opened


def configured(**model: object) -> Config:
    return Config(path=None, given={"model": model, "runtime": {"threads": 1}}, tables={})


def test_an_answer_says_where_it_is_from_and_on_what_evidence(runtime: Runtime) -> None:
    answer = runtime.answer("turn off the lights", max_tokens=10)
    assert isinstance(answer, Answer)
    assert (answer.id, answer.source, answer.model_id) == ("id-0", "device", "tiny")
    assert answer.created_at == 1_700_000_000.0
    assert answer.evidence is not None
    assert answer.evidence.n_scored == answer.usage["completion_tokens"] > 0
    assert set(answer.timings) >= {
        "load_s",
        "ttft_s",
        "prefill_s",
        "decode_s",
        "tokens_per_s",
        "peak_rss_mib",
    }
    json.dumps(answer.to_dict(), allow_nan=False)


def test_without_a_calibration_no_probability_is_claimed(runtime: Runtime) -> None:
    answer = runtime.answer("turn off the lights", max_tokens=5)
    assert answer.confidence is not None
    assert answer.evidence is not None
    assert answer.confidence.p_correct is None
    assert answer.confidence.calibration_id is None
    assert (answer.confidence.signal, answer.confidence.raw) == ("mean_logprob", answer.evidence.mean_logprob)
    assert answer.decision is not None
    assert (answer.decision.action, answer.decision.rule) == ("keep", "uncalibrated")
    assert answer.fallback
    assert "but nobody can be asked" in answer.decision.reason


def test_a_policy_that_keeps_no_unsure_answer_has_it_refused_and_gives_out_no_text(package: Path) -> None:
    config = Config(path=None, given={"router": {"otherwise": "refuse"}}, tables={})
    with Runtime.open(package, config=config, threads=1) as strict:
        stream = strict.stream("turn off the lights", max_tokens=5)
        shown = "".join(chunk.text for chunk in stream)
    assert stream.answer is not None
    assert (stream.answer.source, stream.answer.text, shown) == ("refused", "", "")
    assert stream.answer.evidence is not None
    assert stream.answer.evidence.n > 0


def test_an_answer_that_is_kept_comes_whole_where_others_would_be_refused(package: Path) -> None:
    config = Config(path=None, given={"router": {"otherwise": "refuse", "prefer": "device"}}, tables={})
    with Runtime.open(package, config=config, threads=1) as strict, Runtime.open(package, threads=1) as free:
        stream = strict.stream("turn off the lights", max_tokens=5)
        chunks = list(stream)
        plain = free.answer("turn off the lights", max_tokens=5)
    assert stream.answer is not None
    assert (stream.answer.source, stream.answer.fallback) == ("device", False)
    assert [chunk.text for chunk in chunks[:-1]] == [""] * (len(chunks) - 1)
    assert chunks[-1].text == stream.answer.text == plain.text


def test_an_answer_without_scored_tokens_has_no_raw_signal(runtime: Runtime) -> None:
    answer = runtime.answer("turn off", json_schema={"const": {"on": True}})
    assert answer.text == '{"on":true}'
    assert answer.confidence is not None
    assert answer.confidence.raw is None


def test_queries_texts_and_conversations_ask_the_same(runtime: Runtime) -> None:
    asked = "turn off the lights"
    answers = [
        runtime.answer(form, max_tokens=8)
        for form in (
            asked,
            [{"role": "user", "content": asked}],
            (Message("user", asked),),
            Query(id="mine", messages=(Message("user", asked),)),
        )
    ]
    assert len({answer.text for answer in answers}) == 1
    assert answers[-1].id == "mine"


def test_parameters_of_the_query_hold_and_those_of_the_call_win(runtime: Runtime) -> None:
    query = Query(id="q", messages=(Message("user", "hi"),), params={"max_tokens": 4})
    assert runtime.answer(query).usage["completion_tokens"] <= 4
    assert runtime.answer(query, max_tokens=2).usage["completion_tokens"] <= 2


def test_a_stream_ends_with_the_answer(runtime: Runtime) -> None:
    stream = runtime.stream("turn off the lights", max_tokens=6)
    assert stream.answer is None
    chunks = list(stream)
    assert stream.answer is not None
    assert "".join(chunk.text for chunk in chunks) == stream.answer.text
    tokens: list[Token] = [token for chunk in chunks for token in chunk.tokens]
    assert stream.answer.evidence == Evidence.fold(tokens, chunks[-1].finish_reason)
    assert stream.answer.timings["ttft_s"] <= stream.answer.timings["total_s"]


def test_a_stream_that_was_closed_has_no_answer(runtime: Runtime) -> None:
    stream = runtime.stream("turn off the lights", max_tokens=50)
    next(stream)
    stream.close()
    with pytest.raises(ValueError, match="closed before its end"):
        stream.finish()
    assert runtime.answer("turn off the lights", max_tokens=3).text is not None


def test_cancelling_gives_what_there_is(runtime: Runtime) -> None:
    wish = threading.Event()
    stream = runtime.stream("turn off the lights", max_tokens=50, cancelled=wish.is_set)
    for _ in range(3):
        next(stream)
    wish.set()
    answer = stream.finish()
    assert answer.evidence is not None
    assert answer.evidence.finish_reason == "cancelled"
    assert answer.evidence.n == 3


def test_structured_output_is_asked_for_by_schema_regex_or_grammar(runtime: Runtime) -> None:
    assert runtime.answer("lights", json_schema=SCHEMA).text in ('{"on":true}', '{"on":false}')
    assert runtime.answer("lights", regex="(yes|no)").text in ("yes", "no")
    assert runtime.answer("lights", lark='start: "maybe"').text == "maybe"
    with pytest.raises(SamplingError, match="json_schema and regex were given together"):
        runtime.answer("lights", json_schema=SCHEMA, regex="x")
    with pytest.raises(SamplingError, match="grammar='x' is not a Grammar"):
        runtime.answer("lights", grammar="x")


def test_a_conversation_uses_what_was_computed_before(runtime: Runtime) -> None:
    talk = [{"role": "user", "content": "turn off the lights in the kitchen"}]
    first = runtime.answer(talk, max_tokens=5)
    talk += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "and in the bedroom"}]
    assert runtime.answer(talk, max_tokens=5).usage["cached_tokens"] >= first.usage["prompt_tokens"] - 5


def test_raw_text_goes_around_the_template(runtime: Runtime) -> None:
    answer = runtime.answer("turn off", raw=True, max_tokens=2)
    assert answer.usage["prompt_tokens"] == len(runtime.model.tokenizer.encode("turn off"))


def test_the_configured_system_message_and_sampling_are_used(package: Path) -> None:
    config = configured(system="set the bedroom lamp", max_tokens=3)
    with Runtime.open(package, config=config) as runtime:
        plain = Runtime(runtime.model).answer("hi", max_tokens=3)
        answer = runtime.answer("hi")
        assert answer.usage["prompt_tokens"] > plain.usage["prompt_tokens"]
        assert answer.usage["completion_tokens"] <= 3
        own = runtime.answer([{"role": "system", "content": "x"}, {"role": "user", "content": "hi"}])
        assert own.usage["prompt_tokens"] < answer.usage["prompt_tokens"]


def test_a_configured_limit_gives_way_to_the_context_and_an_asked_one_does_not(package: Path) -> None:
    with Runtime.open(package, config=configured(max_tokens=10_000)) as runtime:
        answer = runtime.answer("turn off the lights", ignore_eos=True)
        assert answer.usage["total_tokens"] == 256
        with pytest.raises(ContextOverflowError, match=r"10000 to generate make .* is 256 tokens"):
            runtime.answer("turn off the lights", max_tokens=10_000)


def test_a_conversation_longer_than_the_context_slides_when_asked(runtime: Runtime) -> None:
    talk = [Message("system", "turn off the lights")]
    for i in range(30):
        talk += [Message("user", f"question {i}"), Message("assistant", f"answer {i}")]
    talk.append(Message("user", "the last one"))
    with pytest.raises(ContextOverflowError, match=r"tokens of prompt .* is 256 tokens"):
        runtime.answer(talk)
    answer = runtime.answer(talk, overflow="slide", max_tokens=80, ignore_eos=True)
    assert answer.usage["completion_tokens"] == 80
    assert answer.usage["prompt_tokens"] <= 256


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"temprature": 1}, "unknown parameter 'temprature'; known ones: .*temperature"),
        ({"temperature": -1}, "temperature=-1 is out of range"),
        ({"overflow": "wrap"}, "overflow='wrap' is unknown: use 'error' or 'slide'"),
    ],
)
def test_a_wrong_parameter_is_an_error_before_any_work(
    runtime: Runtime, params: dict[str, object], told: str
) -> None:
    with pytest.raises(SamplingError, match=told):
        runtime.stream("hi", **params)


def test_a_message_needs_role_and_content(runtime: Runtime) -> None:
    with pytest.raises(ChatTemplateError, match=r"no content: it has \['role'\]"):
        runtime.answer([{"role": "user"}])


def test_threads_may_ask_at_once(runtime: Runtime) -> None:
    questions = [f"turn off lamp {i}" for i in range(4)]
    expected = [runtime.answer(question, max_tokens=15).text for question in questions]
    runtime.model.prefix_cache.clear()
    results: dict[int, str] = {}
    threads = [
        threading.Thread(
            target=lambda i=i: results.update({i: runtime.answer(questions[i], max_tokens=15).text})
        )
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(4)] == expected


def test_importing_the_package_loads_nothing_heavy(repository: Path) -> None:
    heavy = ("onnxruntime", "numpy", "tokenizers", "jinja2", "llguidance")
    code = f"import sys, edge_runtime; print(*[m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository
    )
    assert loaded.stdout.split() == []


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import edge_runtime

    assert edge_runtime.EdgeRuntimeError is EdgeRuntimeError
    assert "Runtime" in dir(edge_runtime)
    with pytest.raises(AttributeError, match="no attribute 'Runtimes'"):
        edge_runtime.Runtimes  # noqa: B018
