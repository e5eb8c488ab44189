"""`edge-runtime models`: look after the packages on this device: list, remove, pack; the group of the others.

Knows: how packages are shown. Does not know: their format (`model_zoo` does).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import model_zoo
from edge_runtime.cli import models_recommend, models_show, models_verify, output
from edge_runtime.cli.models_common import byte_progress, complete_name
from model_zoo import files as fs

__all__ = ["command", "list_command", "pack", "rm"]


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
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_name)
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
@click.argument("name", shell_complete=complete_name)
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
    with byte_progress(f"packing {name}") as report:
        path = model_zoo.pack(package.source, out, overwrite=overwrite, progress=report)
    size, sha256 = fs.hash_file(path)
    if as_json:
        output.emit_json({"path": str(path), "size": size, "sha256": sha256})
    else:
        click.echo(f"{path}: {fs.human_size(size)}, SHA-256 {sha256}")


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


# Subcommands with a module of their own.
command.add_command(models_recommend.command)
command.add_command(models_show.show)
command.add_command(models_verify.verify)
