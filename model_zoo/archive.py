"""The `.edge` file: one zip of a package folder, the same bytes for the same package.

Members are stored, not compressed (quantized weights do not compress), sorted, and carry no times. Reading
trusts nothing: only members that the manifest lists are unpacked, and never more bytes than it lists.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from model_zoo import files as fs
from model_zoo import store
from model_zoo.errors import IntegrityError, ManifestError, PackageError, StoreError
from model_zoo.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    read_exact,
    read_manifest,
)
from model_zoo.signing import SignaturePolicy, check_package, read_signature
from model_zoo.writer import PackageWriter

__all__ = ["pack", "read_archive_manifest", "unpack", "unpack_cached", "verify_archive"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1
"""Bit of a zip member's flags (APPNOTE.TXT 4.4.4)."""

_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    ValueError,
    struct.error,
)
"""What `zipfile` raises for a damaged file, depending on which bytes are damaged."""

_MARGIN = 1 << 20
"""Bytes of disk that unpacking leaves free."""


def pack(folder: Path, out: Path, *, overwrite: bool = False, progress: fs.Progress | None = None) -> Path:
    """Write the package `folder` as the file `out`; every file is verified on the way.

    Raises:
        ManifestError, IntegrityError, SignatureError: the package is not whole; nothing is written.
        StoreError: `out` is taken, or cannot be written.
    """
    manifest, raw = read_manifest(folder)
    signature = read_signature(folder / SIGNATURE_NAME)
    check_package(raw, signature, SignaturePolicy(), str(folder))
    out = Path(os.path.abspath(out.expanduser()))  # noqa: PTH100 - links stay as the user wrote them
    if os.path.lexists(out) and not (overwrite and out.is_file()):
        raise StoreError(f"{out}: exists already. Choose another name, or remove it first")
    partial = fs.partial_path(out)
    lock = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fs.remove_stale_partials(out.parent, out.name)
        with zipfile.ZipFile(partial, "x", compression=zipfile.ZIP_STORED) as archive:
            lock = fs.lock_folder(partial)
            archive.writestr(_member(MANIFEST_NAME, len(raw)), raw)
            if signature is not None:
                archive.writestr(_member(SIGNATURE_NAME, len(signature)), signature)
            done = 0
            for name, entry in sorted(manifest.files.items()):
                done = _pack_member(archive, folder, name, entry.size, entry.sha256, done, manifest, progress)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        if overwrite:
            partial.replace(out)
        else:
            fs.rename_new(partial, out)
        fs.fsync_folder(out.parent)
    except OSError as error:
        raise fs.store_error(error, out) from error
    finally:
        partial.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)
    return out


def unpack(archive_path: Path, target: Path, *, overwrite: bool = False) -> Manifest:
    """Unpack an `.edge` file into the folder `target`, whole and verified or not at all.

    Raises:
        PackageError: the file is no `.edge` file, or holds something that its manifest does not list.
        IntegrityError, SignatureError: a member differs from the manifest, or that from its signature.
        StoreError: the target is taken, cannot be written, or the disk is too small (said before writing).
    """
    with _opened(archive_path) as (archive, members, manifest, raw):
        _check_space(manifest.size_bytes, target)
        with PackageWriter(target, overwrite=overwrite) as writer:
            for name, entry in sorted(manifest.files.items()):
                with writer.create(name) as file:
                    for chunk in _checked_chunks(archive, members[name], entry, archive_path):
                        file.write(chunk)
            writer.commit_exact(raw, _read_signature(archive, members))
    return manifest


def read_archive_manifest(archive_path: Path) -> tuple[Manifest, bytes, bytes | None]:
    """The manifest of an `.edge` file, its exact bytes, and those of its signature; nothing else is read.

    Raises:
        PackageError, ManifestError, IntegrityError: as `unpack`.
    """
    with _opened(archive_path) as (archive, members, manifest, raw):
        return manifest, raw, _read_signature(archive, members)


def verify_archive(archive_path: Path, *, progress: fs.Progress | None = None) -> None:
    """Compare every member of an `.edge` file with the manifest, without unpacking it.

    Raises:
        PackageError, ManifestError, IntegrityError: as `unpack`.
    """
    with _opened(archive_path) as (archive, members, manifest, _):
        done = 0
        for name in sorted(manifest.files):
            for chunk in _checked_chunks(archive, members[name], manifest.files[name], archive_path):
                done += len(chunk)
                if progress is not None:
                    progress(done, manifest.size_bytes)


def unpack_cached(archive_path: Path) -> Path:
    """The folder with the content of an `.edge` file; unpacked into the cache folder unless it is there.

    The folder is named after the SHA-256 of the manifest, which holds the hash of every other file.

    Raises:
        As `unpack`.
    """
    _, raw, _ = read_archive_manifest(archive_path)
    folder = store.cache_dir() / hashlib.sha256(raw).hexdigest()[:32]
    if not (folder / MANIFEST_NAME).is_file():
        try:
            unpack(archive_path, folder)
        except StoreError:
            if not (folder / MANIFEST_NAME).is_file():  # unless another process was quicker
                raise
    return folder


# --- writing ------------------------------------------------------------------------------------------------


def _member(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.create_system = 3  # Unix, on every system: the bytes must not depend on it
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = size
    return info


def _pack_member(
    archive: zipfile.ZipFile,
    folder: Path,
    name: str,
    size: int,
    sha256: str,
    done: int,
    manifest: Manifest,
    progress: fs.Progress | None,
) -> int:
    digest = hashlib.sha256()
    count = 0
    try:
        source = (folder / name).open("rb")
    except OSError as error:
        raise IntegrityError(
            f"{folder}: {name} cannot be read: {error.strerror}; the package is not whole"
        ) from error
    with source, archive.open(_member(name, size), "w", force_zip64=size >= 1 << 31) as member:
        while chunk := source.read(fs.CHUNK):
            digest.update(chunk)
            count += len(chunk)
            if count > size:
                break
            member.write(chunk)
            if progress is not None:
                progress(done + count, manifest.size_bytes)
    if (count, digest.hexdigest()) != (size, sha256):
        raise IntegrityError(
            f"{folder}: {name} is not what {MANIFEST_NAME} says; a damaged package is not packed"
        )
    return done + count


# --- reading ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo], Manifest, bytes]]:
    """The archive, its members by name (listed ones alone), its manifest and the manifest's exact bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            raw = _read(archive, members[MANIFEST_NAME])
            manifest = read_exact(raw, f"{path}: {MANIFEST_NAME}")
            # A name that would leave the folder cannot stand in a manifest, so this refuses it too.
            for name in members:
                if name not in manifest.files and name not in (MANIFEST_NAME, SIGNATURE_NAME):
                    raise PackageError(
                        f"{path}: holds {name!r}, which {MANIFEST_NAME} does not list; it is refused. "
                        "Fetch it again"
                    )
            for name in manifest.files:
                if name not in members:
                    raise IntegrityError(
                        f"{path}: {name} is listed in {MANIFEST_NAME} but is not there. Fetch it again"
                    )
            yield archive, members, manifest, raw
    except _UNREADABLE as error:
        raise PackageError(
            f"{path}: cannot be read as an .edge file: {error}. It is damaged or something else; "
            "fetch it again"
        ) from error


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in members:
            raise PackageError(f"{path}: holds {info.filename!r} twice; it is refused. Fetch it again")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise PackageError(
                f"{path}: {info.filename!r} is encrypted or compressed in an unknown way. "
                "Make the file with: edge-runtime models pack NAME OUT.edge"
            )
        members[info.filename] = info
    if MANIFEST_NAME not in members:
        raise ManifestError(f"{path}: is not a model package: it has no {MANIFEST_NAME}")
    return members


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A manifest or a signature; at most one byte more than allowed, which the caller then refuses."""
    with archive.open(member) as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _read_signature(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> bytes | None:
    return _read(archive, members[SIGNATURE_NAME]) if SIGNATURE_NAME in members else None


def _checked_chunks(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, entry: FileEntry, path: Path
) -> Iterator[bytes]:
    """The content of a member, never more than the manifest says; checked when the last chunk is through."""
    digest = hashlib.sha256()
    size = 0
    with archive.open(member) as source:
        while size <= entry.size and (chunk := source.read(min(fs.CHUNK, entry.size - size + 1))):
            size += len(chunk)
            digest.update(chunk)
            if size <= entry.size:
                yield chunk
    if (size, digest.hexdigest()) != (entry.size, entry.sha256):
        raise IntegrityError(
            f"{path}: {member.filename} is not what {MANIFEST_NAME} says; the file is damaged. Fetch it again"
        )


def _check_space(needed: int, target: Path) -> None:
    folder = target
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed + _MARGIN:
        raise StoreError(
            f"{target}: unpacking needs {fs.human_size(needed)} but only {fs.human_size(free)} are free "
            "there. Free some space, or unpack elsewhere (XDG_CACHE_HOME names the cache folder)"
        )
