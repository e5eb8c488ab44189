"""`edge-runtime models verify`: whether a package is whole, and what was compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import model_zoo
from edge_runtime.cli import output
from edge_runtime.cli.models_common import byte_progress, complete_name
from model_zoo import files as fs

__all__ = ["verify"]


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_name)
@click.option("--all", "every", is_flag=True, help="Verify every package, shipped ones included.")
@output.json_option
def verify(names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Compare every byte of a package with its manifest.

    Checks the manifest against its schema and its own revision, the size and SHA-256 of every file, and that
    nothing else lies in the package. The exit code is 4 when a package is damaged.
    """
    if every == bool(names):
        raise click.UsageError("name the packages to verify, or give --all (one of the two).")
    wanted = [(e.name, e.path) for e in model_zoo.list_packages()] if every else [(n, n) for n in names]
    results = [_verify_one(name, path) for name, path in wanted]
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
        raise model_zoo.IntegrityError(f"{len(errors)} of {len(results)} packages are damaged:{listed}")


@dataclass(frozen=True)
class _Checked:
    """What verifying one package found; `error` is `None` when it is whole."""

    name: str
    manifest: model_zoo.Manifest | None
    error: model_zoo.PackageError | None

    @property
    def what(self) -> str:
        """What was compared."""
        files = self.manifest.files if self.manifest else {}
        size = fs.human_size(self.manifest.size_bytes if self.manifest else 0)
        return f"manifest, and size and SHA-256 of {len(files)} files, {size}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object: name, ok, problem, revision, files, bytes."""
        known: dict[str, Any] = {}
        if self.manifest is not None:
            files, size = len(self.manifest.files), self.manifest.size_bytes
            known = {"revision": self.manifest.revision, "files": files, "bytes": size}
        problem = None if self.error is None else str(self.error)
        return {"name": self.name, "ok": self.error is None, "problem": problem, **known}


def _verify_one(name: str, path: Path | str) -> _Checked:
    manifest = None
    try:
        package = model_zoo.inspect_package(path)
        manifest = package.manifest
        with byte_progress(f"verifying {name}") as report:
            package.verify(progress=report)
    except model_zoo.PackageError as error:
        return _Checked(name, manifest, error)
    return _Checked(name, manifest, None)
