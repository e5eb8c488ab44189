"""`edge-runtime config`: look at, write and check the configuration file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edge_runtime import config
from edge_runtime.cli.output import config_path, emit_json, json_option, print_table
from edge_runtime.config_schema import SCHEMA
from edge_runtime.errors import ConfigError

__all__ = ["command"]


@click.group("config")
def command() -> None:
    """Show, write and check the configuration."""


@command.command("show")
@json_option
@click.pass_context
def _show(ctx: click.Context, as_json: bool) -> None:
    """Print every setting, its value and where it came from."""
    found = config.load(config_path(ctx))
    rows = []
    for section in SCHEMA:
        if section.repeated:
            for number, table in enumerate(found.tables.get(section.name, ()), 1):
                numbered = f"{section.name}[{number}]"
                rows += [(numbered, name, value, str(found.path), "") for name, value in table.items()]
            continue
        for key in section.keys:
            value = found.get(section.name, key.name)
            rows.append((section.name, key.name, value, found.origin(section.name, key.name), key.unset))
    if as_json:
        path = str(found.path) if found.path else None
        settings: dict[str, dict[str, object]] = {}
        for name, key_name, value, origin, _ in rows:
            settings.setdefault(name, {})[key_name] = {"value": value, "origin": origin}
        emit_json({"path": path, "settings": settings})
        return
    place = config_path(ctx) or config.default_path()
    print_table(
        ("key", "value", "from"),
        [
            (f"{name}.{key_name}", f"({unset})" if value is None else value, origin)
            for name, key_name, value, origin, unset in rows
        ],
        title=f"configuration file: {place}{'' if found.path else ' (not there)'}",
    )


@command.command("init")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@click.pass_context
def _init(ctx: click.Context, force: bool) -> None:
    """Write a configuration file with every key at its default, commented out."""
    place = config_path(ctx) or config.default_path()
    if place.exists() and not force:
        raise ConfigError(f"{place} is there already. Overwrite it with: edge-runtime config init --force")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _write(place, config.template())
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error.strerror}.") from error
    click.echo(str(place))


@command.command("check")
@json_option
@click.pass_context
def _check(ctx: click.Context, as_json: bool) -> None:
    """Check the configuration file; ends with 3 and a sentence when something is wrong."""
    found = config.load(config_path(ctx))
    if as_json:
        emit_json({"path": str(found.path) if found.path else None, "ok": True})
    elif found.path is None:
        click.echo(f"no configuration file at {config.default_path()}: the defaults hold")
    else:
        click.echo(f"{found.path}: good")


def _write(place: Path, text: str) -> None:
    # The file may come to name keys and addresses: nobody else needs to read it.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(place, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
