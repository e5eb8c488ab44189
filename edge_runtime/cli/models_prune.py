"""`edge-runtime models prune`: give disk space back, and never what is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

import model_zoo
from edge_runtime.cli import output
from model_zoo import files as fs
from model_zoo.prune import Kept, Leftover, prune

__all__ = ["command"]

_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def _age(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds of an age with its unit: `30d`, `12h`, `2w`, `90m`."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([mhdw])\s*", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not an age; write one such as 30d, 12h or 2w.", ctx, param)
    return float(found[1]) * _SECONDS[found[2]]


@click.command(name="prune")
@click.option(
    "--unused-for",
    metavar="AGE",
    callback=_age,
    help="Also installed packages not run for so long, such as 30d.",
)
@click.option(
    "--older-than", metavar="AGE", callback=_age, help="Also packages installed so long ago, such as 90d."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@output.json_option
def command(unused_for: float | None, older_than: float | None, dry_run: bool, as_json: bool) -> None:
    """Remove what is no longer needed, and say what it was.

    Left-overs always: what killed processes left half-written, downloads that were not finished (a pull then
    begins anew), and copies of .edge files in the cache (unpacked again when they are opened). Installed
    packages only when an age is given; with both ages, both must hold.

    Never removed: what a running process uses, the configured model, and shipped packages.
    """
    result = prune(
        unused_for_s=unused_for,
        older_than_s=older_than,
        keep=_configured(output.current_config().get("model", "name")),
        dry_run=dry_run,
    )
    if as_json:
        output.emit_json(
            {
                "dry_run": dry_run,
                "bytes": result.size,
                "removed": [_json(item) for item in result.removed],
                "kept": [_json(item) for item in result.kept],
            }
        )
        return
    if result.removed:
        rows = [(item.path.name, item.kind, fs.human_size(item.size), item.why) for item in result.removed]
        output.print_table(("name", "what", "size", "why"), rows)
    for kept in result.kept:
        click.echo(f"kept {kept.path.name}: {kept.why}")
    said = "would free" if dry_run else "freed"
    click.echo(f"{said} {fs.human_size(result.size)}" if result.removed else "nothing to remove")


def _configured(name: str, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The folders of the models that run when none is named."""
    return list(_folders((name, *(environment.get(f"EDGE_{verb}_MODEL", "") for verb in ("RUN", "CHAT")))))


def _folders(names: Iterable[str]) -> Iterable[Path]:
    for name in filter(None, names):
        try:
            yield model_zoo.find(name)
        except model_zoo.ModelNotFoundError:
            yield Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100 - links stay as they were written


def _json(item: Leftover | Kept) -> dict[str, Any]:
    size = {"bytes": item.size} if isinstance(item, Leftover) else {}
    return {"path": str(item.path), "what": item.kind, "why": item.why, **size}
