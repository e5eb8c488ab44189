"""Registries at web addresses: fetched, checked, kept on disk for when there is no network.

Knows: the cache's files. Does not know: what a registry says, or HTTP (`http.py`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from model_zoo import files as fs
from model_zoo.errors import DownloadError, RegistryError, SignatureError
from model_zoo.http import Http, Transport, get_bytes
from model_zoo.registry_file import MAX_REGISTRY_BYTES, Signed
from model_zoo.signing import MAX_SIGNATURE_BYTES

__all__ = ["Fetch", "RegistryCache"]

T = TypeVar("T")

Fetch = Callable[[str, int], "bytes | None"]
"""(address, most bytes) → content, `None` where the server says that there is nothing (404, 410); raises
`DownloadError` when it cannot be had."""

_IMPATIENT = Transport(connect_s=10, stall_s=15, attempts=2)
"""A person waits, and a kept copy does as well."""


@dataclass(frozen=True, slots=True)
class RegistryCache:
    """Fetched registries on disk, content and signature of an address in one file: a reader has never the one
    without the other."""

    folder: Path
    fetch: Fetch | None
    refresh_s: float
    now: Callable[[], float]

    def get(self, url: str, check: Callable[[Signed], T], notices: list[str]) -> T:
        """The registry at an address: kept, or fetched and then kept when `check` has nothing against it."""
        path = self.folder / (hashlib.sha256(url.encode()).hexdigest()[:32] + ".json")
        kept, age = self._kept(path)
        if kept is not None and 0 <= age < self.refresh_s:
            # What the policy refuses may have been signed meanwhile.
            with contextlib.suppress(SignatureError, RegistryError):
                return check(kept)
        fetch = self.fetch or _fetch
        try:
            content = fetch(url, MAX_REGISTRY_BYTES)
            signature = fetch(url + ".sig", MAX_SIGNATURE_BYTES)
        except DownloadError as error:
            if kept is None:
                raise RegistryError(
                    f"{error}. No copy of this registry is kept: look at the address and the network, or "
                    "take it out of [model] registries"
                ) from error
            notices.append(f"{error}. A copy of the registry {_days(age)} old is used")
            return check(kept)
        if content is None:
            raise RegistryError(f"{url}: the server has no such registry; look at the address")
        fresh = Signed(content, signature)
        read = check(fresh)
        try:
            self._keep(path, fresh)
        except OSError as error:
            notices.append(f"{url}: cannot be kept in {self.folder}: {error.strerror or error}")
        return read

    def _kept(self, path: Path) -> tuple[Signed | None, float]:
        """The copy on disk and its age in seconds; a copy that cannot be read is none."""
        try:
            age = self.now() - path.stat().st_mtime
            values = json.loads(path.read_bytes())
            content = base64.b64decode(values["content"])
            signature = values["signature"]
            return Signed(content, None if signature is None else base64.b64decode(signature)), age
        except (OSError, ValueError, KeyError, TypeError):
            return None, 0.0

    def _keep(self, path: Path, fresh: Signed) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        signature = None if fresh.signature is None else base64.b64encode(fresh.signature).decode()
        values = {"content": base64.b64encode(fresh.content).decode(), "signature": signature}
        partial = fs.partial_path(path)
        try:
            partial.write_text(json.dumps(values), encoding="ascii")
            os.utime(partial, (self.now(), self.now()))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _fetch(url: str, most: int) -> bytes | None:
    async def get() -> bytes:
        async with Http(_IMPATIENT) as http:
            return (await get_bytes(http, url, limit=most))[0]

    try:
        return asyncio.run(get())
    except DownloadError as error:
        if error.status in (404, 410):
            return None
        raise


def _days(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:.0f} days" if days >= 2 else f"{max(0.0, seconds) / 3600:.0f} hours"
