"""`edge-runtime models`: what a person and a script are shown, and the exit codes."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_runtime.cli import cli
from model_zoo import PrivateKey, list_packages, open_package, remove, sign_package

Make = Callable[..., Path]

ROOT = Path(__file__).resolve().parents[2]


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
    assert header.split() == [
        "name",
        "size",
        "scheme",
        "licence",
        "engine",
        "where",
        "last",
        "use",
    ]
    assert pocket.split() == ["pocket", "5.0", "KiB", "int4", "Apache-2.0", "onnx", "shipped", "-"]
    assert line.split() == ["tiny-1m", "5.0", "KiB", "int4", "Apache-2.0", "onnx", "installed", "-"]


def test_list_tells_the_last_use_of_shipped_and_installed_packages(
    tiny: Path, tmp_path: Path, make: Make, home: Path
) -> None:
    make(tmp_path / "shipped" / "pocket")
    (home / ".local" / "state" / "edge-runtime").mkdir(parents=True)
    open_package("pocket", in_use=True, clock=lambda: time.time() - 3 * 86_400)
    open_package("tiny-1m", in_use=True, clock=lambda: 1_700_000_000)
    _, pocket, line = printed("list").splitlines()
    assert pocket.endswith("shipped    3 days ago")
    assert line.endswith(" days ago")
    assert json.loads(printed("list", "--json"))[1]["last_used"] == "2023-11-14T22:13:20Z"
    assert "last use          3 days ago" in printed("show", "pocket")
    assert json.loads(printed("show", "tiny-1m", "--json"))["last_used"] == "2023-11-14T22:13:20Z"


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
        "last_used": None,
    }


def test_an_empty_list_says_where_models_are_had(models: Path) -> None:
    assert printed("list") == (
        f"No packages in {models}. What can be had: edge-runtime models list --available\n"
    )
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


def test_available_lists_what_the_registries_have_and_this_device_has_not(models: Path, make: Make) -> None:
    before = json.loads(printed("list", "--available", "--json"))
    (smollm,) = [entry for entry in before if entry["id"] == "smollm2:135m"]
    assert smollm["licence"] == "Apache-2.0"
    assert 50e6 < smollm["package_bytes"]["int4"] < 150e6
    make(models / "smollm2-135m", id="smollm2:135m")
    after = json.loads(printed("list", "--available", "--json"))
    assert [entry for entry in before if entry not in after] == [smollm]
    lines = printed("list", "--available").splitlines()
    assert lines[0].split() == ["model", "parameters", "context", "size", "scheme", "licence", "registry"]
    assert [line.split()[0] for line in lines[1:-2]] == [entry["id"] for entry in after]
    assert lines[-1] == "Install one with: edge-runtime models pull NAME"


# --- show ---------------------------------------------------------------------------------------------------


def test_show_prints_the_whole_manifest(tiny: Path) -> None:
    text = printed("show", "tiny:1m")
    for expected in (
        "block_size  32",
        "Data by the Example Project, CC BY 4.0",
        "example/tiny",
        "2026-01-31T12:00:00Z",
        "defaults.temperature",
        "frames  accuracy  0.500  0.400 to 0.600  -",
        "signature         not signed",
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


def test_show_prints_figures_as_a_table_and_other_measurements_as_keys(models: Path, make: Make) -> None:
    evaluation = {
        "hwu64": {"frame_accuracy": {"value": 0.6138, "low": 0.5746, "high": 0.6567, "n": 1536}},
        "problems": {"steps": {"1": {"accuracy": {"value": 1, "low": None, "high": None, "n": 40}}}},
        "quantization": {"kl_mean": 0.000141074, "reference_bytes": 15975190},
    }
    make(models / "big", evaluation=evaluation, parameters=3908096)
    lines = [" ".join(line.split()) for line in printed("show", "big").splitlines()]
    table = lines.index("evaluation")
    assert lines[table + 1 : table + 4] == [
        "suite figure value 95 % interval rows",
        "hwu64 frame accuracy 0.614 0.575 to 0.657 1,536",
        "problems steps 1 accuracy 1 - 40",
    ]
    assert "quantization.kl_mean 0.0001411" in lines
    assert "quantization.reference_bytes 15,975,190" in lines
    assert "parameters 3,908,096" in lines


# --- verify -------------------------------------------------------------------------------------------------


def test_verify_says_what_was_compared(tiny: Path) -> None:
    assert printed("verify", "tiny-1m") == (
        "tiny-1m: whole (manifest, and size and SHA-256 of 3 files, 5.0 KiB; not signed)\n"
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
    assert "2 of 3 do not pass:\n  a: model.onnx: is listed" in result.stderr
    assert "\n  b: extra: lies in" in result.stderr


def test_verify_all_passes_over_what_was_removed_meanwhile(
    models: Path, tiny: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(models / "going")
    entries = list_packages()
    remove("going")
    monkeypatch.setattr("model_zoo.list_packages", lambda: entries)
    (result,) = json.loads(printed("verify", "--all", "--json"))
    assert (result["name"], result["ok"]) == ("tiny-1m", True)


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


def test_verify_says_whose_signature_it_is_and_refuses_a_bad_one(tiny: Path) -> None:
    key = PrivateKey.generate("Maker")
    sign_package(tiny, key)
    assert f"; signed by a key that is not trusted ({key.public.id}))" in printed("verify", "tiny-1m")
    printed("trust", key.public.line)
    assert printed("verify", "tiny-1m").endswith(f"; signed by Maker (key {key.public.id[:16]}))\n")
    (result,) = json.loads(printed("verify", "tiny-1m", "--json"))
    assert result["signature"]["status"] == "trusted"
    content = (tiny / "manifest.json").read_text().replace("example/tiny", "example/tinx")
    (tiny / "manifest.sig").write_text(
        (tiny / "manifest.sig").read_text().replace('"format": 1', '"format": 2')
    )
    assert "tiny-1m: its signature is bad: the signature file is of format 2" in failed(
        4, "verify", "tiny-1m"
    )
    (tiny / "manifest.json").write_text(content)
    assert "manifest.json" in failed(4, "verify", "tiny-1m")


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


# --- sign and trust -----------------------------------------------------------------------------------------


def test_a_package_is_signed_with_a_new_key_that_another_user_then_trusts(tiny: Path, tmp_path: Path) -> None:
    key = tmp_path / "my.pem"
    said = json.loads(printed("sign", "tiny:1m", "--key", str(key), "--new-key", "--owner", "Ann", "--json"))
    assert said["signature"] == str(tiny / "manifest.sig")
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "my.pem.pub").read_text() == said["public_key"] + "\n"
    assert printed("trust") == "No key is trusted.\n"
    assert printed("trust", str(tmp_path / "my.pem.pub")) == f"trusted: Ann, key {said['key_id']}\n"
    assert json.loads(printed("trust", "--json")) == [
        {"name": "Ann", "key_id": said["key_id"], "public_key": said["public_key"]}
    ]
    assert f"signed by Ann (key {said['key_id'][:16]})" in printed("show", "tiny-1m")
    assert printed("trust", "Ann", "--remove") == f"no longer trusted: Ann, key {said['key_id']}\n"
    assert "signed by a key that is not trusted" in printed("show", "tiny-1m")
    assert "Those who trust it once" in printed("sign", "tiny:1m", "--key", str(key))


def test_a_registry_file_is_signed_and_verified_as_well(tmp_path: Path, models: Path) -> None:
    registry = tmp_path / "acme.toml"
    registry.write_bytes((ROOT / "model_zoo" / "registry.toml").read_bytes())
    assert "registry 'edge-runtime'; not signed)" in printed("verify", str(registry))
    printed("sign", str(registry), "--key", str(tmp_path / "my.pem"), "--new-key", "--owner", "Ann")
    printed("trust", str(tmp_path / "my.pem.pub"))
    assert "registry 'edge-runtime'; signed by Ann (key " in printed("verify", str(registry))
    (result,) = json.loads(printed("verify", str(registry), "--json"))
    assert (result["ok"], result["registry"], result["signature"]["signer"]) == (True, "edge-runtime", "Ann")
    registry.write_bytes(registry.read_bytes() + b"\n")
    assert "acme.toml: its signature is bad: it does not fit" in failed(4, "verify", str(registry))
    (tmp_path / "acme.toml.sig").unlink()
    registry.write_text("format = 1\n")
    assert "acme.toml: line 1: the registry: name is missing" in failed(4, "verify", str(registry))
    assert "none.toml cannot be read: No such file" in failed(2, "verify", str(tmp_path / "none.toml"))


def test_a_damaged_package_is_not_signed(tiny: Path, tmp_path: Path) -> None:
    (tiny / "model.onnx").write_bytes(b"x")
    assert "model.onnx: has 1 bytes" in failed(
        4, "sign", "tiny-1m", "--key", str(tmp_path / "k"), "--new-key"
    )
    assert not (tiny / "manifest.sig").exists()


def test_a_passphrase_protects_the_key(tiny: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    key = ("sign", "tiny-1m", "--key", str(tmp_path / "my.pem"))
    printed(*key, "--new-key", "--passphrase-file", str(secret))
    assert "is encrypted: give its passphrase (--passphrase-file FILE)" in failed(4, *key)
    printed(*key, "--passphrase-file", str(secret))
    secret.write_text("\n")
    assert "has no passphrase in its first line" in failed(2, *key, "--passphrase-file", str(secret))


def test_what_cannot_be_signed_or_trusted_is_said(tiny: Path, tmp_path: Path) -> None:
    key = str(tmp_path / "my.pem")
    assert "Make a key with: edge-runtime models sign NAME --key FILE --new-key" in failed(
        4, "sign", "tiny-1m", "--key", key
    )
    assert "--owner names a key that --new-key makes" in failed(
        2, "sign", "tiny-1m", "--key", key, "--owner", "A"
    )
    printed("pack", "tiny-1m", str(tmp_path / "a.edge"))
    message = failed(2, "sign", str(tmp_path / "a.edge"), "--key", key, "--new-key")
    assert "a.edge is an .edge file; sign the package's folder, then pack it." in message
    assert "none.pub: is neither a line 'edge-ed25519 BASE64 NAME' nor a file" in failed(
        4, "trust", "none.pub"
    )
    nameless = PrivateKey.generate().public.line
    assert "the key has no name; say whose it is with --name" in failed(4, "trust", nameless)
    printed("trust", nameless, "--name", "Ann")
    message = failed(4, "trust", PrivateKey.generate("Ann").public.line)
    assert "Ann: another key of that name is trusted already" in message
    assert "Bob: no key is meant by that; trusted in " in failed(4, "trust", "Bob", "--remove")
    assert "name the KEY." in failed(2, "trust", "--remove")


# --- prune --------------------------------------------------------------------------------------------------


def test_prune_says_what_went_and_keeps_the_configured_model(
    models: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("pocket", "mine", "old"):
        os.utime(make(models / name) / "manifest.json", (1, 1))
    monkeypatch.setenv("EDGE_CHAT_MODEL", "mine")
    assert printed("prune") == "nothing to remove\n"
    dry = printed("prune", "--older-than", "30d", "--dry-run").splitlines()
    assert dry[0].split() == ["name", "what", "size", "why"]
    assert dry[1].startswith("old   package  ")
    assert dry[2:4] == ["kept mine: it is the configured model", "kept pocket: it is the configured model"]
    assert dry[4].startswith("would free ")
    data = json.loads(printed("prune", "--older-than", "30d", "--json"))
    assert [(item["path"], item["what"]) for item in data["removed"]] == [(str(models / "old"), "package")]
    assert data["bytes"] == data["removed"][0]["bytes"] > 5000
    assert [entry["name"] for entry in json.loads(printed("list", "--json"))] == ["mine", "pocket"]
    assert "'soon' is not an age; write one such as 30d, 12h or 2w." in failed(
        2, "prune", "--unused-for", "soon"
    )


@pytest.mark.parametrize("verb", ["list", "show", "verify", "rm", "pack", "prune", "sign", "trust"])
def test_every_subcommand_explains_itself(verb: str) -> None:
    text = printed(verb, "--help")
    assert "--json" in text
    assert f"EDGE_MODELS_{verb.upper()}_JSON" in text
