"""What the subcommands of `edge-runtime models` share: completion of names, progress in bytes, times.

Does not know: what any of them does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

import click
from click.shell_completion import CompletionItem

import model_zoo
from edge_runtime.cli import output
from model_zoo.prune import duration

__all__ = ["ago", "byte_progress", "complete_name", "utc"]


def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of packages for the shell."""
    names = [entry.name for entry in model_zoo.list_packages()]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for what reports bytes done and bytes in total."""
    with output.progress(label) as advance:
        seen = 0

        def report(done: int, total: int) -> None:
            nonlocal seen
            advance(done - seen, total=total)
            seen = done

        yield report


def ago(then: float, now: float) -> str:
    """How long ago a time was, for a person; both in seconds since the epoch."""
    return f"{duration(now - then)} ago" if now - then >= 60 else "just now"


def utc(seconds: float) -> str:
    """Seconds since the epoch as `2026-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
