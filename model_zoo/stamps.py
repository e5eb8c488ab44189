"""Stamps: which packages were verified, so that they need not be hashed at every opening.

A stamp is a small file in the folder `.verified` of the models folder. It holds what must be unchanged for a
file's hash to be taken as unchanged: size, times and inode. It saves work and protects against nobody who can
write the folder.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model_zoo import files as fs
from model_zoo import store

__all__ = ["Stamp"]

_RACY_SECONDS = 2.0
"""A file changed this recently may change again within its time stamp's resolution: no stamp is made yet."""


class Stamp:
    """The stamp of one package, there or not.

    Args:
        folder: the package's folder.
        manifest_sha256: SHA-256 of its manifest.
        names: its files.
    """

    def __init__(self, folder: Path, manifest_sha256: str, names: Sequence[str]) -> None:
        self._folder, self._manifest, self._names = folder, manifest_sha256, names
        ours = folder.parent in (store.models_dir(), store.cache_dir())
        self._path = folder.parent / store.STAMPS / f"{folder.name}.json" if ours else None

    def holds(self) -> bool:
        """Whether exactly these files were verified before."""
        if self._path is None:
            return False
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False  # none yet, or unreadable: the package is verified again
        return bool(known == self._now())

    def note(self, verify: Callable[[], None], clock: Callable[[], float]) -> None:
        """Run `verify`, and remember that it raised nothing if the files stayed the same meanwhile."""
        before = self._now()
        verify()
        if self._path is None or self._now() != before:
            return
        newest = max(entry[1] for entry in before["files"].values()) / 1e9
        if newest + _RACY_SECONDS < clock():
            self._write(self._path, before)

    def _now(self) -> dict[str, Any]:
        files = {}
        for name in self._names:
            info = (self._folder / name).stat()
            files[name] = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
        return {"manifest_sha256": self._manifest, "files": files}

    @staticmethod
    def _write(path: Path, content: dict[str, Any]) -> None:
        temporary = fs.partial_path(path)
        try:
            path.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
            temporary.replace(path)
        except OSError:  # a models folder that cannot be written: the next opening verifies again
            with contextlib.suppress(OSError):
                temporary.unlink()
