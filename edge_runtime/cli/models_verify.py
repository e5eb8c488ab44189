"""`edge-runtime models verify`: whether a package is whole, and what was compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import model_zoo
from edge_runtime.cli import output
from edge_runtime.cli.models_common import byte_progress, complete_name
from edge_runtime.trust import signature_policy
from model_zoo import files as fs

__all__ = ["verify"]


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_name)
@click.option("--all", "every", is_flag=True, help="Verify every package, shipped ones included.")
@output.json_option
def verify(names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Check a package's signature, and compare every byte of it with its manifest.

    Checks the signature over the manifest, the manifest against its schema and its own revision, the size and
    SHA-256 of every file, and that nothing else lies in the package. The exit code is 4 when a package is
    damaged, or not signed as [model] signatures of the configuration wants it.
    """
    if every == bool(names):
        raise click.UsageError("name the packages to verify, or give --all (one of the two).")
    wanted = [(e.name, e.path) for e in model_zoo.list_packages()] if every else [(n, n) for n in names]
    policy = signature_policy(output.current_config())
    results = [_verify_one(name, path, policy) for name, path in wanted]
    errors = [(result.name, result.error) for result in results if result.error is not None]
    if as_json:
        output.emit_json([result.to_json() for result in results])
    else:
        for result in results:
            if result.error is None:
                click.echo(f"{result.name}: whole ({result.what})")
    if len(errors) == 1:
        raise errors[0][1]
    if errors:
        listed = "".join(f"\n  {name}: {error}" for name, error in errors)
        raise model_zoo.IntegrityError(f"{len(errors)} of {len(results)} packages do not pass:{listed}")


@dataclass(frozen=True)
class _Checked:
    """What verifying one package found; `error` is `None` when it passes."""

    name: str
    manifest: model_zoo.Manifest | None
    signature: model_zoo.SignatureState | None
    error: model_zoo.ModelZooError | None

    @property
    def what(self) -> str:
        """What was compared, and whose signature it is."""
        files = self.manifest.files if self.manifest else {}
        size = fs.human_size(self.manifest.size_bytes if self.manifest else 0)
        signed = self.signature.text if self.signature else "signature not looked at"
        return f"manifest, and size and SHA-256 of {len(files)} files, {size}; {signed}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object: name, ok, problem, signature, revision, files, bytes."""
        known: dict[str, Any] = {}
        if self.signature is not None:
            known["signature"] = self.signature.to_json()
        if self.manifest is not None:
            files, size = len(self.manifest.files), self.manifest.size_bytes
            known |= {"revision": self.manifest.revision, "files": files, "bytes": size}
        problem = None if self.error is None else str(self.error)
        return {"name": self.name, "ok": self.error is None, "problem": problem, **known}


def _verify_one(name: str, path: Path | str, policy: model_zoo.SignaturePolicy) -> _Checked:
    manifest = signature = None
    try:
        package = model_zoo.inspect_package(path)
        manifest, signature = package.manifest, package.signature(policy)
        with byte_progress(f"verifying {name}") as report:
            package.verify(policy, progress=report)
    except (model_zoo.PackageError, model_zoo.SignatureError) as error:
        return _Checked(name, manifest, signature, error)
    return _Checked(name, manifest, signature, None)
