"""The `.edge` file: one zip of a package folder, the same bytes for the same package.

Members are stored, not compressed (quantized weights do not compress), sorted, and carry no times. Reading trusts
nothing: only members that the manifest lists are unpacked, and never more bytes than it lists.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

from model_zoo import files as fs
from model_zoo import store
from model_zoo.errors import IntegrityError, ManifestError, PackageError, StoreError
from model_zoo.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, Manifest, read_manifest
from model_zoo.writer import PackageWriter

__all__ = ["pack", "unpack", "unpack_cached"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAX_SIGNATURE_BYTES = 64 * 1024
_MARGIN = 1 << 20
"""Bytes of disk that unpacking leaves free."""


def pack(folder: Path, out: Path, *, overwrite: bool = False, progress: fs.Progress | None = None) -> Path:
    """Write the package `folder` as the file `out`; every file is verified on the way.

    Raises:
        ManifestError, IntegrityError: the package is not whole; nothing is written.
        StoreError: `out` is taken, or cannot be written.
    """
    manifest, raw = read_manifest(folder)
    out = Path(os.path.abspath(out.expanduser()))  # noqa: PTH100 - links stay as the user wrote them
    if os.path.lexists(out) and not (overwrite and out.is_file()):
        raise StoreError(f"{out}: exists already. Choose another name, or remove it first")
    partial = fs.partial_path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fs.remove_stale_partials(out.parent, out.name)
        with zipfile.ZipFile(partial, "x", compression=zipfile.ZIP_STORED) as archive:
            archive.writestr(_member(MANIFEST_NAME, len(raw)), raw)
            signature = folder / SIGNATURE_NAME
            if signature.is_file():
                content = signature.read_bytes()
                archive.writestr(_member(SIGNATURE_NAME, len(content)), content)
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
    return out


def unpack(archive_path: Path, target: Path, *, overwrite: bool = False) -> Manifest:
    """Unpack an `.edge` file into the folder `target`, whole and verified or not at all.

    Raises:
        PackageError: the file is no `.edge` file, or holds something that its manifest does not list.
        IntegrityError: a member differs from the manifest.
        StoreError: the target is taken, cannot be written, or the disk is too small (said before writing).
    """
    try:
        with zipfile.ZipFile(archive_path) as archive:
            members = _members(archive, archive_path)
            manifest, raw, signature = _head(archive, members, archive_path)
            _check_members(members, manifest, archive_path)
            _check_space(manifest.size_bytes, target)
            with PackageWriter(target, overwrite=overwrite) as writer:
                for name, entry in sorted(manifest.files.items()):
                    with archive.open(members[name]) as source, writer.create(name) as file:
                        while chunk := source.read(fs.CHUNK):
                            file.write(chunk)
                            if file.size > entry.size:
                                break
                    if (file.size, file.hexdigest()) != (entry.size, entry.sha256):
                        raise IntegrityError(
                            f"{archive_path}: {name} is not what {MANIFEST_NAME} says; the file is damaged. "
                            "Fetch it again"
                        )
                writer.commit_exact(raw, signature)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise PackageError(
            f"{archive_path}: cannot be read as an .edge file: {error}. It is damaged or something else; fetch it again"
        ) from error
    return manifest


def unpack_cached(archive_path: Path) -> Path:
    """The folder with the content of an `.edge` file, unpacked into the cache folder when it is not there yet.

    The folder is named after the SHA-256 of the manifest, which holds the hash of every other file.

    Raises:
        As `unpack`.
    """
    try:
        with zipfile.ZipFile(archive_path) as archive:
            members = _members(archive, archive_path)
            _, raw, _ = _head(archive, members, archive_path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise PackageError(
            f"{archive_path}: cannot be read as an .edge file: {error}. It is damaged or something else; fetch it again"
        ) from error
    folder = store.cache_dir() / hashlib.sha256(raw).hexdigest()[:32]
    if not (folder / MANIFEST_NAME).is_file():
        try:
            unpack(archive_path, folder)
        except StoreError:
            if not (folder / MANIFEST_NAME).is_file():  # unless another process was quicker
                raise
    return folder


# --- writing --------------------------------------------------------------------------------------------------------


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


# --- reading --------------------------------------------------------------------------------------------------------


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in members:
            raise PackageError(f"{path}: holds {info.filename!r} twice; it is refused. Fetch it again")
        members[info.filename] = info
    return members


def _head(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path
) -> tuple[Manifest, bytes, bytes | None]:
    """The manifest, its exact bytes, and the signature when there is one."""
    if MANIFEST_NAME not in members:
        raise ManifestError(f"{path}: is not a model package: it has no {MANIFEST_NAME}")
    read: Callable[[str, int], bytes] = lambda name, limit: archive.open(members[name]).read(limit)  # noqa: E731
    raw = read(MANIFEST_NAME, MAX_MANIFEST_BYTES + 1)
    manifest = Manifest.from_json(raw, where=f"{path}: {MANIFEST_NAME}")
    signature = read(SIGNATURE_NAME, _MAX_SIGNATURE_BYTES) if SIGNATURE_NAME in members else None
    return manifest, raw, signature


def _check_members(members: dict[str, zipfile.ZipInfo], manifest: Manifest, path: Path) -> None:
    """Refuse members that the manifest does not list (among them every name that would leave the folder) and gaps."""
    for name in members:
        if name not in manifest.files and name not in (MANIFEST_NAME, SIGNATURE_NAME):
            raise PackageError(
                f"{path}: holds {name!r}, which {MANIFEST_NAME} does not list; it is refused. Fetch it again"
            )
    for name in manifest.files:
        if name not in members:
            raise IntegrityError(
                f"{path}: {name} is listed in {MANIFEST_NAME} but is not there. Fetch it again"
            )


def _check_space(needed: int, target: Path) -> None:
    folder = target
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed + _MARGIN:
        raise StoreError(
            f"{target}: unpacking needs {fs.human_size(needed)} but only {fs.human_size(free)} are free there. Free some "
            "space, or unpack elsewhere (XDG_CACHE_HOME names the cache folder)"
        )
