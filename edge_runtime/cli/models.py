"""`edge-runtime models`: the packages on this device: list, show, verify, remove, pack.

Knows: how packages are shown. Does not know: their format (`model_zoo` does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

import model_zoo
from edge_runtime.cli import output
from model_zoo import files as fs

__all__ = ["command", "list_command", "pack", "rm", "show", "verify"]


def _complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    names = [entry.name for entry in model_zoo.list_packages()]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.group(name="models")
def command() -> None:
    """Look after the model packages on this device.

    Packages are found by name in the models folder and among those shipped with the program; a path to a
    package folder or an .edge file works as well. The models folder is edge-runtime/models in the XDG data
    folder, or the one that EDGE_MODELS_DIR names.
    """


@command.command(name="list")
@output.json_option
def list_command(as_json: bool) -> None:
    """List the packages: name, size, scheme, licence, engine."""
    entries = model_zoo.list_packages()
    if as_json:
        output.emit_json([_entry_json(entry) for entry in entries])
        return
    if not entries:
        click.echo(f"No packages in {model_zoo.models_dir()}. Make one with: edge-runtime quantize SRC OUT")
        return
    columns = ("name", "size", "scheme", "context", "licence", "engine", "where")
    rows: list[tuple[object, ...]] = []
    for entry in entries:
        where = "shipped" if entry.shipped else "installed"
        if entry.manifest is None:
            rows.append((entry.name, None, None, None, None, None, f"{where}, unreadable"))
            continue
        m = entry.manifest
        size = fs.human_size(m.size_bytes)
        rows.append(
            (entry.name, size, m.quantization.scheme, m.context_length, m.licence.id, m.engine, where)
        )
    output.print_table(columns, rows)
    for entry in entries:
        if entry.problem is not None:
            output.status(entry.problem)


@command.command()
@click.argument("name", shell_complete=_complete_name)
@click.option("--context", type=click.IntRange(min=1), help="Tokens of KV cache in the sum of memory.")
@output.json_option
def show(name: str, context: int | None, as_json: bool) -> None:
    """Show the whole manifest of NAME, its evaluation, and the memory it needs.

    NAME is a package's name, its folder, or an .edge file. The sum of memory is weights + KV cache + runtime,
    with the model's whole context unless --context says less.
    """
    package = model_zoo.inspect_package(name)
    manifest = package.manifest
    tokens = manifest.context_length if context is None else context
    if tokens > manifest.context_length:
        raise click.BadParameter(
            f"{tokens} tokens are more than the model's context of {manifest.context_length}.",
            param_hint="--context",
        )
    memory = _memory(manifest.memory, tokens)
    if as_json:
        path, sha256 = str(package.source), package.manifest_sha256
        extra = {"path": path, "manifest_sha256": sha256, "memory_needed": memory}
        output.emit_json({**manifest.to_dict(), **extra})
        return
    for title, rows in _sections(package):
        output.print_table(("key", "value"), rows, title=title)
        click.echo()
    files = [(path, fs.human_size(e.size), e.sha256) for path, e in sorted(manifest.files.items())]
    output.print_table(("file", "size", "SHA-256"), files, title="files")
    click.echo()
    output.print_table(("part", "size"), _memory_rows(manifest.memory, tokens), title="memory needed")


@command.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=_complete_name)
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


@command.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete_name)
@output.json_option
def rm(names: tuple[str, ...], as_json: bool) -> None:
    """Remove installed packages. Shipped ones go with the program only."""
    removed = []
    for name in names:
        path = model_zoo.remove(name)
        removed.append({"name": name, "path": str(path)})
        if not as_json:
            click.echo(f"removed {path}")
    if as_json:
        output.emit_json(removed)


@command.command()
@click.argument("name", shell_complete=_complete_name)
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace OUT when it exists.")
@output.json_option
def pack(name: str, out: Path, overwrite: bool, as_json: bool) -> None:
    """Write the package NAME as the one file OUT (.edge), verified on the way.

    The same package always gives the same bytes. It runs as it is: edge-runtime run --model OUT.edge
    """
    if out.suffix != ".edge":
        raise click.BadParameter(f"{out} must end in .edge.", param_hint="OUT")
    package = model_zoo.inspect_package(name)
    if package.source.is_file():
        raise click.BadParameter(f"{package.source} is an .edge file already; copy it.", param_hint="NAME")
    with _progress(f"packing {name}") as report:
        path = model_zoo.pack(package.source, out, overwrite=overwrite, progress=report)
    size, sha256 = fs.hash_file(path)
    if as_json:
        output.emit_json({"path": str(path), "size": size, "sha256": sha256})
    else:
        click.echo(f"{path}: {fs.human_size(size)}, SHA-256 {sha256}")


# --- showing ------------------------------------------------------------------------------------------------


def _entry_json(entry: model_zoo.Entry) -> dict[str, Any]:
    manifest = entry.manifest
    common = {"name": entry.name, "path": str(entry.path), "shipped": entry.shipped, "problem": entry.problem}
    if manifest is None:
        return common
    return {
        **common,
        "id": manifest.id,
        "revision": manifest.revision,
        "size": manifest.size_bytes,
        "scheme": manifest.quantization.scheme,
        "context_length": manifest.context_length,
        "licence": manifest.licence.id,
        "engine": manifest.engine,
    }


def _memory(memory: model_zoo.Memory, context: int) -> dict[str, int]:
    return {
        "context": context,
        "weights_bytes": memory.weights_bytes,
        "kv_bytes": memory.kv_bytes_per_token * context,
        "runtime_bytes": memory.runtime_bytes,
        "total_bytes": memory.total(context),
    }


def _memory_rows(memory: model_zoo.Memory, context: int) -> list[tuple[str, str]]:
    per_token = fs.human_size(memory.kv_bytes_per_token)
    return [
        ("weights", fs.human_size(memory.weights_bytes)),
        (f"KV cache: {context} tokens × {per_token}", fs.human_size(memory.kv_bytes_per_token * context)),
        ("runtime", fs.human_size(memory.runtime_bytes)),
        ("together", fs.human_size(memory.total(context))),
    ]


def _sections(package: model_zoo.Inspection) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The manifest without its files and memory as titled tables of key and value."""
    data = package.manifest.to_dict()
    plain = {key: value for key, value in data.items() if not isinstance(value, Mapping)}
    yield (
        data["id"],
        [*_rows(plain), ("path", str(package.source)), ("manifest SHA-256", package.manifest_sha256)],
    )
    for key in ("quantization", "engine_options", "licence", "source", "generation", "evaluation"):
        if data[key]:
            yield key, list(_rows(data[key]))


def _rows(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested tables as dotted keys, lists separated by commas."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _rows(item, f"{name}.")
        elif isinstance(item, list | tuple):
            yield name, ", ".join(map(str, item)) or "none"
        else:
            yield name, str(item)


# --- verifying ----------------------------------------------------------------------------------------------


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
        with _progress(f"verifying {name}") as report:
            package.verify(progress=report)
    except model_zoo.PackageError as error:
        return _Checked(name, manifest, error)
    return _Checked(name, manifest, None)


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for what reports bytes done and bytes in total."""
    with output.progress(label) as advance:
        seen = 0

        def report(done: int, total: int) -> None:
            nonlocal seen
            advance(done - seen, total=total)
            seen = done

        yield report
