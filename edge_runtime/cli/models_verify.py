"""`edge-runtime models verify`: whether packages and registries are whole and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import model_zoo
from edge_runtime.cli import output
from edge_runtime.cli.models_common import byte_progress, complete_name
from edge_runtime.trust import signature_policy
from model_zoo import files as fs
from model_zoo import signing

__all__ = ["verify"]


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_name)
@click.option("--all", "every", is_flag=True, help="Verify every package, shipped ones included.")
@output.json_option
def verify(names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Check a package's signature, and compare every byte of it with its manifest.

    Checks the signature over the manifest, the manifest against its schema and its own revision, the size and
    SHA-256 of every file, and that nothing else lies in the package. Of a registry (a .toml file) it checks
    the signature beside it and every field. The exit code is 4 when something is damaged, or not signed as
    [model] signatures of the configuration wants it.
    """
    if every == bool(names):
        raise click.UsageError("name the packages to verify, or give --all (one of the two).")
    policy = signature_policy(output.current_config())
    if every:
        found = [
            (entry, _verify_package(entry.name, entry.path, policy)) for entry in model_zoo.list_packages()
        ]
        # What another process removed meanwhile is no longer one of them.
        results = [result for entry, result in found if result.error is None or entry.path.is_dir()]
    else:
        results = [_verify_named(name, policy) for name in names]
    errors = [(result.name, result.error) for result in results if result.error is not None]
    if as_json:
        output.emit_json([result.to_json() for result in results])
    else:
        for result in results:
            if result.error is None:
                click.echo(f"{result.name}: whole ({result.compared}; {result.signed})")
    if len(errors) == 1:
        raise errors[0][1]
    if errors:
        listed = "".join(f"\n  {name}: {error}" for name, error in errors)
        raise model_zoo.IntegrityError(f"{len(errors)} of {len(results)} do not pass:{listed}")


@dataclass(frozen=True)
class _Checked:
    """What verifying one thing found: `error` is `None` when it passes, `compared` what was looked at."""

    name: str
    signature: model_zoo.SignatureState | None = None
    error: model_zoo.ModelZooError | None = None
    compared: str = ""
    known: Mapping[str, Any] = field(default_factory=dict)

    @property
    def signed(self) -> str:
        """Whose signature it is."""
        return self.signature.text if self.signature else "signature not looked at"

    def to_json(self) -> dict[str, Any]:
        """A JSON object: name, ok, problem, signature, and what is known of the thing."""
        return {
            "name": self.name,
            "ok": self.error is None,
            "problem": None if self.error is None else str(self.error),
            "signature": None if self.signature is None else self.signature.to_json(),
            **self.known,
        }


def _verify_named(name: str, policy: model_zoo.SignaturePolicy) -> _Checked:
    return (
        _verify_registry(Path(name), policy)
        if name.endswith(".toml")
        else _verify_package(name, name, policy)
    )


def _verify_package(name: str, path: Path | str, policy: model_zoo.SignaturePolicy) -> _Checked:
    signature, compared = None, ""
    known: dict[str, Any] = {}
    try:
        package = model_zoo.inspect_package(path)
        manifest, signature = package.manifest, package.signature(policy)
        count, size = len(manifest.files), manifest.size_bytes
        known = {"revision": manifest.revision, "files": count, "bytes": size}
        compared = f"manifest, and size and SHA-256 of {count} files, {fs.human_size(size)}"
        with byte_progress(f"verifying {name}") as report:
            package.verify(policy, progress=report)
    except (model_zoo.PackageError, model_zoo.SignatureError) as error:
        return _Checked(name, signature, error, compared, known)
    except model_zoo.ModelNotFoundError as error:
        if isinstance(path, str):
            raise  # a wrong name, not a package that went while all were verified
        return _Checked(name, error=error)
    return _Checked(name, signature, None, compared, known)


def _verify_registry(path: Path, policy: model_zoo.SignaturePolicy) -> _Checked:
    from model_zoo.registry_file import parse_registry

    signature = None
    try:
        content = path.read_bytes()
        raw = signing.read_signature(signing.signature_path(path))
        signature = signing.signature_state(content, raw, policy.trusted)
        model_zoo.check_registry(content, raw, policy, str(path))
        name, entries = parse_registry(content, str(path))
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror}.", param_hint="NAME") from error
    except (model_zoo.SignatureError, model_zoo.RegistryError) as error:
        return _Checked(str(path), signature, error)
    known = {"registry": name, "models": len(entries), "bytes": len(content)}
    return _Checked(
        str(path), signature, None, f"every field of {len(entries)} models, registry '{name}'", known
    )
