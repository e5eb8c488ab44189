"""`edge-runtime models`: what a person and a script are shown, and the exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_runtime.cli import cli

Make = Callable[..., Path]


def models_verb(*args: str) -> Result:
    return CliRunner().invoke(cli, ["models", *args], prog_name="edge-runtime")


def printed(*args: str) -> str:
    result = models_verb(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(code: int, *args: str) -> str:
    result = models_verb(*args)
    assert result.exit_code == code, result.output
    return result.stderr


@pytest.fixture
def tiny(models: Path, make: Make) -> Path:
    return make(models / "tiny-1m", id="tiny:1m")


# --- list ---------------------------------------------------------------------------------------------------


def test_list_shows_one_line_per_package(tiny: Path, tmp_path: Path, make: Make) -> None:
    make(tmp_path / "shipped" / "pocket")
    header, pocket, line = printed("list").splitlines()
    assert header.split() == ["name", "size", "scheme", "context", "licence", "engine", "where"]
    assert pocket.split() == ["pocket", "5.0", "KiB", "int4", "512", "Apache-2.0", "onnx", "shipped"]
    assert line.split() == ["tiny-1m", "5.0", "KiB", "int4", "512", "Apache-2.0", "onnx", "installed"]


def test_list_as_json_names_everything_a_script_needs(tiny: Path) -> None:
    (entry,) = json.loads(printed("list", "--json"))
    assert entry == {
        "name": "tiny-1m",
        "path": str(tiny),
        "shipped": False,
        "problem": None,
        "id": "tiny:1m",
        "revision": entry["revision"],
        "size": 5132,
        "scheme": "int4",
        "context_length": 512,
        "licence": "Apache-2.0",
        "engine": "onnx",
    }


def test_an_empty_list_says_how_a_package_is_made(models: Path) -> None:
    assert printed("list") == f"No packages in {models}. Make one with: edge-runtime quantize SRC OUT\n"
    assert json.loads(printed("list", "--json")) == []


def test_a_broken_package_is_listed_with_its_problem_and_does_not_hide_the_others(
    models: Path, tiny: Path
) -> None:
    (models / "broken").mkdir()
    result = models_verb("list")
    assert result.exit_code == 0
    assert "installed, unreadable" in result.stdout
    assert "tiny-1m" in result.stdout
    assert "has no manifest.json" in result.stderr
    broken, _ = json.loads(printed("list", "--json"))
    assert "has no manifest.json" in broken["problem"]


# --- show ---------------------------------------------------------------------------------------------------


def test_show_prints_the_whole_manifest(tiny: Path) -> None:
    text = printed("show", "tiny:1m")
    for expected in (
        "block_size  32",
        "Data by the Example Project, CC BY 4.0",
        "example/tiny",
        "2026-01-31T12:00:00Z",
        "defaults.temperature",
        "frames.accuracy.interval  0.4, 0.6",
        "model.onnx      5.0 KiB  ",
        str(tiny),
    ):
        assert expected in text
    data = json.loads(printed("show", "tiny:1m", "--json"))
    on_disk = json.loads((tiny / "manifest.json").read_text())
    assert {key: data[key] for key in on_disk} == on_disk


def test_show_does_the_sum_of_memory(tiny: Path) -> None:
    data = json.loads(printed("show", "tiny-1m", "--json"))["memory_needed"]
    assert data == {
        "context": 512,
        "weights_bytes": 5120,
        "kv_bytes": 512 * 64,
        "runtime_bytes": 1000,
        "total_bytes": 5120 + 512 * 64 + 1000,
    }
    lines = printed("show", "tiny-1m", "--context", "100").splitlines()
    assert "KV cache: 100 tokens × 64 B  6.2 KiB" in lines
    assert "together                     12.2 KiB" in lines


def test_a_context_beyond_the_models_own_is_refused_with_both_numbers(tiny: Path) -> None:
    assert "513 tokens are more than the model's context of 512." in failed(
        2, "show", "tiny-1m", "--context", "513"
    )


def test_show_of_an_unknown_name_suggests_the_nearest(tiny: Path, models: Path) -> None:
    assert failed(4, "show", "tiny-2m") == (
        f"edge-runtime: error: tiny-2m: no model of that name in {models} or among the shipped ones; "
        "did you mean 'tiny-1m'?\n"
    )
    error = json.loads(failed(4, "show", "tiny-2m", "--json"))["error"]
    assert error["type"] == "ModelNotFoundError"


def test_show_reads_a_damaged_package(tiny: Path) -> None:
    (tiny / "model.onnx").unlink()
    assert "tiny:1m" in printed("show", "tiny-1m")


# --- verify -------------------------------------------------------------------------------------------------


def test_verify_says_what_was_compared(tiny: Path) -> None:
    assert printed("verify", "tiny-1m") == (
        "tiny-1m: whole (manifest, and size and SHA-256 of 3 files, 5.0 KiB)\n"
    )
    (result,) = json.loads(printed("verify", str(tiny), "--json"))
    assert (result["ok"], result["problem"], result["files"], result["bytes"]) == (True, None, 3, 5132)


def test_verify_of_a_damaged_package_names_the_file_and_ends_with_4(tiny: Path) -> None:
    content = bytearray((tiny / "model.onnx").read_bytes())
    content[100] ^= 1
    (tiny / "model.onnx").write_bytes(content)
    message = failed(4, "verify", "tiny-1m")
    assert message.startswith("edge-runtime: error: model.onnx: SHA-256 is ")
    assert "Remove it and install it again: edge-runtime models rm tiny-1m" in message
    result = models_verb("verify", "tiny-1m", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)[0]["ok"] is False
    assert "model.onnx: SHA-256 is" in json.loads(result.stdout)[0]["problem"]


def test_verify_all_looks_at_every_package_and_lists_the_damaged(
    models: Path, tiny: Path, make: Make
) -> None:
    (make(models / "a") / "model.onnx").unlink()
    (make(models / "b") / "extra").write_bytes(b"")
    result = models_verb("verify", "--all")
    assert result.exit_code == 4
    assert "tiny-1m: whole" in result.stdout
    assert "2 of 3 packages are damaged:\n  a: model.onnx: is listed" in result.stderr
    assert "\n  b: extra: lies in" in result.stderr


def test_verify_wants_names_or_all(tiny: Path) -> None:
    for args in ((), ("tiny-1m", "--all")):
        assert "name the packages to verify, or give --all (one of the two)" in failed(2, "verify", *args)


def test_verify_checks_an_edge_file_itself_and_not_an_earlier_copy_of_it(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.edge"
    printed("pack", "tiny-1m", str(path))
    printed("verify", str(path))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "tiny.edge: " in failed(4, "verify", str(path))


# --- rm and pack --------------------------------------------------------------------------------------------


def test_rm_removes_every_named_package(models: Path, tiny: Path, make: Make) -> None:
    make(models / "other")
    assert printed("rm", "tiny:1m", "other") == f"removed {tiny}\nremoved {models / 'other'}\n"
    assert json.loads(printed("list", "--json")) == []
    assert "did you mean" not in failed(4, "rm", "tiny-1m")


def test_rm_as_json_names_what_went(tiny: Path) -> None:
    assert json.loads(printed("rm", "tiny-1m", "--json")) == [{"name": "tiny-1m", "path": str(tiny)}]


def test_pack_says_where_and_what(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "tiny.edge"
    data = json.loads(printed("pack", "tiny-1m", str(out), "--json"))
    assert data["path"] == str(out)
    assert data["size"] == out.stat().st_size
    assert "exists already" in failed(4, "pack", "tiny-1m", str(out))
    assert data["sha256"] in printed("pack", "tiny-1m", str(out), "--overwrite")


def test_pack_wants_another_ending_and_a_folder(tiny: Path, tmp_path: Path) -> None:
    assert "tiny.zip must end in .edge." in failed(2, "pack", "tiny-1m", str(tmp_path / "tiny.zip"))
    printed("pack", "tiny-1m", str(tmp_path / "a.edge"))
    message = failed(2, "pack", str(tmp_path / "a.edge"), str(tmp_path / "b.edge"))
    assert "a.edge is an .edge file already; copy it." in message


def test_names_are_completed(tiny: Path) -> None:
    from click.shell_completion import ShellComplete

    completer = ShellComplete(cli, {}, "edge-runtime", "_EDGE_RUNTIME_COMPLETE")
    assert [item.value for item in completer.get_completions(["models", "show"], "ti")] == ["tiny-1m"]


@pytest.mark.parametrize("verb", ["list", "show", "verify", "rm", "pack"])
def test_every_subcommand_explains_itself(verb: str) -> None:
    text = printed(verb, "--help")
    assert "--json" in text
    assert f"EDGE_MODELS_{verb.upper()}_JSON" in text
