"""Key files: modes, passphrases, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from offload.channel import (
    GatewayKey,
    KemId,
    KeyFileError,
    RootKey,
    open_request,
    seal_request,
)
from offload.channel.keyfiles import (
    decode_key,
    encode_key,
    parse_gateway_line,
    read_key,
    read_key_file,
    replace_file,
    write_key,
)

ROOT = RootKey.generate(os.urandom)
KEY = GatewayKey.generate(1)
WORK = 2
"""scrypt's n in these tests: quick, and of no use to anybody."""


@pytest.mark.parametrize(
    "key", [ROOT, KEY, GatewayKey.generate(9, KemId.P256)], ids=["root", "x-wing", "p-256"]
)
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_key_comes_back_from_its_file(key: Any, passphrase: bytes | None) -> None:
    content = encode_key(key, passphrase, "Ada", scrypt_n=WORK)
    read = decode_key(content, passphrase, "FILE")
    if isinstance(key, RootKey):
        assert isinstance(read, RootKey)
        assert read.public == key.public
    else:
        assert isinstance(read, GatewayKey)
        assert read.config == key.config
        sealed, _ = seal_request(read.config, b"text")
        assert open_request({read.config.key_id: read}, sealed).message == b"text"
    shown = read_key_file(content, "FILE")
    assert (shown.name, shown.is_encrypted) == ("Ada", passphrase is not None)


def test_an_encrypted_file_does_not_hold_the_secret() -> None:
    import base64

    plain, sealed = encode_key(ROOT, None), encode_key(ROOT, b"passphrase", scrypt_n=WORK)
    secret = base64.b64encode(ROOT.secret_bytes())
    assert secret in plain
    assert secret not in sealed
    assert encode_key(ROOT, b"passphrase", scrypt_n=WORK) != sealed  # salt and nonce are fresh


def test_a_wrong_missing_or_needless_passphrase_is_told_apart() -> None:
    sealed = encode_key(KEY, b"right", scrypt_n=WORK)
    with pytest.raises(
        KeyFileError, match="FILE: cannot be decrypted: the passphrase is wrong, or the file was"
    ):
        decode_key(sealed, b"wrong", "FILE")
    with pytest.raises(
        KeyFileError, match=r"FILE: is encrypted: give its passphrase \(--passphrase-file FILE\)"
    ):
        decode_key(sealed, None, "FILE")
    with pytest.raises(KeyFileError, match="FILE: is not encrypted: leave the passphrase out"):
        decode_key(encode_key(KEY, None), b"right", "FILE")
    with pytest.raises(KeyFileError, match="passphrase is empty"):
        encode_key(KEY, b"")


def changed(content: bytes, **values: Any) -> bytes:
    return json.dumps({**json.loads(content), **values}).encode()


def test_what_stands_beside_the_secret_is_bound_to_it() -> None:
    other = GatewayKey.generate(1)
    public = json.loads(encode_key(other, None))["public"]
    sealed = encode_key(KEY, b"right", "Ada", scrypt_n=WORK)
    for values in ({"public": public}, {"name": "Eve"}):
        with pytest.raises(KeyFileError, match="the file was changed"):
            decode_key(changed(sealed, **values), b"right", "FILE")
    with pytest.raises(KeyFileError, match="its public half is another key's"):
        decode_key(changed(encode_key(KEY, None), public=public), None, "FILE")
    root = json.loads(encode_key(RootKey.generate(os.urandom), None))["public"]
    with pytest.raises(KeyFileError, match="its public half is"):
        decode_key(changed(encode_key(ROOT, None), public=root), None, "FILE")


def test_a_file_cannot_make_the_reader_work_without_end() -> None:
    cipher = json.loads(encode_key(KEY, b"right", scrypt_n=WORK))["cipher"]
    for values in ({"n": 1 << 30}, {"n": 1000}, {"n": True}, {"r": 1 << 20}, {"kdf": "md5"}, {"salt": ""}):
        content = changed(encode_key(KEY, b"right", scrypt_n=WORK), cipher={**cipher, **values})
        with pytest.raises(KeyFileError, match="FILE: is no key file"):
            decode_key(content, b"right", "FILE")


def test_a_private_key_is_written_for_its_owner_alone_and_never_over_another(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        public = write_key(tmp_path / "key", KEY, None)
    finally:
        os.umask(old)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644
    assert parse_gateway_line(public.read_text(), "FILE") == KEY.config
    for name in ("key", "key.pub"):
        with pytest.raises(KeyFileError, match="exists already; a key is never overwritten"):
            write_key(tmp_path / name.removesuffix(".pub"), KEY, None)
        (tmp_path / "key").unlink(missing_ok=True)
    with pytest.raises(KeyFileError, match="cannot be written: No such file"):
        write_key(tmp_path / "missing" / "key", KEY, None)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o666])
def test_a_private_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_key(path, KEY, None)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"mode {mode:04o}\) is not used. Make it yours alone: chmod 600"):
        read_key(path)


def test_what_is_no_key_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        read_key(tmp_path / "missing")
    (tmp_path / "long").write_bytes(bytes(70_000))
    (tmp_path / "long").chmod(0o600)
    with pytest.raises(KeyFileError, match="longer than any key file"):
        read_key(tmp_path / "long")
    with pytest.raises(KeyFileError, match="is no regular file"):
        read_key(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="is no regular file"):
        read_key(tmp_path / "pipe")
    with pytest.raises(KeyFileError, match="not a private key"):
        parse_gateway_line(encode_key(KEY, None).decode(), "FILE")
    with pytest.raises(KeyFileError, match="where the key of a gateway is due"):
        _ = read_key_file(encode_key(ROOT, None), "FILE").config


def test_a_public_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [item.name for item in tmp_path.iterdir()] == ["keys.json"]
    with pytest.raises(KeyFileError, match="cannot be written"):
        replace_file(tmp_path / "missing" / "keys.json", b"three")
