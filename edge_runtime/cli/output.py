"""What every verb shares: `--json`, tables, progress, exit codes, environment twins.

Knows: click, terminals, rich (imported on use). Does not know: what a verb computes.

Answers and tables go to stdout; progress, status lines and errors to stderr: a pipe carries data alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from unicodedata import category

import click

if TYPE_CHECKING:
    from edge_runtime.config import Config

__all__ = [
    "CONFIG_KEY",
    "EXIT_MEANINGS",
    "ExitCode",
    "Transfers",
    "close_broken_stdout",
    "config_path",
    "current_config",
    "echo_text",
    "emit_json",
    "exit_code_of",
    "json_option",
    "name_environment_twins",
    "print_table",
    "progress",
    "report_error",
    "status",
    "stderr_is_terminal",
    "stdout_is_terminal",
    "transfers",
    "wants_json",
]

F = TypeVar("F", bound=Callable[..., Any])
Advance = Callable[..., None]

CONFIG_KEY = "edge_runtime.config"
_JSON_KEY = "edge_runtime.json"


class ExitCode(IntEnum):
    """What the process's exit code says; `EXIT_MEANINGS` has the sentences."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    MODEL = 4
    ENGINE = 5
    QUANTIZE = 6
    OFFLOAD = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXIT_MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "the system refused (file, memory, device), or a check failed",
    ExitCode.USAGE: "wrong command line: unknown verb or flag, value out of range",
    ExitCode.CONFIG: "configuration file wrong",
    ExitCode.MODEL: "model package missing, damaged, refused, not writable or not to be had",
    ExitCode.ENGINE: "engine or generation failed, or an optional package is missing",
    ExitCode.QUANTIZE: "checkpoint cannot be read or quantized",
    ExitCode.OFFLOAD: "cloud, channel or queue failed; outcomes, calibration or router file wrong",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    ExitCode.BROKEN_PIPE: "the reader of the output went away",
}

_CODE_OF_CLASS = {
    "edge_runtime.errors.ConfigError": ExitCode.CONFIG,
    "edge_runtime.errors.EdgeRuntimeError": ExitCode.ENGINE,
    "model_zoo.errors.ModelZooError": ExitCode.MODEL,
    "quantize.errors.QuantizeError": ExitCode.QUANTIZE,
    "offload.errors.OffloadError": ExitCode.OFFLOAD,
    "click.exceptions.ClickException": ExitCode.USAGE,
    "builtins.OSError": ExitCode.FAILED,
    "builtins.MemoryError": ExitCode.FAILED,
}
# By name, because this module may not import `quantize` and need not import the others to print `--help`.


def exit_code_of(error: BaseException) -> ExitCode | None:
    """The exit code of an error that a user can meet; `None` for anything else, which is a bug of ours."""
    if isinstance(error, click.exceptions.Exit | click.Abort):
        return None
    for cls in type(error).__mro__:
        code = _CODE_OF_CLASS.get(f"{cls.__module__}.{cls.__qualname__}")
        if code is not None:
            return code
    return None


def report_error(error: BaseException, code: ExitCode, *, as_json: bool) -> None:
    """Print an error on stderr: one line, or one JSON object `{"error": {type, message, exit_code}}`."""
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    message = message or type(error).__name__
    if as_json:
        kind = type(error).__name__
        click.echo(
            json.dumps({"error": {"type": kind, "message": message, "exit_code": code.value}}), err=True
        )
        return
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None:
        click.echo(context.get_usage(), err=True)
    click.echo(f"edge-runtime: error: {message}", err=True)


def close_broken_stdout() -> None:
    """After a broken pipe: point stdout at the null device, so that the last flush stays silent."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def json_option(command: F) -> F:
    """Add `--json`, passed to the command as `as_json: bool`."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
        ctx.meta[_JSON_KEY] = value
        return value

    option = click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=remember, help="Print JSON."
    )
    return option(command)


def wants_json(ctx: click.Context) -> bool:
    """Whether the running verb was asked for JSON."""
    return bool(ctx.meta.get(_JSON_KEY, False))


def name_environment_twins(command: click.Command, path: tuple[str, ...]) -> None:
    """Give every option of `command` and its subcommands the variable `EDGE_<VERB>_<FLAG>`, shown in help."""
    for param in command.params:
        if not isinstance(param, click.Option):
            continue
        flag = next((opt for opt in param.opts if opt.startswith("--")), None)
        if flag is not None and param.envvar is None and flag not in ("--help", "--version"):
            param.envvar = "_".join((*path, flag[2:])).upper().replace("-", "_")
            param.show_envvar = True
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            name_environment_twins(child, (*path, name))


def config_path(ctx: click.Context) -> Path | None:
    """The file named by `--config` or `EDGE_CONFIG`; `None` for the default place."""
    return ctx.find_root().params.get("config")


def current_config() -> Config:
    """The configuration of the running verb (defaults alone when a command runs outside `edge-runtime`)."""
    from edge_runtime import config

    ctx = click.get_current_context(silent=True)
    found = ctx.meta.get(CONFIG_KEY) if ctx is not None else None
    return found if found is not None else config.defaults()


def stdout_is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Whether a person reads stderr."""
    return sys.stderr.isatty()


def emit_json(value: object) -> None:
    """Print one JSON value on stdout: indented for a person, one line for a pipe. NaN is refused."""
    indent = 2 if stdout_is_terminal() else None
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent))


def echo_text(text: str) -> None:
    """Print a piece of a model's text on stdout, at once and without a line end.

    On a terminal, control characters are written out (`\\x1b`), since a model's text must not command it; a
    pipe gets every character as it is.
    """
    if stdout_is_terminal():
        text = "".join(c if c in "\n\t" or category(c) != "Cc" else f"\\x{ord(c):02x}" for c in text)
    click.echo(text, nl=False)


def status(text: str) -> None:
    """A dim line on stderr."""
    click.secho(text, err=True, dim=True)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None
) -> None:
    """Print a table on stdout: drawn for a person, aligned plain text for a pipe. `None` prints as `-`."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if stdout_is_terminal():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left", header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in cells:
            table.add_row(*row)
        Console().print(table)
        return
    if title:
        click.echo(title)
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


class Transfers:
    """What `transfers` yields: a bar of bytes per label, and sentences above the bars."""

    def __init__(self, bars: Any | None) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def update(self, label: str, done: int, total: int | None) -> None:
        """Set the bar of a label; it is drawn while it is neither new nor full."""
        if self._bars is None:
            return
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total)
        self._bars.update(self._tasks[label], completed=done, total=total, visible=done != total)

    def say(self, text: str) -> None:
        """A dim line on stderr."""
        if self._bars is None:
            status(text)
        else:
            from rich.text import Text

            self._bars.console.print(Text(text, style="dim"))


@contextmanager
def transfers() -> Iterator[Transfers]:
    """Bars for several files at once, in bytes, on stderr when a person reads it."""
    if not stderr_is_terminal():
        yield Transfers(None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Transfers(bars)


@contextmanager
def progress(label: str, total: float | None = None) -> Iterator[Advance]:
    """A progress bar on stderr when a person reads it, nothing otherwise.

    Yields `advance(step=1, *, total=None, label=None)`; `total` may become known late.
    """
    if not stderr_is_terminal():
        yield lambda step=1, *, total=None, label=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)

        def advance(step: float = 1, *, total: float | None = None, label: str | None = None) -> None:
            changes: Mapping[str, Any] = {
                key: value for key, value in (("total", total), ("description", label)) if value is not None
            }
            bar.update(task, advance=step, **changes)

        yield advance
