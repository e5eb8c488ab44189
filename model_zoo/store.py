"""Where packages live: the shipped ones, the user's models folder, and what is in them by name.

Knows: folders and names. Does not know: how a package is checked (`package.py`) or written (`writer.py`).
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model_zoo import files as fs
from model_zoo.errors import ManifestError, ModelNotFoundError, StoreError
from model_zoo.manifest import MANIFEST_NAME, Manifest, read_manifest

__all__ = [
    "DOWNLOADS",
    "LOCK",
    "MODELS_DIR_VARIABLE",
    "STAMPS",
    "USED",
    "Entry",
    "cache_dir",
    "discard",
    "find",
    "folder_name",
    "list_packages",
    "models_dir",
    "put_aside",
    "remove",
    "shipped_dir",
]

MODELS_DIR_VARIABLE = "EDGE_MODELS_DIR"
STAMPS = ".verified"
"""Folder inside a models folder that remembers which packages were verified."""

USED = ".used"
"""Folder inside a models folder that remembers when packages were used (`usage.py`)."""

DOWNLOADS = ".downloads"
"""Folder inside a models folder for what is being fetched. Whoever works on a child of it, or on a file in
one, holds a lock on that (`usage.lease`, `partial.PartialFile`); what nobody holds may be pruned."""

LOCK = ".lock"
"""File inside a models folder that is locked while names in it change."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One package that is there: `manifest` is `None` and `problem` says why when it cannot be read."""

    name: str
    path: Path
    shipped: bool
    manifest: Manifest | None
    problem: str | None = None


def models_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The user's models folder, not created: `EDGE_MODELS_DIR`, else `edge-runtime/models` in XDG data."""
    chosen = (os.environ if environ is None else environ).get(MODELS_DIR_VARIABLE)
    if chosen:
        return Path(os.path.abspath(Path(chosen).expanduser()))  # noqa: PTH100 - links stay as the user wrote them
    import platformdirs

    return Path(platformdirs.user_data_path("edge-runtime", appauthor=False)) / "models"


def shipped_dir() -> Path:
    """Where the packages that are part of the installation are."""
    return Path(__file__).parent / "packages"


def cache_dir() -> Path:
    """Where `.edge` files are unpacked: `edge-runtime/unpacked` in the XDG cache folder (not created)."""
    import platformdirs

    return Path(platformdirs.user_cache_path("edge-runtime", appauthor=False)) / "unpacked"


def folder_name(model_id: str) -> str:
    """The folder of a model id: `smollm2:135m` → `smollm2-135m` (FAT on SD cards has no colons)."""
    return model_id.replace(":", "-")


def list_packages(models: Path | None = None, shipped: Path | None = None) -> list[Entry]:
    """Every package, sorted by name; an installed one hides a shipped one of the same name.

    Reads the manifests alone. A package that cannot be read is listed with its problem.

    Args:
        models: the models folder, `models_dir()` by default.
        shipped: the folder of shipped packages, `shipped_dir()` by default.
    """
    found: dict[str, Entry] = {}
    for folder, is_shipped in ((shipped or shipped_dir(), True), (models or models_dir(), False)):
        try:
            children = sorted(folder.iterdir())
        except OSError:
            continue  # not there, or not for us to see: no packages
        for path in children:
            if not path.name.startswith((".", "__")) and path.is_dir():
                entry = _entry(path, is_shipped)
                if entry.manifest is not None or path.is_dir():  # else another process removed it meanwhile
                    found[path.name] = entry
    return [found[name] for name in sorted(found)]


def find(name: str, models: Path | None = None, shipped: Path | None = None) -> Path:
    """The folder of the package called `name`: its folder's name or the manifest's id.

    Raises:
        ModelNotFoundError: no such package; names the nearest ones and where it was looked for.
    """
    models, shipped = models or models_dir(), shipped or shipped_dir()
    wanted = folder_name(name)
    if wanted and not wanted.startswith(".") and "/" not in wanted and "\0" not in wanted:
        for folder in (models, shipped):  # the common case, without reading any other package's manifest
            if (folder / wanted / MANIFEST_NAME).is_file():
                return folder / wanted
    entries = list_packages(models, shipped)
    for entry in entries:
        if entry.manifest is not None and entry.manifest.id == name:
            return entry.path
    names = [entry.name for entry in entries]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + " or ".join(repr(match) for match in near) + "?"
    elif names:
        hint = "there are " + ", ".join(names) + "."
    else:
        hint = "there is no model yet; make one with: edge-runtime quantize SRC OUT"
    raise ModelNotFoundError(f"{name}: no model of that name in {models} or among the shipped ones; {hint}")


def remove(name: str, models: Path | None = None, shipped: Path | None = None) -> Path:
    """Remove an installed package; other processes see it whole or not at all. Returns the folder that went.

    Raises:
        ModelNotFoundError: no package of that name (any more).
        StoreError: the package is shipped with the program, or the folder cannot be written.
    """
    models, shipped = models or models_dir(), shipped or shipped_dir()
    path = find(name, models, shipped) if not _broken(models, name) else models / folder_name(name)
    if path.parent != models:
        raise StoreError(
            f"{name}: is shipped with the program and cannot be removed alone; "
            "it goes with: pip uninstall edge-runtime"
        )
    try:
        with fs.locked(models / LOCK):
            fs.remove_stale_partials(models)
            try:
                aside = put_aside(path)
            except FileNotFoundError:
                raise ModelNotFoundError(f"{name}: was removed by another process meanwhile") from None
        discard(aside)
    except OSError as error:
        raise fs.store_error(error, path, "remove") from error
    return path


def put_aside(path: Path) -> Path:
    """Take a package's name away, and what is remembered of it; the lock of its folder is held by the caller.

    Returns:
        Where it is now: a partial name, for `discard`.

    Raises:
        FileNotFoundError: it is gone already.
        OSError: it cannot be renamed.
    """
    aside = fs.partial_path(path)
    path.rename(aside)
    (path.parent / STAMPS / f"{path.name}.json").unlink(missing_ok=True)
    (path.parent / USED / path.name).unlink(missing_ok=True)
    return aside


def discard(aside: Path) -> None:
    """Remove what was put aside: a folder, a file, or a link without what it points to."""
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def _entry(path: Path, shipped: bool) -> Entry:
    try:
        manifest, _ = read_manifest(path)
    except ManifestError as error:
        return Entry(path.name, path, shipped, None, str(error))
    return Entry(path.name, path, shipped, manifest)


def _broken(models: Path, name: str) -> bool:
    """Whether `name` is a folder whose manifest is gone: `remove` must still get rid of it."""
    folder = models / folder_name(name)
    plain = name not in ("", ".", "..") and "/" not in name and not name.startswith(".")
    return plain and folder.is_dir() and not (folder / MANIFEST_NAME).is_file()
