"""What every kind of pull shares: what was asked for, where it happens, what came of it, and one at a time.

Knows: the folder of downloads and what may replace what. Does not know: where anything is fetched from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from model_zoo import files as fs
from model_zoo.converters import Converter, find_converter
from model_zoo.errors import ManifestError, PullError
from model_zoo.http import Transport
from model_zoo.hub import HubSettings
from model_zoo.manifest import MANIFEST_NAME, Manifest, read_manifest
from model_zoo.partial import try_lock
from model_zoo.room import Device
from model_zoo.signing import SignaturePolicy, SignatureState
from model_zoo.store import models_dir

__all__ = [
    "Action",
    "Options",
    "Place",
    "Pulled",
    "Received",
    "Report",
    "Silent",
    "claimed",
    "folder_bytes",
    "installed_manifest",
    "refuse_stranger",
]

Action = Literal["installed", "updated", "present", "shipped"]

_POLL_S = 0.2
_WORTH_KEEPING = 1 << 20
"""A pull that fails with fewer bytes than this fetched leaves nothing behind."""


class Report(Protocol):
    """Told what happens."""

    def step(self, text: str) -> None:
        """A sentence for a person."""

    def file(self, label: str, done: int, total: int | None) -> None:
        """Bytes of a file that are here, and in total."""

    def work(self, label: str, done: int, total: int) -> None:
        """Bytes that were quantized or installed, and in total."""


class Silent:
    """A report that nobody reads."""

    def step(self, text: str) -> None:
        """Nothing."""

    def file(self, label: str, done: int, total: int | None) -> None:
        """Nothing."""

    def work(self, label: str, done: int, total: int) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for. `None` leaves it to the registry, the checkpoint, or what is installed.

    `force`: install again, and replace a package that came from elsewhere. `keep_checkpoint`: fetch into the
    hub's own cache, where the checkpoint stays.
    """

    scheme: str | None = None
    name: str | None = None
    revision: str | None = None
    context_length: int | None = None
    force: bool = False
    ignore_memory: bool = False
    keep_checkpoint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a pull happens and with what."""

    models: Path = field(default_factory=models_dir)
    hub: HubSettings = field(default_factory=HubSettings.from_environment)
    device: Device = field(default_factory=Device)
    policy: SignaturePolicy = field(default_factory=SignaturePolicy)
    transport: Transport = field(default_factory=Transport)
    converter: Callable[[], Converter] = find_converter
    report: Report = field(default_factory=Silent)
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did. `downloaded`: bytes that were fetched; `notes`: what the user should know."""

    name: str
    path: Path
    manifest: Manifest
    action: Action
    downloaded: int = 0
    signature: SignatureState | None = None
    notes: tuple[str, ...] = ()


class Received:
    """Counts the bytes of files that arrive, and passes them on to a report."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._files: dict[str, tuple[int, int]] = {}

    def __call__(self, label: str, done: int, total: int | None) -> None:
        """A `download.Progress`."""
        first, _ = self._files.get(label, (done, done))
        self._files[label] = (first, done)
        self._report.file(label, done, total)

    @property
    def bytes(self) -> int:
        """Bytes that came since the beginning of this pull; what was here before is left out."""
        return sum(max(0, last - first) for first, last in self._files.values())


def installed_manifest(target: Path) -> Manifest | None:
    """The manifest of an installed package; `None` when there is none that can be read."""
    if not (target / MANIFEST_NAME).is_file():
        return None
    try:
        return read_manifest(target)[0]
    except ManifestError:
        return None


def refuse_stranger(target: Path, found: Manifest | None, repository: str, options: Options) -> None:
    """A package that was made from something else is not replaced without being asked to.

    Raises:
        PullError: naming what it was made from.
    """
    if options.force or (found is None and not target.exists()):
        return
    if found is None:
        raise PullError(
            f"{target}: is there and is no readable package. Remove it, or replace it with --force"
        )
    if found.source.repository != repository:
        raise PullError(
            f"{target}: is installed already, and was made from {found.source.repository}, not {repository}. "
            "Give another --name, or replace it with --force"
        )


@contextlib.contextmanager
def claimed(folder: Path, place: Place) -> Iterator[None]:
    """Hold a folder of downloads against other pulls; it goes when the work in it succeeded.

    Raises:
        StoreError: it cannot be made.
    """
    waiting = False
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # the pull before us finished and took it away
            continue
        except OSError as error:
            raise fs.store_error(error, folder) from error
        locked = try_lock(descriptor)
        if locked and folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            break
        os.close(descriptor)
        if not locked:
            if not waiting:
                place.report.step("another pull of this model is running; waiting for it")
            waiting = True
            place.sleep(_POLL_S)
    try:
        yield
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        if folder_bytes(folder) < _WORTH_KEEPING:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, links left out."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
