"""`edge-runtime models`: look after the packages on this device: remove, pack, and the group of the others.

Does not know: the format of packages (`model_zoo` does).
"""

from __future__ import annotations

from pathlib import Path

import click

import model_zoo
from edge_runtime.cli import (
    models_list,
    models_prune,
    models_pull,
    models_recommend,
    models_show,
    models_sign,
    models_verify,
    output,
)
from edge_runtime.cli.models_common import byte_progress, complete_name
from model_zoo import files as fs

__all__ = ["command", "pack", "rm"]


@click.group(name="models")
def command() -> None:
    """Look after the model packages on this device.

    Packages are found by name in the models folder and among those shipped with the program; a path to a
    package folder or an .edge file works as well. The models folder is edge-runtime/models in the XDG data
    folder, or the one that EDGE_MODELS_DIR names.
    """


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


# Subcommands with a module of their own.
command.add_command(models_list.command)
command.add_command(models_prune.command)
command.add_command(models_pull.command)
command.add_command(models_recommend.command)
command.add_command(models_show.show)
command.add_command(models_sign.sign)
command.add_command(models_sign.trust)
command.add_command(models_verify.verify)
