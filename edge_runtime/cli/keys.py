"""`edge-runtime keys`: the keys of a gateway and of the root that vouches for them.

Does not know: formats and cryptography (`offload.channel` does, and is imported on use: it takes a while).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_runtime.cli import output

if TYPE_CHECKING:
    from offload.channel import GatewayKey, KeyConfig, RegionalKeys, RootKey

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
_KEMS = {"x-wing": 0x647A, "x25519": 0x0020, "p-256": 0x0010}
_DAY = 86400


def _kem_option(command: F) -> F:
    return click.option(
        "--kem",
        type=click.Choice(list(_KEMS)),
        default="x-wing",
        help="Kind of a gateway's key: x-wing resists quantum computers; the others are for old peers.",
    )(command)


def _passphrase_options(command: F) -> F:
    command = click.option(
        "--unencrypted",
        is_flag=True,
        help="Write the new key without a passphrase; its file's mode alone protects it.",
    )(command)
    return click.option(
        "--passphrase-file", type=_FILE, help="File with the new key's passphrase in its first line."
    )(command)


def _root_options(command: F) -> F:
    command = click.option(
        "--root-passphrase-file", type=_FILE, help="File with the root's passphrase in its first line."
    )(command)
    return click.option("--root", "root_file", type=_FILE, required=True, help="Key file of the root.")(
        command
    )


def _days_option(command: F) -> F:
    return click.option(
        "--days", type=click.IntRange(1, 92), default=30, help="For how long devices may seal to the keys."
    )(command)


@click.group(name="keys")
def command() -> None:
    """Make, sign, show and rotate the keys of a gateway.

    A root signs which keys a gateway in a region has, and until when; devices pin the root's fingerprint.
    Keep the root's key where no gateway is. Private keys lie in files that only their owner can read.
    """


@command.command()
@click.argument("kind", type=click.Choice(["root", "gateway"]))
@click.argument("file", type=_FILE)
@click.option("--name", help="Whose root it is; stands in FILE.pub.")
@click.option("--number", type=click.IntRange(0, 255), default=1, help="Number of a gateway's key.")
@_kem_option
@_passphrase_options
@output.json_option
def new(
    kind: str,
    file: Path,
    name: str | None,
    number: int,
    kem: str,
    passphrase_file: Path | None,
    unencrypted: bool,
    as_json: bool,
) -> None:
    """Make a key: FILE, to keep to yourself, and FILE.pub, to give away."""
    from offload.channel import GatewayKey, KemId, RootKey
    from offload.channel.keyfiles import public_line, write_key

    passphrase = _new_passphrase(passphrase_file, unencrypted, file)
    root = kind == "root"
    key = RootKey.generate(os.urandom) if root else GatewayKey.generate(number, KemId(_KEMS[kem]))
    public = write_key(file, key, passphrase, name or "")
    if as_json:
        output.emit_json(
            {"kind": kind, "file": str(file), "public_file": str(public), "encrypted": passphrase is not None}
            | _described(key)
        )
        return
    click.echo(f"made {file} (keep it to yourself) and {public} (give it away)")
    if isinstance(key, RootKey):
        click.echo(public_line(key, name or ""))
    else:
        click.echo(f"key {key.config.key_id}: {_config_text(key.config)}")


@command.command()
@click.argument("out", type=_FILE)
@click.argument("keys", metavar="KEY...", nargs=-1, required=True, type=_FILE)
@click.option(
    "--gateway", required=True, help="Name of the gateway, as devices have it in their configuration."
)
@click.option("--region", required=True, help="Where the private keys are, and stay.")
@click.option("--jurisdiction", required=True, help="Whose law holds there, such as DE.")
@click.option("--epoch", type=click.IntRange(1), required=True, help="Higher than that of every file before.")
@_days_option
@_root_options
@output.json_option
def sign(
    out: Path,
    keys: tuple[Path, ...],
    gateway: str,
    region: str,
    jurisdiction: str,
    epoch: int,
    days: int,
    root_file: Path,
    root_passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Sign which keys a gateway has: OUT is what it gives to devices.

    KEY are the gateway's keys, newest first: key files or, better, their .pub files, so that the root never
    meets a gateway's private key. Devices refuse an epoch that is lower than one they have seen.
    """
    from offload.channel import RegionalKeys
    from offload.channel import sign as signed
    from offload.channel.keyfiles import replace_file

    configs = tuple(_read_config(path) for path in keys)
    _refuse_twins(configs)
    root = _root(root_file, root_passphrase_file)
    now = int(time.time())
    document = RegionalKeys(gateway, region, jurisdiction, epoch, now, now + days * _DAY, configs)
    if out.exists():
        _refuse_old_epoch(out, document)
    replace_file(out, signed(document, [root]))
    _report(out, document, [root.fingerprint], as_json)


@command.command()
@click.argument("file", type=_FILE)
@click.option("--fingerprint", help="Check that the root with this fingerprint has signed FILE.")
@output.json_option
def show(file: Path, fingerprint: str | None, as_json: bool) -> None:
    """Show a key file, a .pub file or a signed file; nothing secret is shown or asked for."""
    from offload.channel.keyfiles import KeyFile, parse_gateway_line, read_key, read_key_file
    from offload.channel.regional import fingerprint as fingerprint_of

    content = _read_public(file)
    if content.startswith(b"edge-"):
        line = content.decode("utf-8", "replace").strip()
        if line.startswith("edge-root "):
            shown: dict[str, Any] = {"kind": "root", "fingerprint": line.split()[1]}
        else:
            shown = {"kind": "gateway", **_config_json(parse_gateway_line(line, str(file)))}
    elif b'"payload"' in content:
        return _show_signed(file, content, fingerprint, as_json)
    else:
        key: KeyFile = read_key_file(read_key(file), str(file))
        shown = {"kind": key.kind, "name": key.name, "encrypted": key.is_encrypted}
        shown |= (
            {"fingerprint": fingerprint_of(key.public)} if key.kind == "root" else _config_json(key.config)
        )
    if fingerprint is not None:
        raise click.UsageError(f"--fingerprint is for a signed file, but {file} holds a key.")
    if as_json:
        output.emit_json({"file": str(file), **shown})
    else:
        output.print_table(
            ("", ""), [(name, _plain(value)) for name, value in shown.items()], title=str(file)
        )
    return None


@command.command()
@click.argument("signed_file", metavar="SIGNED", type=_FILE)
@click.argument("file", type=_FILE)
@click.option(
    "--retire", type=click.IntRange(0, 255), multiple=True, help="Leave the key of this number out."
)
@_kem_option
@_days_option
@_root_options
@_passphrase_options
@output.json_option
def rotate(
    signed_file: Path,
    file: Path,
    retire: tuple[int, ...],
    kem: str,
    days: int,
    root_file: Path,
    root_passphrase_file: Path | None,
    passphrase_file: Path | None,
    unencrypted: bool,
    as_json: bool,
) -> None:
    """Make the gateway's next key in FILE and sign it into SIGNED, before the ones it has.

    The old keys stay until they are retired, so that what was sealed to them is still opened. Retire a key
    when nothing is under way to it any more; then delete its file: what was sealed to it stays closed.
    """
    from offload.channel import GatewayKey, KemId, RegionalKeys
    from offload.channel import sign as signed
    from offload.channel.keyfiles import replace_file, write_key
    from offload.channel.regional import open_signed, read_unverified, signers_of

    content = _read_public(signed_file)
    old = read_unverified(content)
    if old.encode() != open_signed(content)[0]:
        raise click.UsageError(
            f"{signed_file} has keys or algorithms that are not known here and would be lost; sign anew "
            "with: edge-runtime keys sign"
        )
    numbers = {config.key_id for config in old.configs}
    unknown = set(retire) - numbers
    if unknown:
        raise click.BadParameter(
            f"{signed_file} has no key {min(unknown)}; it has {', '.join(map(str, sorted(numbers)))}.",
            param_hint="--retire",
        )
    root = _root(root_file, root_passphrase_file)
    if root.fingerprint not in signers_of(content):
        raise click.BadParameter(
            f"{signed_file} is not signed by this root ({root.fingerprint[:16]}).", param_hint="--root"
        )
    newest = old.configs[0].key_id
    number = next((n % 256 for n in range(newest + 1, newest + 256) if n % 256 not in numbers), None)
    if number is None:
        raise click.UsageError("every number of a key is in use (0 to 255); retire one first.")
    key = GatewayKey.generate(number, KemId(_KEMS[kem]))
    kept = tuple(config for config in old.configs if config.key_id not in retire)
    now = max(int(time.time()), old.issued_at)
    document = RegionalKeys(
        old.gateway, old.region, old.jurisdiction, old.epoch + 1, now, now + days * _DAY, (key.config, *kept)
    )
    new_file = signed(document, [root])
    # The private key is on the disk before any device can learn of its public half.
    write_key(file, key, _new_passphrase(passphrase_file, unencrypted, file))
    replace_file(signed_file, new_file)
    if not as_json:
        click.echo(f"made {file} (keep it to yourself) and {file}.pub")
    _report(signed_file, document, [root.fingerprint], as_json, key_file=str(file), retired=sorted(retire))


def _show_signed(file: Path, content: bytes, fingerprint: str | None, as_json: bool) -> None:
    from offload.channel.regional import read_unverified, signers_of

    document, signers = read_unverified(content), signers_of(content)
    if fingerprint is not None and fingerprint.lower() not in signers:
        from offload.channel import SignatureError

        found = ", ".join(signers) or "nobody"
        raise SignatureError(f"{file}: is signed by {found}, not by {fingerprint}")
    _report(file, document, signers, as_json)


def _report(file: Path, document: RegionalKeys, signers: list[str], as_json: bool, **more: object) -> None:
    if as_json:
        output.emit_json(
            {
                "file": str(file),
                "gateway": document.gateway,
                "region": document.region,
                "jurisdiction": document.jurisdiction,
                "epoch": document.epoch,
                "issued_at": document.issued_at,
                "not_after": document.not_after,
                "keys": [_config_json(config) for config in document.configs],
                "signed_by": signers,
                **more,
            }
        )
        return
    left = (document.not_after - time.time()) / _DAY
    rows: list[tuple[str, object]] = [
        ("gateway", document.gateway),
        ("region", document.region),
        ("jurisdiction", document.jurisdiction),
        ("epoch", document.epoch),
        ("valid until", f"{_utc(document.not_after)} ({left:.0f} days)" if left > 0 else "expired"),
        *((f"key {config.key_id}", _config_text(config)) for config in document.configs),
        *(("signed by", signer) for signer in signers or ["nobody: its signatures do not hold"]),
    ]
    output.print_table(("", ""), rows, title=str(file))


def _described(key: RootKey | GatewayKey) -> dict[str, Any]:
    from offload.channel import RootKey

    return {"fingerprint": key.fingerprint} if isinstance(key, RootKey) else _config_json(key.config)


def _config_json(config: KeyConfig) -> dict[str, Any]:
    import hashlib

    return {
        "number": config.key_id,
        "kem": next(name for name, number in _KEMS.items() if number == config.kem),
        "aeads": [aead.name for aead in config.aeads],
        "public_sha256": hashlib.sha256(config.public).hexdigest(),
    }


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _config_text(config: KeyConfig) -> str:
    shown = _config_json(config)
    return f"{shown['kem']}, SHA-256 {shown['public_sha256'][:16]}"


def _read_config(path: Path) -> KeyConfig:
    from offload.channel.keyfiles import parse_gateway_line, read_key, read_key_file

    content = _read_public(path)
    if content.startswith(b"edge-"):
        return parse_gateway_line(content.decode("utf-8", "replace"), str(path))
    return read_key_file(read_key(path), str(path)).config


def _read_public(path: Path) -> bytes:
    from offload.channel import KeyFileError

    try:
        with path.open("rb") as file:
            return file.read(256 * 1024)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _refuse_twins(configs: tuple[KeyConfig, ...]) -> None:
    numbers = [config.key_id for config in configs]
    twice = {number for number in numbers if numbers.count(number) > 1}
    if twice:
        raise click.BadParameter(
            f"two keys have the number {min(twice)}; make one of them anew with another --number.",
            param_hint="KEY",
        )


def _refuse_old_epoch(out: Path, document: RegionalKeys) -> None:
    from offload.channel.regional import read_unverified

    before = read_unverified(_read_public(out))
    if before.gateway == document.gateway and before.epoch >= document.epoch:
        raise click.BadParameter(
            f"{out} has epoch {before.epoch} already; devices take {before.epoch + 1} or more.",
            param_hint="--epoch",
        )


def _root(path: Path, passphrase_file: Path | None) -> RootKey:
    from offload.channel import KeyFileError, RootKey
    from offload.channel.keyfiles import decode_key, read_key, read_key_file

    content = read_key(path)
    passphrase = _first_line(passphrase_file, "--root-passphrase-file")
    encrypted = read_key_file(content, str(path)).is_encrypted
    if encrypted and passphrase is None:
        if not output.stderr_is_terminal():
            raise click.UsageError(f"{path} is encrypted: give its passphrase (--root-passphrase-file FILE).")
        passphrase = click.prompt(f"Passphrase of {path}", hide_input=True, err=True).encode()
    key = decode_key(content, passphrase, str(path))
    if not isinstance(key, RootKey):
        raise KeyFileError(f"{path}: is the key of a gateway, where the key of a root is due")
    return key


def _new_passphrase(file: Path | None, unencrypted: bool, path: Path) -> bytes | None:
    """What the new key is encrypted with; to leave it open must be asked for."""
    if unencrypted and file is not None:
        raise click.UsageError("--unencrypted and --passphrase-file exclude each other.")
    if unencrypted:
        return None
    passphrase = _first_line(file, "--passphrase-file")
    if passphrase is not None:
        return passphrase
    if not output.stderr_is_terminal():
        raise click.UsageError(
            f"{path} needs a passphrase: --passphrase-file FILE, or --unencrypted for none."
        )
    prompt = f"New passphrase of {path}"
    typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True)
    return typed.encode()


def _first_line(file: Path | None, option: str) -> bytes | None:
    if file is None:
        return None
    first = file.read_bytes().split(b"\n")[0].rstrip(b"\r")
    if not first.strip():
        raise click.BadParameter(f"{file} has no passphrase in its first line.", param_hint=option)
    return first


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
