"""The verb `keys`: making, signing, rotating and showing, and what is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge_runtime.cli import cli
from offload.channel import Expected, GatewayKey, RootKey, open_request, seal_request, verify
from offload.channel.keyfiles import decode_key, read_key


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["keys", *map(str, arguments)], catch_exceptions=False)


def good(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A root, a gateway's key, and a file signed by the one for the other."""
    good("new", "root", tmp_path / "root", "--name", "Ada", "--unencrypted")
    good("new", "gateway", tmp_path / "gate-1", "--unencrypted")
    good("sign", tmp_path / "keys.json", tmp_path / "gate-1.pub", *signing(tmp_path, 1))
    return tmp_path


def signing(place: Path, epoch: int) -> list[str]:
    return [
        *("--root", str(place / "root"), "--gateway", "home-gw", "--region", "eu-central"),
        *("--jurisdiction", "DE", "--epoch", str(epoch)),
    ]


def test_what_the_verb_signs_a_device_accepts(place: Path) -> None:
    shown = good("show", place / "keys.json")
    root = good("show", place / "root.pub")["fingerprint"]
    assert shown["signed_by"] == [root]
    verified = verify(
        (place / "keys.json").read_bytes(),
        [root],
        Expected("home-gw", "eu-central", "DE"),
        now_s=shown["issued_at"],
    )
    assert verified.document.not_after - verified.document.issued_at == 30 * 86400
    key = decode_key(read_key(place / "gate-1"), None, "FILE")
    assert isinstance(key, GatewayKey)
    assert verified.document.configs == (key.config,)
    sealed, _ = seal_request(verified.document.configs[0], b"question")
    assert open_request({1: key}, sealed).message == b"question"


def test_rotation_puts_a_new_key_first_and_keeps_the_old_one_until_it_is_retired(place: Path) -> None:
    first = (place / "keys.json").read_bytes()
    rotated = good("rotate", place / "keys.json", place / "gate-2", "--root", place / "root", "--unencrypted")
    assert [key["number"] for key in rotated["keys"]] == [2, 1]
    assert rotated["epoch"] == 2
    again = good(
        *("rotate", place / "keys.json", place / "gate-3", "--root", place / "root", "--unencrypted"),
        *("--retire", "1", "--kem", "x25519"),
    )
    assert [(key["number"], key["kem"]) for key in again["keys"]] == [(3, "x25519"), (2, "x-wing")]
    assert again["retired"] == [1]
    root = again["signed_by"]
    device = verify(first, root, Expected("home-gw", "eu-central"), now_s=again["issued_at"])
    newest = (place / "keys.json").read_bytes()
    moved = verify(newest, root, Expected("home-gw", "eu-central"), now_s=again["issued_at"], pin=device.pin)
    assert moved.pin.epoch == 3


def test_passphrases_come_from_files_and_none_must_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("correct horse\nnot this\n")
    made = good("new", "root", tmp_path / "root", "--passphrase-file", tmp_path / "pass")
    assert made["encrypted"]
    good("new", "gateway", tmp_path / "gate-1", "--passphrase-file", tmp_path / "pass")
    assert decode_key(read_key(tmp_path / "root"), b"correct horse", "FILE")
    refused = run("sign", tmp_path / "keys.json", tmp_path / "gate-1", *signing(tmp_path, 1))
    assert refused.exit_code == 2
    assert "is encrypted: give its passphrase (--root-passphrase-file FILE)" in refused.stderr
    given = [*signing(tmp_path, 1), "--root-passphrase-file", str(tmp_path / "pass")]
    good("sign", tmp_path / "keys.json", tmp_path / "gate-1", *given)
    for arguments, error in (
        (["new", "root", tmp_path / "other"], "needs a passphrase: --passphrase-file FILE, or --unencrypted"),
        (
            ["new", "root", tmp_path / "other", "--unencrypted", "--passphrase-file", tmp_path / "pass"],
            "exclude each other",
        ),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert error in result.stderr
        assert not (tmp_path / "other").exists()


def test_what_cannot_be_signed_or_rotated_is_refused_and_nothing_is_written(place: Path) -> None:
    good("new", "root", place / "stranger", "--unencrypted")
    good("new", "gateway", place / "twin", "--unencrypted")
    before = (place / "keys.json").read_bytes()
    rotate = ["rotate", place / "keys.json", place / "gate-2", "--unencrypted"]
    sign = ["sign", place / "keys.json", place / "gate-1.pub"]
    for arguments, code, error in (
        ([*sign, *signing(place, 1)], 2, "has epoch 1 already; devices take 2 or more"),
        ([*sign, place / "twin.pub", *signing(place, 2)], 2, "two keys have the number 1"),
        ([*sign, *signing(place, 2)[2:], "--root", place / "gate-1"], 7, "where the key of a root is due"),
        ([*sign, *signing(place, 2), "--region", "eu central"], 7, "the region 'eu central' is not valid"),
        ([*sign[:2], place / "root.pub", *signing(place, 2)], 7, "a gateway's public key is one line"),
        ([*rotate, "--root", place / "stranger"], 2, "is not signed by this root"),
        ([*rotate, "--root", place / "root", "--retire", "5"], 2, "has no key 5; it has 1"),
        (["rotate", place / "missing", place / "gate-2", "--root", place / "root"], 7, "cannot be read"),
    ):
        result = run(*arguments)
        assert (result.exit_code, (place / "gate-2").exists()) == (code, False), result.output
        assert error in result.stderr
        assert (place / "keys.json").read_bytes() == before


def test_show_tells_what_a_file_is_and_nothing_secret(place: Path) -> None:
    secret = json.loads((place / "gate-1").read_text())["secret"]
    for name, words in (
        ("root", ["root", "Ada", "fingerprint"]),
        ("root.pub", ["fingerprint"]),
        ("gate-1", ["gateway", "x-wing", "CHACHA20_POLY1305"]),
        ("gate-1.pub", ["x-wing"]),
        ("keys.json", ["home-gw", "eu-central", "DE", "valid until", "signed by"]),
    ):
        result = run("show", place / name)
        assert result.exit_code == 0, result.output
        assert all(word in result.output for word in words), result.output
        assert secret not in result.output
    root = good("show", place / "root.pub")["fingerprint"]
    assert run("show", place / "keys.json", "--fingerprint", root).exit_code == 0
    wrong = run("show", place / "keys.json", "--fingerprint", "0" * 64)
    assert wrong.exit_code == 7
    assert f"is signed by {root}, not by 0000" in wrong.stderr
    assert run("show", place / "root", "--fingerprint", root).exit_code == 2
    assert (place / "root.pub").read_text().endswith(" Ada\n")


def test_a_signed_file_that_was_changed_is_signed_by_nobody(place: Path) -> None:
    value = json.loads((place / "keys.json").read_text())
    value["signers"][0]["ed25519"] = "A" * 86 + "=="
    (place / "keys.json").write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    assert good("show", place / "keys.json")["signed_by"] == []
    assert "its signatures do not hold" in run("show", place / "keys.json").output
    assert (
        "is not signed by this root"
        in run(
            "rotate", place / "keys.json", place / "gate-2", "--root", place / "root", "--unencrypted"
        ).stderr
    )


def test_rotating_loses_no_key_that_is_not_known_here(place: Path) -> None:
    root = decode_key(read_key(place / "root"), None, "FILE")
    assert isinstance(root, RootKey)
    fields = json.loads(base64.b64decode(json.loads((place / "keys.json").read_text())["payload"]))
    unknown = bytes.fromhex("0009050011000400010001ff")[:11]  # a key of KEM 0x0011
    fields["keys"] = base64.b64encode(base64.b64decode(fields["keys"]) + unknown).decode()
    payload = (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()
    file = {"format": 1, "payload": base64.b64encode(payload).decode(), "signers": [root.sign(payload)]}
    (place / "keys.json").write_text(json.dumps(file, indent=2, sort_keys=True) + "\n")
    refused = run("rotate", place / "keys.json", place / "gate-2", "--root", place / "root", "--unencrypted")
    assert refused.exit_code == 2
    assert "would be lost; sign anew with: edge-runtime keys sign" in refused.stderr
    assert not (place / "gate-2").exists()
