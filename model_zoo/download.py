"""Downloads that survive being killed at any byte, and that trust no server.

A file arrives under a partial name beside its target (`NAME.edge-runtime-partial`), with a note of the
validator it was begun with (`NAME.edge-runtime-partial.json`), and is renamed when its size and hash are
right: a target that exists is whole. A later call goes on where an earlier one stopped, by a range request
that the server may fulfil only for the very same representation (`If-Range`, RFC 9110 section 13.1.5); any
answer that does not fit to the byte begins the file anew. Two processes that want one file share it: one
downloads, the other waits.

Knows: ranges, validators, partial files. Does not know: what is in the files, or any hub's API.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp

from model_zoo.errors import DownloadError
from model_zoo.files import human_size
from model_zoo.http import Http, Transport, TransportError, raise_for_status
from model_zoo.partial import PartialFile

__all__ = ["MAX_BYTES", "Progress", "Wanted", "download", "download_all"]

MAX_BYTES = 256 << 30
"""A longer file is refused, bytes."""

Progress = Callable[[str, int, int | None], None]
"""Called with a file's label, its bytes that are here, and its bytes in total (`None`: not known yet)."""

_CHUNK = 1 << 18
_LAST_MODIFIED_AGE_S = 60
"""A Last-Modified this much older than the answer cannot name two versions of one second (RFC 7232 2.2.2,
stricter than RFC 9110 8.8.2.2)."""

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to fetch, and what it must be.

    `size` in bytes, `sha256` and `git_sha1` (git's hash of a blob, by which hubs name small files) in
    hexadecimal digits; what is `None` is not checked. `headers` go to the origin of `url` alone. `label`
    stands in messages and progress.
    """

    url: str
    target: Path
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """The label, or the target's name."""
        return self.label or self.target.name


def download(
    files: Sequence[Wanted], *, transport: Transport | None = None, progress: Progress | None = None
) -> None:
    """Fetch files, several at once; those whose target exists are left alone.

    Raises:
        DownloadError: an address is refused, out of reach, or gives other bytes than it should. What arrived
            of other files, and of this one unless it is wrong, is kept for the next call.
        StoreError: the disk is full or cannot be written.
    """

    async def run() -> None:
        async with Http(transport) as http:
            await download_all(http, files, progress=progress)

    asyncio.run(run())


async def download_all(http: Http, files: Sequence[Wanted], *, progress: Progress | None = None) -> None:
    """`download` inside a running event loop; the first error stops the other files."""
    gate = asyncio.Semaphore(http.transport.connections)

    async def one(wanted: Wanted) -> None:
        async with gate:
            await _File(http, wanted, progress).fetch()

    tasks = [asyncio.ensure_future(one(wanted)) for wanted in files]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _File:
    """The fetching of one file."""

    def __init__(self, http: Http, wanted: Wanted, progress: Progress | None) -> None:
        self._http, self._wanted, self._progress = http, wanted, progress
        self._total = wanted.size

    async def fetch(self) -> None:
        partial = await PartialFile.open(self._wanted.target, self._wanted.url, self._http.transport.sleep)
        if partial is None:  # it is there, perhaps since another process fetched it meanwhile
            self._report(self._wanted.target.stat().st_size)
            return
        with partial:
            await self._until_whole(partial)
            partial.publish()

    async def _until_whole(self, partial: PartialFile) -> None:
        transport = self._http.transport
        failures, furthest = 0, partial.size
        while True:
            resumed = partial.size > 0
            try:
                await self._attempt(partial)
            except TransportError as fault:
                failures = 1 if partial.size > furthest else failures + 1
                furthest = max(furthest, partial.size)
                if failures >= transport.attempts:
                    raise self._broke_off(partial, fault) from fault
                await transport.wait(failures, fault.retry_after)
                continue
            problem = await self._problem(partial)
            if problem is None:
                return
            partial.restart()
            if not resumed:
                partial.discard()
                raise DownloadError(
                    f"{self._wanted.name}: arrived damaged from {self._wanted.url} ({problem}) and was "
                    "removed. Run the same command again; if it happens again, the file there is not the "
                    "right one"
                )
            # The part that was here before may be what is wrong (a power cut, a bad disk): once more, whole.
            furthest = 0

    async def _attempt(self, partial: PartialFile) -> None:
        """One request; returns when all bytes are here, right or wrong."""
        wanted = self._wanted
        if wanted.size is not None and partial.size == wanted.size and (partial.validator or self._hashed):
            return
        offset = partial.size if partial.validator is not None else 0
        if offset == 0 or (wanted.size is not None and offset > wanted.size):
            offset = 0
            partial.restart()
        headers = dict(wanted.headers)
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": partial.validator or ""}
        self._report(offset)
        async with self._http.open(wanted.url, headers) as response:
            if response.status == 416 and offset:
                if _complete_length(response) == offset and not self._wrong_total(offset):
                    return
                partial.restart()
                raise TransportError(
                    f"{wanted.url}: the server refuses to go on at byte {offset}", status=416
                )
            raise_for_status(response, wanted.url)
            if response.status == 206:
                stop = self._check_part(partial, response, offset)
            else:
                stop = self._begin(partial, response)
            await self._receive(partial, response, stop)
        if self._total is not None and partial.size < self._total:
            raise TransportError(f"{wanted.url}: only {partial.size} of {self._total} bytes came")

    def _begin(self, partial: PartialFile, response: aiohttp.ClientResponse) -> int:
        """Answer 200: the whole file from its first byte. Returns the bytes it may have."""
        total = response.content_length
        self._refuse_total(partial, total)
        if total is None and self._wanted.size is None and not _self_delimiting(response):
            raise DownloadError(
                f"{self._wanted.url}: the server does not say how long the file is, so that a cut one could "
                "not be told from a whole one; it is refused"
            )
        self._total = self._wanted.size if total is None else total
        partial.restart(_validator(response), self._total)
        return MAX_BYTES if self._total is None else self._total

    def _check_part(self, partial: PartialFile, response: aiohttp.ClientResponse, offset: int) -> int:
        """Answer 206: just the bytes asked for, of the same representation. Returns where the part ends."""
        said = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(said)
        problem = None
        if not offset:
            raise DownloadError(
                f"{self._wanted.url}: the server sends a part ({said}) that was not asked for"
            )
        if match is None or match[1] is None:
            problem = f"it says Content-Range: {said or 'nothing'}"
        elif int(match[1]) != offset or not offset <= int(match[2]) < int(match[3]):
            problem = f"bytes from {offset} on were asked for, and it sends {said}"
        elif partial.total is not None and int(match[3]) != partial.total:
            problem = f"the file had {partial.total} bytes and now has {match[3]}"
        elif _changed(partial.validator, response):
            problem = "the file there has changed since"
        if problem is not None or match is None:
            partial.restart()
            raise TransportError(f"{self._wanted.url}: the download cannot go on: {problem}")
        self._refuse_total(partial, int(match[3]))
        self._total = int(match[3])
        return int(match[2]) + 1

    async def _receive(self, partial: PartialFile, response: aiohttp.ClientResponse, stop: int) -> None:
        async for chunk in response.content.iter_chunked(_CHUNK):
            if partial.size + len(chunk) > stop:
                partial.discard()
                raise DownloadError(
                    f"{self._wanted.url}: sends more than the {stop} bytes that the file should have; "
                    "it was removed"
                )
            partial.write(chunk)
            self._report(partial.size)

    # --- checks -----------------------------------------------------------------------------------------

    @property
    def _hashed(self) -> bool:
        return self._wanted.sha256 is not None or self._wanted.git_sha1 is not None

    def _wrong_total(self, total: int) -> bool:
        return self._wanted.size is not None and total != self._wanted.size

    def _refuse_total(self, partial: PartialFile, total: int | None) -> None:
        if total is not None and self._wrong_total(total):
            partial.discard()
            raise DownloadError(
                f"{self._wanted.name}: {self._wanted.url} has {total} bytes, and {self._wanted.size} are "
                "expected: it is another file, or a page that some network put in its place. Open the "
                "address in a browser"
            )
        if total is not None and total > MAX_BYTES:
            raise DownloadError(f"{self._wanted.url}: has {human_size(total)}; more than that is refused")

    async def _problem(self, partial: PartialFile) -> str | None:
        """What is wrong with the bytes that came; `None` when nothing is known to be."""
        wanted = self._wanted
        if wanted.size is not None and partial.size != wanted.size:
            return f"{partial.size} bytes, expected {wanted.size}"
        for what, digest, expected in (
            ("SHA-256", "sha256", wanted.sha256),
            ("git hash", "git", wanted.git_sha1),
        ):
            if expected is not None:
                found = await asyncio.to_thread(partial.digest, _hasher(digest, partial.size))
                if found != expected.lower():
                    return f"{what} {found}, expected {expected.lower()}"
        return None

    def _broke_off(self, partial: PartialFile, fault: TransportError) -> DownloadError:
        kept = f"{human_size(partial.size)} of {self._wanted.name} are kept: r" if partial.size else "R"
        return DownloadError(
            f"the download broke off: {fault}. {kept}un the same command again to "
            f"{'resume' if partial.size else 'try again'}",
            status=fault.status,
            code=fault.code,
        )

    def _report(self, done: int) -> None:
        if self._progress is not None:
            self._progress(self._wanted.name, done, self._total)


# --- headers ------------------------------------------------------------------------------------------------


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """What `If-Range` may hold for this answer (RFC 9110 13.1.5): a strong validator, or `None`."""
    etag = response.headers.get("ETag", "")
    if _STRONG_ETAG.fullmatch(etag):
        return etag
    modified, date = response.headers.get("Last-Modified"), response.headers.get("Date")
    if etag or modified is None or date is None:  # a weak ETag says that the bytes may differ
        return None
    try:
        age = parsedate_to_datetime(date) - parsedate_to_datetime(modified)
    except (TypeError, ValueError):
        return None
    return modified if age.total_seconds() >= _LAST_MODIFIED_AGE_S else None


def _changed(validator: str | None, response: aiohttp.ClientResponse) -> bool:
    """Whether a part belongs to another representation than the one that was begun."""
    name = "ETag" if validator is not None and validator.startswith('"') else "Last-Modified"
    return response.headers.get(name, validator) != validator


def _complete_length(response: aiohttp.ClientResponse) -> int | None:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(match[3]) if match is not None and match[1] is None else None


def _self_delimiting(response: aiohttp.ClientResponse) -> bool:
    """Whether the body's own framing tells that it is whole (RFC 9112 section 7.1)."""
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()


def _hasher(kind: str, size: int) -> hashlib._Hash:
    if kind == "sha256":
        return hashlib.sha256()
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
