"""`edge-runtime run`: prompts in, one answer out."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge_runtime.cli import cli, options, output
from edge_runtime.cli.show import status_line
from edge_runtime.errors import ContextOverflowError
from offload.types import Answer, Confidence, Decision, Evidence, Token

TOKENS = (
    Token(1, "on", logprob=-0.25, entropy=0.5, margin=1.0),
    Token(2, "e", logprob=-0.75, entropy=1.5, margin=0.5),
    Token(3, "!", forced=True),
)
EVIDENCE = Evidence.fold(TOKENS, "stop")
ANSWER = Answer(
    id="a1",
    text="one!",
    source="device",
    model_id="fake",
    confidence=Confidence(None, "mean_logprob", None, raw=EVIDENCE.mean_logprob),
    evidence=EVIDENCE,
    timings={"tokens_per_s": 1234.4, "total_s": 0.0123},
)


@dataclass
class FakeChunk:
    text: str
    tokens: tuple[Token, ...]


class FakeStream:
    def __init__(self) -> None:
        self._chunks = iter([FakeChunk(token.text, (token,)) for token in TOKENS])

    def __iter__(self) -> Iterator[FakeChunk]:
        return self._chunks

    def finish(self) -> Answer:
        return ANSWER


@dataclass
class FakeRuntime:
    """Remembers what it was asked; answers `ANSWER`."""

    asked: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    opened: tuple[str, int | None] | None = None
    fails: Exception | None = None
    closed: bool = False

    def stream(self, messages: Any, **params: Any) -> FakeStream:
        if self.fails:
            raise self.fails
        self.asked.append((messages, params))
        return FakeStream()

    def __enter__(self) -> "FakeRuntime":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()

    def open_runtime(model: str, threads: int | None) -> FakeRuntime:
        fake.opened = (model, threads)
        return fake

    monkeypatch.setattr(options, "open_runtime", open_runtime)
    return fake


def run(*args: str, **kwargs: Any) -> Result:
    return CliRunner().invoke(cli, ["run", *args], **kwargs)


def test_the_text_goes_to_stdout_and_nothing_else_does(runtime: FakeRuntime) -> None:
    result = run("hello")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "one!\n", "")
    assert runtime.asked[0][0] == [{"role": "user", "content": "hello"}]
    assert runtime.closed


def test_the_model_is_the_shipped_one_unless_another_is_named(runtime: FakeRuntime) -> None:
    run("hello")
    assert runtime.opened == ("pocket", None)
    run("hello", "-m", "other", "--threads", "3")
    assert runtime.opened == ("other", 3)


@pytest.mark.parametrize("args", [(), ("-",)])
def test_a_prompt_can_be_piped_in(runtime: FakeRuntime, args: tuple[str, ...]) -> None:
    assert run(*args, input="naïve\nlines\n").exit_code == 0
    assert runtime.asked[0][0][0]["content"] == "naïve\nlines"


@pytest.mark.parametrize(
    ("piped", "said"),
    [(b"  \n", "the prompt is empty"), (b"a\xff", "is not UTF-8 text: byte 1 cannot be decoded")],
)
def test_a_prompt_that_is_none_is_a_wrong_command_line(runtime: FakeRuntime, piped: bytes, said: str) -> None:
    result = run(input=piped)
    assert result.exit_code == output.ExitCode.USAGE
    assert said in result.stderr
    assert not runtime.asked


def test_json_is_one_object_with_the_fields_of_the_answer(runtime: FakeRuntime) -> None:
    result = run("hello", "--json")
    answer = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert set(answer) == set(ANSWER.to_dict())
    assert (answer["source"], answer["text"]) == ("device", "one!")
    assert answer["confidence"]["p_correct"] is None, "nothing pretends before a calibration exists"


def test_tokens_shows_the_evidence_of_each(runtime: FakeRuntime) -> None:
    lines = run("hello", "--tokens").stdout.splitlines()
    assert lines[2].split() == ["on", "1", "-0.250", "0.500", "1.000"]
    assert lines[4].split() == ["!", "3", "forced", "-", "-"]
    tokens = json.loads(run("hello", "--json", "--tokens").stdout)["tokens"]
    assert tokens[2] == {
        "id": 3,
        "text": "!",
        "logprob": None,
        "entropy": None,
        "margin": None,
        "forced": True,
    }


def test_a_refused_answer_prints_the_reason_and_fails(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = replace(
        ANSWER, text="", source="refused", decision=Decision("refuse", "guarantee", "too unsure")
    )
    monkeypatch.setattr(FakeStream, "__iter__", lambda self: iter([]))
    monkeypatch.setattr(FakeStream, "finish", lambda self: refused)
    result = run("hello")
    assert (result.exit_code, result.stdout) == (output.ExitCode.FAILED, "\n")
    assert "refused: too unsure" in result.stderr
    assert json.loads(run("hello", "--json").stdout)["source"] == "refused"


def test_verbose_prints_the_status_line_on_stderr(runtime: FakeRuntime) -> None:
    result = run("hello", "-v")
    assert result.stderr == (
        "device · fake · mean log-probability -0.500 (uncalibrated) · "
        "3 tokens, 1 forced in 12 ms · 1,234 tokens/s\n"
    )


def test_the_status_line_tells_when_the_text_was_cut_and_when_evidence_is_missing() -> None:
    cut = Answer("a", "t", "device", evidence=Evidence(n=2, n_scored=0, finish_reason="length"))
    assert (
        status_line(cut)
        == "device · unknown model · no evidence · 2 tokens, 2 forced · stopped at the token limit"
    )
    sure = Answer("a", "t", "device", "m", confidence=Confidence(0.934, "mean_logprob", "c"))
    assert status_line(sure) == "device · m · P(correct) 0.93"


def test_only_the_sampling_flags_that_were_given_are_passed_on(runtime: FakeRuntime) -> None:
    run(
        "hello",
        "--temperature",
        "0.5",
        "--stop",
        "a",
        "--stop",
        "b",
        "--max-tokens",
        "9",
        env={"EDGE_RUN_SEED": "7"},
    )
    params = runtime.asked[0][1]
    assert {name: params[name] for name in options.SAMPLING if name in params} == {
        "temperature": 0.5,
        "stop": ("a", "b"),
        "max_tokens": 9,
        "seed": 7,
    }


def test_sampling_settings_of_the_file_are_left_to_the_runtime(runtime: FakeRuntime, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[model]\nname = 'other'\nmax_tokens = 5\nsystem = 'short'\n")
    result = run("hello", env={"EDGE_CONFIG": str(file)})
    assert result.exit_code == 0, result.output
    messages, params = runtime.asked[0]
    assert runtime.opened == ("other", None)
    assert "max_tokens" not in params
    assert [message["role"] for message in messages] == ["user"]


def test_system_and_context_stand_before_the_prompt(runtime: FakeRuntime) -> None:
    run("hello", "--system", "Be brief.", "--context", "area=living room")
    assert runtime.asked[0][0] == [
        {"role": "system", "content": "Be brief.\narea: living room"},
        {"role": "user", "content": "hello"},
    ]


def test_context_without_a_value_says_how_it_is_written(runtime: FakeRuntime) -> None:
    result = run("hello", "--context", "kitchen")
    assert result.exit_code == output.ExitCode.USAGE
    assert "write KEY=VALUE, such as area=kitchen, not 'kitchen'" in result.stderr


def test_a_schema_a_regex_or_a_grammar_constrains_the_answer_and_two_are_one_too_many(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    run("hello", "--schema", str(schema))
    assert runtime.asked[0][1]["grammar"].kind == "json_schema"
    run("hello", "--regex", "[0-9]+")
    assert runtime.asked[1][1]["grammar"].source == "[0-9]+"
    result = run("hello", "--regex", "a", "--schema", str(schema))
    assert result.exit_code == output.ExitCode.USAGE
    assert "exclude one another" in result.stderr


def test_a_schema_that_is_not_json_says_so(runtime: FakeRuntime, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text("{")
    result = run("hello", "--schema", str(schema))
    assert result.exit_code == output.ExitCode.ENGINE
    assert "the JSON schema is not JSON" in result.stderr


def test_a_prompt_longer_than_the_context_ends_with_the_engines_code(runtime: FakeRuntime) -> None:
    runtime.fails = ContextOverflowError("300 tokens of prompt, but the context is 256 tokens")
    result = run("hello")
    assert result.exit_code == output.ExitCode.ENGINE
    assert result.stderr == "edge-runtime: error: 300 tokens of prompt, but the context is 256 tokens\n"


def test_a_model_that_is_not_there_ends_with_the_models_code() -> None:
    result = run("hello", "-m", "pockte-of-nobody")
    assert result.exit_code == output.ExitCode.MODEL
    assert "pockte-of-nobody" in result.stderr


def test_a_models_text_cannot_command_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "stdout_is_terminal", lambda: True)
    output.echo_text("a\x1b[2Jb\n\té")
    assert capsys.readouterr().out == "a\\x1b[2Jb\n\té"
