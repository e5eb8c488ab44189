"""The verbs over a real engine and a tiny random model."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_runtime.cli import cli, output
from tests.support import make_package


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_package(tmp_path_factory.mktemp("packages") / "tiny"))


def run(*args: str, **kwargs: str) -> str:
    result = CliRunner().invoke(cli, args, **kwargs)  # type: ignore[arg-type]  # input only
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_answer_has_its_source_evidence_and_timings(tiny: str) -> None:
    answer = json.loads(run("run", "-m", tiny, "--json", "--max-tokens", "8", "hello"))
    assert answer["source"] == "device"
    assert 0 < answer["evidence"]["n_scored"] <= 8
    assert answer["evidence"]["mean_logprob"] < 0
    assert answer["confidence"] == {
        "p_correct": None,
        "signal": "mean_logprob",
        "calibration_id": None,
        "raw": answer["evidence"]["mean_logprob"],
        "reason": "the model has no calibration (edge-runtime calibrate makes one)",
    }
    assert answer["timings"]["tokens_per_s"] >= 0


def test_the_same_seed_gives_the_same_text_and_the_stream_the_same_as_json(tiny: str) -> None:
    drawn = ("run", "-m", tiny, "--max-tokens", "12", "--temperature", "1", "--seed", "5", "hello")
    text = run(*drawn)
    assert run(*drawn) == text
    assert json.loads(run(*drawn, "--json"))["text"] == text.removesuffix("\n")


def test_a_schema_is_kept_to(tiny: str, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    on = {"on": {"type": "boolean"}}
    wanted = {"type": "object", "properties": on, "required": ["on"], "additionalProperties": False}
    schema.write_text(json.dumps(wanted))
    assert isinstance(json.loads(run("run", "-m", tiny, "--schema", str(schema), "hello"))["on"], bool)


def test_a_prompt_longer_than_the_context_is_an_error_with_both_numbers(tiny: str) -> None:
    result = CliRunner().invoke(cli, ["run", "-m", tiny, "hello " * 400])
    assert result.exit_code == output.ExitCode.ENGINE
    assert "256 tokens" in result.stderr
    assert "shorten the prompt" in result.stderr


def test_a_damaged_package_ends_with_the_models_code(tiny: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny, tmp_path / "damaged"))
    with (copy / "tokenizer.json").open("ab") as file:
        file.write(b" ")
    result = CliRunner().invoke(cli, ["run", "-m", str(copy), "hello"])
    assert result.exit_code == output.ExitCode.MODEL
    assert "tokenizer.json" in result.stderr


def test_chat_over_a_pipe_answers_line_by_line(tiny: str) -> None:
    printed = run("chat", "-m", tiny, "--json", "--max-tokens", "4", input="one\ntwo\n/quit\nthree\n")
    answers = [json.loads(line) for line in printed.splitlines()]
    assert len(answers) == 2
    assert answers[1]["usage"]["prompt_tokens"] > answers[0]["usage"]["prompt_tokens"], "it remembers"
    assert answers[1]["usage"]["cached_tokens"] > 0, "and does not compute the first turn again"


def test_bench_reports_every_figure(tiny: str) -> None:
    figures = json.loads(run("bench", "-m", tiny, "--runs", "1", "--tokens", "8", "--threads", "1", "--json"))
    assert figures["decode"] > 0
    assert figures["decode_tokens"] == 8
    assert set(figures["prefill"]) == set(figures["ttft_s"]) == {"255"}
    assert figures["load_s"] > 0
    assert figures["threads"] == 1
    assert set(figures["memory_mib"]) == {"peak", "anonymous", "file"}


def test_a_reader_that_leaves_early_gets_no_traceback(tiny: str, repository: Path) -> None:
    command = f"'{sys.executable}' -m edge_runtime run -m '{tiny}' --max-tokens 200 hello | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo :${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=repository,
    )
    assert done.stderr == "tiny: not signed; who made it cannot be told\n"
    assert done.stdout.endswith((":141\n", ":0\n"))


def test_ctrl_c_ends_run_with_130(tiny: str, repository: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "edge_runtime",
        "run",
        "-m",
        tiny,
        "--overflow",
        "slide",
        "--regex",
        "[ab]*",
        "go",
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=repository,
        # A test run that was started in the background ignores Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as program:
        assert program.stdout is not None
        program.stdout.read(1)
        program.send_signal(signal.SIGINT)
        _, complained = program.communicate(timeout=60)
    assert program.returncode == output.ExitCode.INTERRUPTED
    assert b"Traceback" not in complained
