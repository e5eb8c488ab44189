"""The command line around the verbs: how they are found, configured and ended."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edge_runtime import cli as edge_cli
from edge_runtime.cli import output
from edge_runtime.errors import ConfigError, EngineError, MissingExtraError
from model_zoo.errors import ModelNotFoundError
from offload.errors import OffloadError
from quantize.errors import CheckpointError

FAKE_VERB = """
import click
from edge_runtime.cli.output import emit_json, json_option
from edge_runtime.errors import EngineError

@click.command("run")
@click.option("--threads", type=int, default=1)
@click.option("--max-tokens", type=int, default=5)
@click.option("--fail", default="")
@json_option
def command(threads, max_tokens, fail, as_json):
    "A verb for tests."
    if fail:
        raise EngineError(fail)
    emit_json({"threads": threads, "max_tokens": max_tokens})
"""

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command line of a group with the verb `run` (a fake) and two verbs that cannot be loaded."""
    (tmp_path / "fake_verb.py").write_text(FAKE_VERB)
    (tmp_path / "broken_verb.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "wrong_verb.py").write_text("command = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    verbs = {"run": "fake_verb:command", "broken": "broken_verb:command", "wrong": "wrong_verb:command"}
    group = edge_cli.VerbGroup(
        name="edge-runtime",
        verbs=lambda: verbs,
        params=edge_cli.cli.params,
        callback=edge_cli.cli.callback,
        invoke_without_command=True,
    )
    return lambda *args, **kwargs: CliRunner().invoke(group, args, prog_name="edge-runtime", **kwargs)


def run_program(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_runtime", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_alone_it_prints_the_help_and_ends_well(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 0
    assert "A verb for tests." in result.stdout


def test_the_help_lists_every_exit_code() -> None:
    result = CliRunner().invoke(edge_cli.cli, ["--help"])
    assert set(output.EXIT_MEANINGS) == set(output.ExitCode)
    for code, meaning in output.EXIT_MEANINGS.items():
        assert f"{code.value}  {meaning}" in result.stdout


def test_the_version_names_what_it_runs_on() -> None:
    result = CliRunner().invoke(edge_cli.cli, ["--version"])
    assert result.stdout.startswith("edge-runtime ")
    assert "onnxruntime" in result.stdout
    assert "Python 3." in result.stdout


def test_the_help_needs_no_engine() -> None:
    code = (
        "import sys\nfrom edge_runtime.cli import cli\n"
        "try:\n    cli.main(['--help'], prog_name='edge-runtime')\nexcept SystemExit:\n    pass\n"
        "heavy = {'onnxruntime', 'numpy', 'onnx', 'tokenizers', 'rich', 'aiohttp', 'torch'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_mistyped_verb_is_told_which_one_was_meant(invoke: Invoke) -> None:
    result = invoke("rnu")
    assert result.exit_code == output.ExitCode.USAGE
    assert "no verb 'rnu'. Did you mean 'run'?" in result.stderr


def test_a_verb_that_cannot_be_imported_says_why_and_spares_the_others(invoke: Invoke) -> None:
    result = invoke("broken")
    assert result.exit_code == output.ExitCode.USAGE
    assert "the verb 'broken' cannot be loaded from broken_verb:command: ModuleNotFoundError" in result.stderr
    assert "pip install" in result.stderr
    listing = invoke("--help")
    assert listing.exit_code == 0
    assert "A verb for tests." in listing.stdout
    assert "no_such_module_at_all" in listing.stdout


def test_a_verb_that_is_no_command_is_told(invoke: Invoke) -> None:
    assert "it is a int, not a click.Command" in invoke("wrong").stderr


def test_every_flag_has_an_environment_twin_shown_in_its_help(invoke: Invoke) -> None:
    shown = invoke("run", "--help").stdout
    for name in ("EDGE_RUN_THREADS", "EDGE_RUN_MAX_TOKENS", "EDGE_RUN_JSON"):
        assert name in shown


def test_a_flag_wins_over_the_variable_the_variable_over_the_file_the_file_over_the_default(
    invoke: Invoke, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    variable = {"EDGE_RUN_THREADS": "4"}

    def threads(*args: str, env: dict[str, str] | None = None) -> int:
        result = invoke("--config", str(file), "run", *args, env=env)
        assert result.exit_code == 0, result.output
        return int(json.loads(result.stdout)["threads"])

    file.write_text("")
    assert threads() == 1
    file.write_text("[runtime]\nthreads = 3\n")
    assert threads() == 3
    assert threads(env=variable) == 4
    assert threads("--threads", "5", env=variable) == 5
    result = invoke("run", env={"EDGE_CONFIG": str(file)})
    assert json.loads(result.stdout)["threads"] == 3


def test_a_wrong_configuration_file_ends_with_its_own_code_but_help_and_config_still_work(
    invoke: Invoke, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[runtime]\nthread = 3\n")
    result = invoke("--config", str(file), "run")
    assert result.exit_code == output.ExitCode.CONFIG
    assert "unknown key 'thread' in [runtime]. Did you mean threads?" in result.stderr
    assert invoke("--config", str(file), "run", "--help").exit_code == 0
    assert invoke("--config", str(file)).exit_code == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), output.ExitCode.CONFIG),
        (EngineError("x"), output.ExitCode.ENGINE),
        (MissingExtraError("torch", "parity", "x"), output.ExitCode.ENGINE),
        (ModelNotFoundError("x"), output.ExitCode.MODEL),
        (CheckpointError("x"), output.ExitCode.QUANTIZE),
        (OffloadError("x"), output.ExitCode.OFFLOAD),
        (PermissionError("x"), output.ExitCode.FAILED),
        (click.UsageError("x"), output.ExitCode.USAGE),
        (ZeroDivisionError("a bug shows its traceback"), None),
    ],
)
def test_every_family_of_errors_has_its_exit_code(error: Exception, code: output.ExitCode | None) -> None:
    assert output.exit_code_of(error) == code


def test_an_error_is_one_line_on_stderr(invoke: Invoke) -> None:
    result = invoke("run", "--fail", "the sky fell")
    assert result.exit_code == output.ExitCode.ENGINE
    assert result.stdout == ""
    assert result.stderr == "edge-runtime: error: the sky fell\n"


def test_with_json_an_error_is_one_json_object_on_stderr(invoke: Invoke) -> None:
    result = invoke("run", "--json", "--fail", "the sky fell")
    assert result.exit_code == output.ExitCode.ENGINE
    assert json.loads(result.stderr) == {
        "error": {"type": "EngineError", "message": "the sky fell", "exit_code": 5}
    }


def test_an_interrupt_ends_with_130() -> None:
    @click.command()
    def command() -> None:
        raise KeyboardInterrupt

    group = edge_cli.VerbGroup(name="edge-runtime", verbs=dict, commands={"stop": command})
    assert CliRunner().invoke(group, ["stop"]).exit_code == output.ExitCode.INTERRUPTED


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    script = (
        f"{sys.executable} -m edge_runtime --config /dev/null config show | true; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() in {"0", "141"}, "0 when everything was written before the reader left"
    assert done.stderr == ""


def test_config_init_check_and_show_work_together(home: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(edge_cli.cli, ["config", "init"])
    file = home / ".config" / "edge-runtime" / "config.toml"
    assert made.stdout.strip() == str(file)
    assert file.stat().st_mode & 0o077 == 0, "nobody else may read it"
    again = runner.invoke(edge_cli.cli, ["config", "init"])
    assert again.exit_code == output.ExitCode.CONFIG
    assert "is there already. Overwrite it with: edge-runtime config init --force" in again.stderr
    file.write_text("[model]\nname = 'mine'\n")
    assert runner.invoke(edge_cli.cli, ["config", "check"]).exit_code == 0
    shown = json.loads(runner.invoke(edge_cli.cli, ["config", "show", "--json"]).stdout)
    assert shown["settings"]["model"]["name"] == {"value": "mine", "origin": str(file)}
    assert runner.invoke(edge_cli.cli, ["config", "init", "--force"]).exit_code == 0
    assert "mine" not in file.read_text()


def test_config_init_into_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "config.toml"
    result = CliRunner().invoke(edge_cli.cli, ["--config", str(target), "config", "init"])
    assert result.exit_code == output.ExitCode.CONFIG
    assert f"{target} cannot be written" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_one_that_the_shell_understands(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; tools/test_deps.sh installs it")
    done = run_program("completion", shell)
    assert done.returncode == 0, done.stderr
    parsed = subprocess.run(
        [shell, "-n"], input=done.stdout, capture_output=True, text=True, check=False, timeout=60
    )
    assert (parsed.returncode, parsed.stderr) == (0, "")


def test_the_shell_is_offered_the_verbs() -> None:
    done = run_program(_EDGE_RUNTIME_COMPLETE="bash_complete", COMP_WORDS="edge-runtime co", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,completion", "plain,config"]


def test_the_shell_is_offered_the_models_by_name(tmp_path: Path) -> None:
    for name in ("small", "smaller", "other"):
        (tmp_path / name).mkdir()
    words = {
        "COMP_WORDS": "edge-runtime run --model sma",
        "COMP_CWORD": "3",
        "EDGE_MODELS_DIR": str(tmp_path),
    }
    done = run_program(_EDGE_RUNTIME_COMPLETE="bash_complete", **words)
    assert done.stdout.split() == ["plain,small", "plain,smaller"]
    done = run_program(
        _EDGE_RUNTIME_COMPLETE="bash_complete", **(words | {"COMP_WORDS": "edge-runtime run -m ./x"})
    )
    assert done.stdout.split() == ["file,./x"]


def test_a_table_for_a_pipe_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("name", "size"), [("a", 1), ("longer", None)], title="models")
    assert capsys.readouterr().out == "models\nname    size\na       1\nlonger  -\n"


def test_json_output_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        output.emit_json({"x": float("nan")})
