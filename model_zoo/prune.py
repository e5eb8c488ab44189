"""Removing what is no longer needed: left-overs always, packages that nobody has used when that is asked for.

Left-overs are what killed writers left, downloads that nobody goes on with, and unpacked `.edge` files (they
are unpacked again when they are opened). Never removed: what a running process uses, and what the caller
wants kept. Several processes may prune, pull, list and remove at once.

Does not know: which model is configured (`keep` says so), or what stands in a download.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model_zoo import files as fs
from model_zoo import store, usage
from model_zoo.manifest import MANIFEST_NAME

__all__ = ["Kept", "Kind", "Leftover", "Pruned", "duration", "prune"]

Kind = Literal["partial", "download", "unpacked", "package"]

IN_USE = "in use by a running process"


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that went, or would go: its path, what it is, its size in bytes, and why."""

    path: Path
    kind: Kind
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that would have gone and stays."""

    path: Path
    kind: Kind
    why: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` did; with `dry_run` what it would have done."""

    removed: tuple[Leftover, ...]
    kept: tuple[Kept, ...]

    @property
    def size(self) -> int:
        """Bytes that were freed."""
        return sum(item.size for item in self.removed)


def prune(
    *,
    unused_for_s: float | None = None,
    older_than_s: float | None = None,
    keep: Collection[Path] = (),
    dry_run: bool = False,
    models: Path | None = None,
    cache: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> Pruned:
    """Remove left-overs, and packages that are unused or old.

    Args:
        unused_for_s: also installed packages that were last used (or installed, when that is later) this long
            ago, seconds.
        older_than_s: also installed packages that were installed this long ago, seconds. When both are given,
            both must hold; when neither is, no package goes.
        keep: folders of packages that stay in any case.
        dry_run: remove nothing.
        models: the models folder, `models_dir()` by default.
        cache: where `.edge` files are unpacked, `cache_dir()` by default.
        clock: seconds since the epoch.

    Raises:
        StoreError: something cannot be removed (no permission, read-only).
    """
    models, cache = models or store.models_dir(), cache or store.cache_dir()
    removed: list[Leftover] = []
    kept: list[Kept] = []
    for folder in (models, models / store.DOWNLOADS, cache):
        removed += _stale_partials(folder, dry_run)
    for path in _children(models / store.DOWNLOADS):
        _settle(_Candidate(path, "download"), removed, kept, dry_run)
    for path in _children(cache):
        _settle(_Candidate(path, "unpacked"), removed, kept, dry_run)
    if unused_for_s is not None or older_than_s is not None:
        for path in _children(models):
            why = _Age(path, unused_for_s, older_than_s, clock)
            if why() is None:
                continue
            if path in keep:
                kept.append(Kept(path, "package", "it is the configured model"))
            else:
                _settle(_Candidate(path, "package", why), removed, kept, dry_run)
    return Pruned(tuple(removed), tuple(kept))


def _stale_partials(folder: Path, dry_run: bool) -> Iterator[Leftover]:
    for path in fs.stale_partials(folder):
        item = Leftover(path, "partial", _size(path), "its writer was killed")
        if dry_run or fs.remove_stale(path):
            yield item


@dataclass(frozen=True, slots=True)
class _Age:
    """Says why a package is due, or `None` while it is not; asked again when it is locked for removal."""

    path: Path
    unused_for_s: float | None
    older_than_s: float | None
    clock: Callable[[], float]

    def __call__(self) -> str | None:
        try:
            installed = (self.path / MANIFEST_NAME).stat().st_mtime
        except OSError:
            return None  # not a package, or gone meanwhile: `models rm` removes what is broken
        now, said = self.clock(), []
        if self.unused_for_s is not None:
            known = usage.last_used(self.path)
            idle = now - max(installed, known or 0)
            if idle < self.unused_for_s:
                return None
            said.append(f"{'unused for' if known else 'never used in'} {duration(idle)}")
        if self.older_than_s is not None:
            if now - installed < self.older_than_s:
                return None
            said.append(f"installed {duration(now - installed)} ago")
        return ", ".join(said)


_WHY: dict[Kind, str] = {
    "download": "the download was not finished",
    "unpacked": "a copy of what is in an .edge file",
}


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: Path
    kind: Kind
    due: Callable[[], str | None] | None = None

    def why(self) -> str | None:
        return _WHY[self.kind] if self.due is None else self.due()


def _settle(candidate: _Candidate, removed: list[Leftover], kept: list[Kept], dry_run: bool) -> None:
    """Remove one thing unless it is in use; everything is looked at again while names are locked."""
    path, parent = candidate.path, candidate.path.parent
    aside = None
    try:
        with contextlib.ExitStack() as held:
            if not dry_run:
                held.enter_context(fs.locked(parent / store.LOCK))
            if not _claim(path, held):
                kept.append(Kept(path, candidate.kind, IN_USE))
                return
            why = candidate.why()
            if why is None:
                return  # used or replaced meanwhile
            item = Leftover(path, candidate.kind, _size(path), why)
            if not dry_run:
                aside = store.put_aside(path)
            removed.append(item)
        if aside is not None:
            store.discard(aside)
    except FileNotFoundError:
        return  # another process was quicker
    except OSError as error:
        raise fs.store_error(error, path, "remove") from error


def _claim(path: Path, held: contextlib.ExitStack) -> bool:
    """Lock a folder and the files in it until `held` is closed; False when a process holds one of them."""
    files = (item for item in path.rglob("*") if item.is_file() and not item.is_symlink())
    inside = sorted(files) if path.is_dir() else []  # a link is the file it means, which is locked once
    for item in (path, *inside):
        descriptor = fs.lock_folder(item)
        if descriptor is None:
            return False
        held.callback(os.close, descriptor)
    return True


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []  # not there, or not ours to see


def _size(path: Path) -> int:
    files = [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else [path]
    return sum(item.lstat().st_size for item in files if os.path.lexists(item))


def duration(seconds: float) -> str:
    """`100000` → `1 day`: the largest unit that fits, rounded down."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
