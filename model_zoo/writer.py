"""Writing a model package so that it is there whole or not at all.

Everything is written into a partial folder beside the target; `commit` hashes it, writes `manifest.json`
last, makes it durable and renames it. An error or an interrupt removes the partial folder; after `kill -9` or
a power cut the next writer does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from model_zoo import files as fs
from model_zoo.errors import IntegrityError, StoreError
from model_zoo.manifest import (
    FORMAT,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    check_member_name,
    read_exact,
    read_manifest,
)
from model_zoo.signing import SignaturePolicy, check_package
from model_zoo.store import LOCK, models_dir

__all__ = ["HashingFile", "PackageWriter", "amend"]

_NO_REVISION = "0" * 16
"""Holds the place until the rest of the manifest is known."""

_WRITING_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM)


class PackageWriter:
    """Context manager that writes one package folder atomically.

    ::

        with PackageWriter(folder) as writer:
            with writer.create("model.onnx.data") as file:  # or write to writer.path("model.onnx.data")
                file.write(weights)
            manifest = writer.commit(fields)

    Leaving the block without `commit`, or with an exception, leaves nothing behind.

    Args:
        target: the package's folder; its parent folders are made. overwrite: swap an existing package for the
        new one in one step; a reader sees the old or the new, whole.

    Raises:
        StoreError: on entry and in `commit`: the name is taken, the folder is read-only, the disk is full.
            Operating-system errors of that kind inside the block are turned into it as well.
    """

    def __init__(self, target: Path | str, *, overwrite: bool = False) -> None:
        self.target = Path(os.path.abspath(Path(target).expanduser()))  # noqa: PTH100 - resolve() would follow links
        self._overwrite = overwrite
        self._partial: Path | None = None
        self._lock: int | None = None
        self._hashes: dict[str, FileEntry] = {}

    @property
    def folder(self) -> Path:
        """The partial folder; use it only inside the block."""
        if self._partial is None:
            raise StoreError(
                f"{self.target}: the package writer is not open; use it in a `with` block, before commit"
            )
        return self._partial

    def path(self, name: str) -> Path:
        """Where to write the file `name` of the package; its folders are made.

        Raises:
            StoreError: the name would leave the package or is reserved.
        """
        problem = check_member_name(name)
        if problem is not None:
            raise StoreError(f"{self.target}: cannot hold a file named {name!r}: the path {problem}")
        self._hashes.pop(name, None)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[HashingFile]:
        """Open the file `name` to write it from start to end; hashed on the way, so not read again."""
        with self.path(name).open("wb") as raw:
            file = HashingFile(raw)
            yield file
            raw.flush()
            os.fsync(raw.fileno())
        self._hashes[name] = FileEntry(size=file.size, sha256=file.hexdigest())

    def add(self, name: str, content: bytes | str) -> None:
        """Write a small file whole; text becomes UTF-8."""
        with self.create(name) as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)

    def copy(self, name: str, source: Path) -> None:
        """Copy a file into the package."""
        with source.open("rb") as reader, self.create(name) as file:
            while chunk := reader.read(fs.CHUNK):
                file.write(chunk)

    def written(self, name: str) -> FileEntry | None:
        """Size and SHA-256 of a file that `create`, `add` or `copy` wrote; `None` for any other."""
        return self._hashes.get(name)

    def commit(
        self, fields: Manifest | Mapping[str, Any], *, progress: fs.Progress | None = None
    ) -> Manifest:
        """Hash, write `manifest.json`, make everything durable, and rename the folder to its final name.

        Args:
            fields: the manifest's keys, as a `Manifest` or a mapping of JSON values; `format`, `files` and
                `revision` are filled in, and optional keys whose value is `None` are left out.
            progress: called with bytes hashed and bytes in total.

        Raises:
            ManifestError: a key is missing, unknown or has a wrong value.
            StoreError: see the class.
        """
        with self._store_errors():
            entries = self._hash_all(progress)
            if isinstance(fields, Manifest):
                draft = dataclasses.replace(fields, format=FORMAT, files=entries)
            else:
                table = {name: dataclasses.asdict(entry) for name, entry in entries.items()}
                own = {"format": FORMAT, "files": table, "revision": _NO_REVISION}
                draft = Manifest.from_dict({**_without_none(fields), **own})
            raw = draft.with_revision().to_json().encode("utf-8")
            manifest = Manifest.from_json(raw)
            self._publish(raw, None)
        return manifest

    def commit_exact(
        self, raw: bytes, signature: bytes | None = None, *, progress: fs.Progress | None = None
    ) -> Manifest:
        """Like `commit` for a package from elsewhere: the bytes of its manifest, and its signature, are kept.

        Whose signature it is, the caller judges; here it must only fit.

        Raises:
            SignatureError: the signature is not over this manifest.
            IntegrityError: what was written is not what the manifest lists.
            ManifestError: the manifest is not valid.
            StoreError: see the class.
        """
        manifest = read_exact(raw, MANIFEST_NAME)
        check_package(raw, signature, SignaturePolicy(), str(self.target))
        with self._store_errors():
            entries = self._hash_all(progress)
            for name in sorted({*entries, *manifest.files}):
                if entries.get(name) != manifest.files.get(name):
                    raise IntegrityError(
                        f"{name}: differs from what {MANIFEST_NAME} says; the package is damaged. "
                        "Fetch it again"
                    )
            self._publish(raw, signature)
        return manifest

    # --- the context manager --------------------------------------------------------------------------------

    def __enter__(self) -> PackageWriter:
        with self._store_errors():
            self.target.parent.mkdir(parents=True, exist_ok=True)
            ours = self.target.parent == models_dir()  # elsewhere, other names are not ours to judge
            fs.remove_stale_partials(self.target.parent, None if ours else self.target.name)
            self._refuse_taken()
            partial = fs.partial_path(self.target)
            partial.mkdir()
            self._partial = partial
            self._lock = fs.lock_folder(partial)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        partial, self._partial = self._partial, None
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        self._release()
        if isinstance(error, OSError) and self._is_ours(error, partial):
            raise fs.store_error(error, self.target) from error

    # --- steps ----------------------------------------------------------------------------------------------

    def _refuse_taken(self) -> None:
        if not os.path.lexists(self.target):
            return
        if not self._overwrite:
            raise StoreError(
                f"{self.target}: exists already. Choose another name, remove it first, "
                "or ask for it to be overwritten"
            )
        is_package = (self.target / MANIFEST_NAME).is_file()
        if (
            self.target.is_symlink()
            or not self.target.is_dir()
            or (not is_package and any(self.target.iterdir()))
        ):
            raise StoreError(
                f"{self.target}: is not a model package, so it is not overwritten. Choose another name"
            )

    def _hash_all(self, progress: fs.Progress | None) -> dict[str, FileEntry]:
        """The table of files; what was not hashed while it was written is read and made durable now."""
        names = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise StoreError(
                    f"{self.target}: {name} is not a plain file; a package holds files only, no links"
                )
            if path.is_file():
                names.append(name)
        if not names:
            raise StoreError(f"{self.target}: a package needs at least one file; nothing was written")
        total = sum((self.folder / name).stat().st_size for name in names)
        done = 0
        entries: dict[str, FileEntry] = {}
        for name in names:
            path = self.folder / name
            known = self._hashes.get(name)
            if known is None or known.size != path.stat().st_size:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                known = FileEntry(*fs.hash_file(path))
            entries[name] = known
            done += known.size
            if progress is not None:
                progress(done, total)
        return entries

    def _publish(self, raw: bytes, signature: bytes | None) -> None:
        own = {MANIFEST_NAME: raw} if signature is None else {MANIFEST_NAME: raw, SIGNATURE_NAME: signature}
        for name, content in own.items():
            with (self.folder / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for folder in [path for path in self.folder.rglob("*") if path.is_dir()] + [self.folder]:
            fs.fsync_folder(folder)
        with self._names():
            try:
                fs.rename_new(self.folder, self.target)
                self._partial = None
            except FileExistsError:
                self._refuse_taken()
                fs.exchange(
                    self.folder, self.target
                )  # the partial folder now holds the old package; __exit__ removes it
        self._release()  # the lock went along with the folder: from now on it is for those who use it
        fs.fsync_folder(self.target.parent)

    def _names(self) -> contextlib.AbstractContextManager[None]:
        """Held while names change: whoever prunes the models folder then removes what it has looked at."""
        parent = self.target.parent
        return fs.locked(parent / LOCK) if parent == models_dir() else contextlib.nullcontext()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise fs.store_error(error, self.target) from error

    def _is_ours(self, error: OSError, partial: Path | None) -> bool:
        """Whether an error of the block is about writing the package, not about a file that it reads."""
        if error.errno in _WRITING_FAILED:
            return True
        about = error.filename
        return error.errno in _NOT_ALLOWED and partial is not None and str(about).startswith(str(partial))


def amend(
    folder: Path, changes: Mapping[str, Any], files: Mapping[str, bytes | str | Path] | None = None
) -> Manifest:
    """Change keys of a package's manifest and add or replace files, by writing it anew in its place.

    A signature does not survive, for it would no longer hold.

    Args:
        folder: the package's folder.
        changes: top-level keys of the manifest and their new JSON values, such as `{"evaluation": {…}}`.
        files: content, or the file to copy, by name in the package.

    Raises:
        As `PackageWriter`; `IntegrityError` when a file of the old package is damaged.
    """
    manifest, _ = read_manifest(folder)
    files = files or {}
    with PackageWriter(folder, overwrite=True) as writer:
        for name, entry in manifest.files.items():
            if name not in files:
                writer.copy(name, folder / name)
                if writer.written(name) != entry:
                    raise IntegrityError(
                        f"{folder}: {name} is not what {MANIFEST_NAME} says; install the package again"
                    )
        for name, content in files.items():
            if isinstance(content, Path):
                writer.copy(name, content)
            else:
                writer.add(name, content)
        return writer.commit({**manifest.to_dict(), **changes})


class HashingFile:
    """A file written from start to end whose SHA-256 is known at the end."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> int:
        """Append bytes (any contiguous buffer); returns their number."""
        view = memoryview(data).cast("B")
        self._raw.write(view)
        self._digest.update(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def align(self, boundary: int) -> int:
        """Append zeros up to the next multiple of `boundary` bytes; returns the position."""
        self.write(bytes(-self.size % boundary))
        return self.size

    def hexdigest(self) -> str:
        """SHA-256 of what was written so far, 64 hexadecimal digits."""
        return self._digest.hexdigest()


def _without_none(value: Any) -> Any:
    """Leave out keys whose value is `None`, also in the sections; free-form tables are kept as they are."""
    free = ("engine_options", "evaluation")
    if not isinstance(value, Mapping):
        return list(value) if isinstance(value, tuple) else value
    return {
        key: dict(item) if key in free and isinstance(item, Mapping) else _without_none(item)
        for key, item in value.items()
        if item is not None
    }
