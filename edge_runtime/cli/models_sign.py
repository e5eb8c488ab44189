"""`edge-runtime models sign` and `trust`: vouch for packages and registries, and choose whose word counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

import model_zoo
from edge_runtime import trust as keys
from edge_runtime.cli import output
from edge_runtime.cli.models_common import byte_progress, complete_name
from model_zoo import PrivateKey
from model_zoo.keys import name_problem

__all__ = ["sign", "trust"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("name", shell_complete=complete_name)
@click.option(
    "--key", "key_file", type=_FILE, required=True, help="Private Ed25519 key: PEM, readable by you alone."
)
@click.option(
    "--new-key", is_flag=True, help="Make the key first: the file of --key, and FILE.pub to give away."
)
@click.option("--owner", help="With --new-key: whose key it is; the name that goes into FILE.pub.")
@click.option("--passphrase-file", type=_FILE, help="File with the passphrase of the key in its first line.")
@output.json_option
def sign(
    name: str, key_file: Path, new_key: bool, owner: str | None, passphrase_file: Path | None, as_json: bool
) -> None:
    """Sign a package, so that others can tell who made it.

    NAME is a package's name or folder, or a registry (a .toml file). Every byte of a package is verified
    first; then manifest.sig is written into it, or FILE.toml.sig beside a registry. A key made by
    `openssl genpkey -algorithm ed25519` will do as well.
    """
    if owner is not None and not new_key:
        raise click.UsageError("--owner names a key that --new-key makes; give both.")
    key = _key(key_file, new_key, owner or "", passphrase_file)
    is_registry = name.endswith(".toml")
    signed = model_zoo.sign_file(Path(name), key) if is_registry else _sign_package(name, key)
    if as_json:
        output.emit_json({"signature": str(signed), "key_id": key.public.id, "public_key": key.public.line})
        return
    click.echo(f"{signed}: signed with key {key.public.id}")
    click.echo(f"Those who trust it once need no other word: edge-runtime models trust '{key.public.line}'")


def _sign_package(name: str, key: PrivateKey) -> Path:
    package = model_zoo.inspect_package(name)
    if package.source.is_file():
        raise click.BadParameter(
            f"{package.source} is an .edge file; sign the package's folder, then pack it.", param_hint="NAME"
        )
    with byte_progress(f"verifying {name}") as report:
        replace(package, raw_signature=None).verify(progress=report)  # the old signature goes anyway
    model_zoo.sign_package(package.source, key)
    return package.source / "manifest.sig"


def _key(path: Path, new: bool, owner: str, passphrase_file: Path | None) -> PrivateKey:
    passphrase = _passphrase(passphrase_file)
    if new:
        problem = name_problem(owner)
        if problem is not None:
            raise click.BadParameter(f"{owner!r}: {problem}.", param_hint="--owner")
        key = PrivateKey.generate(owner)
        public = key.save(path, passphrase)
        output.status(f"made {path} (keep it to yourself) and {public} (give it away)")
        return key
    if passphrase is None and PrivateKey.is_encrypted(path) and output.stderr_is_terminal():
        passphrase = click.prompt(f"Passphrase of {path}", hide_input=True, err=True).encode()
    return PrivateKey.load(path, passphrase)


def _passphrase(file: Path | None) -> bytes | None:
    if file is None:
        return None
    first, *_ = file.read_bytes().split(b"\n")
    if not first.strip():
        raise click.BadParameter(
            f"{file} has no passphrase in its first line.", param_hint="--passphrase-file"
        )
    return first.rstrip(b"\r")


@click.command()
@click.argument("key", required=False)
@click.option("--name", help="What to call the key's owner instead of the name in the key.")
@click.option(
    "--remove", is_flag=True, help="Trust KEY no longer: a name, an id or its beginning, or a file."
)
@output.json_option
def trust(key: str | None, name: str | None, remove: bool, as_json: bool) -> None:
    """Trust the signatures of a key; without KEY, list the trusted ones.

    KEY is a public key: a .pub file, or its line 'edge-ed25519 BASE64 NAME'. Compare its id with its owner by
    another way than the one it came by. Trusted keys lie in trusted-keys beside the configuration file, or
    stand in [model] trusted_keys.
    """
    settings, folder = output.current_config(), keys.trusted_keys_folder()
    if key is None:
        if remove or name is not None:
            raise click.UsageError("name the KEY.")
        found = sorted(keys.trusted_keys(settings).values(), key=lambda item: item.name)
        if as_json:
            output.emit_json(
                [{"name": item.name, "key_id": item.id, "public_key": item.line} for item in found]
            )
        elif found:
            output.print_table(("name", "key id"), [(item.name, item.id) for item in found])
        else:
            click.echo("No key is trusted.")
        return
    if remove:
        gone = keys.remove_trusted_key(key, folder)
    else:
        gone = keys.add_trusted_key(keys.read_key(key, name), folder, keys.trusted_keys(settings))
    if as_json:
        output.emit_json({"name": gone.name, "key_id": gone.id, "trusted": not remove})
    else:
        click.echo(f"{'no longer trusted' if remove else 'trusted'}: {gone.name}, key {gone.id}")
