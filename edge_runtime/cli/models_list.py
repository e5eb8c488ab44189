"""`edge-runtime models list`: the packages that are here, or the models that can be had."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

import model_zoo
from edge_runtime.cli import output
from edge_runtime.cli.models_common import ago, utc
from model_zoo import files as fs

if TYPE_CHECKING:
    from model_zoo.registry import Registry, RegistryEntry

__all__ = ["command"]


@click.command(name="list")
@click.option(
    "--available", is_flag=True, help="List the models of the registries that are not here yet instead."
)
@output.json_option
def command(available: bool, as_json: bool) -> None:
    """List the packages: name, size, scheme, licence, engine, last use.

    The last use is the last time a package was opened to be run on this device.
    """
    if available:
        _list_available(as_json)
        return
    entries = model_zoo.list_packages()
    if as_json:
        output.emit_json([_entry_json(entry) for entry in entries])
        return
    if not entries:
        click.echo(
            f"No packages in {model_zoo.models_dir()}. What can be had: edge-runtime models list --available"
        )
        return
    columns = ("name", "size", "scheme", "licence", "engine", "where", "last use")
    output.print_table(columns, [_row(entry) for entry in entries])
    for entry in entries:
        if entry.problem is not None:
            output.status(entry.problem)


def _row(entry: model_zoo.Entry, clock: Callable[[], float] = time.time) -> tuple[object, ...]:
    where = "shipped" if entry.shipped else "installed"
    if entry.manifest is None:
        return (entry.name, None, None, None, None, f"{where}, unreadable", None)
    m, used = entry.manifest, model_zoo.last_used(entry.path)
    return (
        entry.name,
        fs.human_size(m.size_bytes),
        m.quantization.scheme,
        m.licence.id,
        m.engine,
        where,
        None if used is None else ago(used, clock()),
    )


def _entry_json(entry: model_zoo.Entry) -> dict[str, Any]:
    manifest, used = entry.manifest, model_zoo.last_used(entry.path)
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
        "last_used": None if used is None else utc(used),
    }


# --- what can be had ----------------------------------------------------------------------------------------


def _list_available(as_json: bool) -> None:
    from edge_runtime.registries import configured_registries

    registry: Registry = configured_registries(output.current_config())
    here = {entry.manifest.id for entry in model_zoo.list_packages() if entry.manifest is not None}
    entries = [entry for entry in registry.entries() if entry.id not in here]
    if as_json:
        output.emit_json([_available_json(entry) for entry in entries])
    elif entries:
        columns = ("model", "parameters", "context", "size", "scheme", "licence", "registry")
        output.print_table(columns, [_available_row(entry) for entry in entries])
        click.echo("\nInstall one with: edge-runtime models pull NAME")
    else:
        click.echo("Every model of the registries is here.")
    for notice in registry.notices:
        output.status(notice)


def _available_row(entry: RegistryEntry) -> tuple[object, ...]:
    scheme = "int4" if "int4" in entry.schemes else next(iter(entry.schemes), None)
    size = None if scheme is None else fs.human_size(entry.schemes[scheme].package_bytes)
    signer = f", signed by {entry.signed_by}" if entry.signed_by else ""
    return (
        entry.id,
        f"{entry.parameters / 1e6:,.0f} M",
        f"{entry.context:,}",
        size,
        scheme,
        entry.licence + (", gated" if entry.gated else ""),
        entry.registry + signer,
    )


def _available_json(entry: RegistryEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "summary": entry.summary,
        "parameters": entry.parameters,
        "context_length": entry.context,
        "licence": entry.licence,
        "gated": entry.gated,
        "package_bytes": {name: sizes.package_bytes for name, sizes in entry.schemes.items()},
        "source": entry.repository or entry.url or entry.shipped,
        "revision": entry.revision,
        "registry": entry.registry,
        "signed_by": entry.signed_by,
    }
