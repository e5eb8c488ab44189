"""Pulling a ready package from an address: a folder (`URL/manifest.json` and its files) or an `.edge` file.

The manifest is looked at before anything else is fetched: its signature against the policy, its sizes against
this device. Everything after it is checked against the hashes that it lists, so the address need not be
trusted further than the manifest is.

Does not know: checkpoints or quantizing (`pull`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import struct
import zipfile
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from model_zoo import archive
from model_zoo import files as fs
from model_zoo.download import Wanted, download
from model_zoo.errors import DownloadError, PackageError, PullError, SignatureError
from model_zoo.http import Http, get_bytes, is_local, raise_for_status, retrying
from model_zoo.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, Manifest, read_exact
from model_zoo.partial import PARTIAL_SUFFIX
from model_zoo.pulling import Options, Place, Pulled, Received, claimed, installed_manifest, refuse_stranger
from model_zoo.registry_file import RegistryEntry
from model_zoo.room import CHECKED_CONTEXT, Part, check_disk, check_memory
from model_zoo.signing import MAX_SIGNATURE_BYTES, SignatureState, check_package
from model_zoo.store import DOWNLOADS, folder_name
from model_zoo.writer import PackageWriter

__all__ = ["peek", "pull_package"]

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""A member's header in a zip file (APPNOTE.TXT 4.3.7)."""

_UNKNOWN_SIZES = 0x8
"""Bit of a zip member's flags: its sizes follow the data."""


def pull_package(url: str, entry: RegistryEntry | None, options: Options, place: Place) -> Pulled:
    """Install the package at `url`; see `pull.pull`."""
    given = {
        "--revision": options.revision is not None,
        "--context": options.context_length is not None,
        "--keep-checkpoint": options.keep_checkpoint,
    }
    for flag in (flag for flag, is_given in given.items() if is_given):
        raise PullError(f"{url}: is a ready package, not a checkpoint; leave out {flag}")
    kind = _Archive if urlsplit(url).path.endswith(".edge") else _Folder
    work = place.models / DOWNLOADS / f"url-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    with claimed(work, place):
        return kind(url, entry, options, place, work).pull()


class _Ready:
    """What both kinds of ready packages share."""

    def __init__(
        self, url: str, entry: RegistryEntry | None, options: Options, place: Place, work: Path
    ) -> None:
        self._url, self._entry, self._options, self._place, self._work = url, entry, options, place, work
        self._received = Received(place.report)

    def _allowed(self, raw: bytes, signature: bytes | None) -> tuple[Manifest, SignatureState]:
        """The manifest, when the policy and the registry's entry have nothing against it.

        Raises:
            SignatureError, ManifestError: see `check_package` and `read_exact`.
            DownloadError: it is not the one of the registry, or came in the clear and nobody vouches for it.
        """
        state = check_package(raw, signature, self._place.policy, self._url)
        pinned = None if self._entry is None else self._entry.manifest_sha256
        if pinned is not None and (found := hashlib.sha256(raw).hexdigest()) != pinned:
            raise DownloadError(
                f"{self._url}: its manifest is not the one that the registry names (SHA-256 {found}, "
                f"expected {pinned}). Fetch the registry again, or ask who keeps it"
            )
        in_the_clear = urlsplit(self._url).scheme != "https" and not is_local(self._url)
        if in_the_clear and pinned is None and state.status != "trusted":
            raise DownloadError(
                f"{self._url}: comes unencrypted and {state.text}, so anybody on the way could have made it. "
                "Use https, or have it signed by a key that you trust"
            )
        return read_exact(raw, self._url), state

    def _target(self, manifest: Manifest) -> Path:
        return self._place.models / folder_name(self._name(manifest))

    def _name(self, manifest: Manifest) -> str:
        return self._options.name or manifest.id

    def _present(self, manifest: Manifest, state: SignatureState) -> Pulled | None:
        found = installed_manifest(self._target(manifest))
        if found is None or self._options.force or found.revision != manifest.revision:
            return None
        return Pulled(
            self._name(manifest), self._target(manifest), found, "present", self._received.bytes, state
        )

    def _check(self, manifest: Manifest, missing: int) -> None:
        """Refuse what has no room or would replace something else; `missing`: bytes to be downloaded."""
        place, name = self._place, self._name(manifest)
        target = self._target(manifest)
        refuse_stranger(target, installed_manifest(target), manifest.source.repository, self._options)
        scheme = manifest.quantization.scheme
        if self._options.scheme not in (None, scheme):
            raise PullError(f"{self._url}: is a ready package of scheme {scheme}; leave out --scheme")
        if not self._options.ignore_memory:
            context = min(CHECKED_CONTEXT, manifest.context_length)
            check_memory(name, manifest.memory, context, place.device)
        check_disk(name, self._parts(manifest, missing), place.device)

    def _announce(self, manifest: Manifest, state: SignatureState, missing: int) -> None:
        self._place.report.step(f"{manifest.id} ({state.text}): {fs.human_size(missing)} to download")

    def _parts(self, manifest: Manifest, missing: int) -> list[Part]:
        raise NotImplementedError

    def _done(self, manifest: Manifest, state: SignatureState, updated: bool) -> Pulled:
        warning = self._place.policy.warning(state, self._name(manifest))
        return Pulled(
            self._name(manifest),
            self._target(manifest),
            manifest,
            "updated" if updated else "installed",
            self._received.bytes,
            state,
            (warning,) if warning else (),
        )


class _Folder(_Ready):
    """A package whose files lie one by one below an address."""

    def pull(self) -> Pulled:
        raw, signature = asyncio.run(self._manifest())
        manifest, state = self._allowed(raw, signature)
        if (there := self._present(manifest, state)) is not None:
            return there
        # Named by their hash, so that what came of an older package of that address is never taken for this.
        names = {name: self._work / entry.sha256 for name, entry in manifest.files.items()}
        missing = sum(manifest.files[name].size - _here(path) for name, path in names.items())
        self._check(manifest, missing)
        self._announce(manifest, state, missing)
        wanted = {
            path: Wanted(
                url=self._address(name),
                target=path,
                size=manifest.files[name].size,
                sha256=manifest.files[name].sha256,
                label=name,
            )
            for name, path in names.items()
        }
        download(list(wanted.values()), transport=self._place.transport, progress=self._received)
        target = self._target(manifest)
        updated = installed_manifest(target) is not None
        with PackageWriter(target, overwrite=updated or self._options.force) as writer:
            for name, path in names.items():
                _link(path, writer.path(name))
            writer.commit_exact(
                raw,
                signature,
                progress=lambda done, total: self._place.report.work("verifying", done, total),
            )
        return self._done(manifest, state, updated)

    async def _manifest(self) -> tuple[bytes, bytes | None]:
        async with Http(self._place.transport) as http:
            raw, _ = await get_bytes(http, self._address(MANIFEST_NAME), limit=MAX_MANIFEST_BYTES)
            try:
                signature, _ = await get_bytes(
                    http, self._address(SIGNATURE_NAME), limit=MAX_SIGNATURE_BYTES + 1
                )
            except DownloadError as error:
                if error.status not in (404, 410):
                    raise
                return raw, None
            return raw, signature

    def _address(self, name: str) -> str:
        parts = urlsplit(self._url)
        path = parts.path.removesuffix(MANIFEST_NAME).rstrip("/")
        return urlunsplit(parts._replace(path=f"{path}/{quote(name)}", fragment=""))

    def _parts(self, manifest: Manifest, missing: int) -> list[Part]:
        return [Part("package", missing, self._place.models)]


class _Archive(_Ready):
    """A package as one `.edge` file."""

    def pull(self) -> Pulled:
        # 1. the manifest stands first in the file: look at it, and drop the connection
        size, start = asyncio.run(self._start())
        file = self._work / "package.edge"
        seen = peek(start)
        if seen is not None:
            manifest, state = self._allowed(*seen)
            if (there := self._present(manifest, state)) is not None:
                return there
            if file.exists() and not _holds(file, seen[0]):
                file.unlink()  # of an earlier pull that was killed, and there is another one now
            missing = max(0, (size or manifest.size_bytes) - _here(file))
            self._check(manifest, missing)
            self._announce(manifest, state, missing)
        elif size is not None:
            check_disk(self._url, [Part("archive and package", 2 * size, self._work)], self._place.device)
        # 2. the whole file, looked at again: only what is in it counts
        wanted = Wanted(self._url, file, size=size, label=urlsplit(self._url).path.rsplit("/", 1)[1])
        download([wanted], transport=self._place.transport, progress=self._received)
        try:
            manifest, raw, signature = archive.read_archive_manifest(file)
            manifest, state = self._allowed(raw, signature)
            if (there := self._present(manifest, state)) is not None:
                return there
            self._check(manifest, 0)
            target = self._target(manifest)
            updated = installed_manifest(target) is not None
            archive.unpack(file, target, overwrite=updated or self._options.force)
        except PackageError as error:
            file.unlink()
            raise PackageError(f"{self._url}: arrived damaged and was removed: {error}") from error
        except (SignatureError, DownloadError):
            file.unlink()  # refused: another one may be there the next time
            raise
        return self._done(manifest, state, updated)

    async def _start(self) -> tuple[int | None, bytes]:
        """The size of the file, and as many of its first bytes as it takes to see the manifest."""
        async with Http(self._place.transport) as http:

            async def attempt() -> tuple[int | None, bytes]:
                start = bytearray()
                async with http.open(self._url) as response:
                    raise_for_status(response, self._url)
                    async for chunk in response.content.iter_chunked(1 << 16):
                        start += chunk
                        if _enough(bytes(start)) or len(start) > 2 * MAX_MANIFEST_BYTES:
                            break
                    return response.content_length, bytes(start)

            return await retrying(http, attempt)

    def _parts(self, manifest: Manifest, missing: int) -> list[Part]:
        return [
            Part("archive", missing, self._work),
            Part("package", manifest.size_bytes, self._place.models),
        ]


# --- looking into the beginning of a zip --------------------------------------------------------------------


def peek(start: bytes) -> tuple[bytes, bytes | None] | None:
    """Manifest and signature from the first bytes of an `.edge` file, as `model_zoo.pack` writes it.

    `None` when they are not there, in order and not compressed: then the whole file must be looked at.
    """
    members = _members(start)
    if members is None or not members or members[0][0] != MANIFEST_NAME:
        return None
    signature = members[1][1] if len(members) > 1 and members[1][0] == SIGNATURE_NAME else None
    return members[0][1], signature


def _enough(start: bytes) -> bool:
    """Whether more bytes would tell no more: two members are there, or it cannot be read this way."""
    members = _members(start)
    return members is None or len(members) >= 2


def _members(start: bytes) -> list[tuple[str, bytes]] | None:
    """The first two members as far as `start` reaches, of others than manifest and signature the name alone;
    `None` for anything that is not plainly stored."""
    found: list[tuple[str, bytes]] = []
    place = 0
    while len(found) < 2 and len(start) >= place + _LOCAL_HEADER.size:
        fields = _LOCAL_HEADER.unpack_from(start, place)
        signature, flags, method, size, name_length, extra_length = (fields[i] for i in (0, 2, 3, 7, 9, 10))
        if signature != b"PK\x03\x04" or flags & _UNKNOWN_SIZES or method != zipfile.ZIP_STORED:
            return None
        place += _LOCAL_HEADER.size
        name = start[place : place + name_length].decode("utf-8", "replace")
        place += name_length + extra_length
        if name not in (MANIFEST_NAME, SIGNATURE_NAME):
            found.append((name, b""))
            break
        if size > MAX_MANIFEST_BYTES:
            return None
        if len(start) < place + size:
            break
        found.append((name, start[place : place + size]))
        place += size
    return found


# --- files --------------------------------------------------------------------------------------------------


def _here(target: Path) -> int:
    """Bytes of a download that are here already."""
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    return next((path.stat().st_size for path in (target, partial) if path.exists()), 0)


def _holds(file: Path, raw: bytes) -> bool:
    """Whether an `.edge` file has this very manifest."""
    try:
        return archive.read_archive_manifest(file)[1] == raw
    except PackageError:
        return False


def _link(source: Path, target: Path) -> None:
    """One file under two names, so that a failed installation costs no download; else a copy (FAT)."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
