"""Registries at web addresses: fetched, checked, kept on disk for when there is no network.

Knows: HTTP as far as a small file needs it, and the cache's files. Does not know: what a registry says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from model_zoo import files as fs
from model_zoo.errors import RegistryError
from model_zoo.registry_file import MAX_REGISTRY_BYTES, Signed
from model_zoo.signing import MAX_SIGNATURE_BYTES

__all__ = ["Fetch", "RegistryCache"]

T = TypeVar("T")

Fetch = Callable[[str, int], "bytes | None"]
"""(address, most bytes) → content, `None` where the server says that there is nothing (404, 410); raises
`OSError` when it cannot be asked."""

_TIMEOUT_S = 15.0


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
            return check(kept)
        fetch = self.fetch or _fetch
        try:
            content = fetch(url, MAX_REGISTRY_BYTES + 1)
            signature = fetch(url + ".sig", MAX_SIGNATURE_BYTES + 1)
        except OSError as error:
            if kept is None:
                raise RegistryError(
                    f"{url}: the registry cannot be fetched: {_reason(error)}; "
                    "look at the address and the network, or take it out of [model] registries"
                ) from error
            notices.append(f"{url}: cannot be fetched ({_reason(error)}); a copy {_days(age)} old is used")
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


class _NoDowngrade(HTTPRedirectHandler):
    """Follows redirects, but not from an encrypted address to one that is not."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        """What to ask next."""
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise URLError("it redirects from https to an unencrypted address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, most: int) -> bytes | None:
    """Get an address with the standard library, which knows the proxies of the environment."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise URLError("only http and https addresses can be fetched")
    request = Request(url, headers={"User-Agent": "edge-runtime"})
    try:
        with build_opener(_NoDowngrade).open(request, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read(most)
            if len(content) < most and answer.length:  # `read` says nothing of what did not come
                raise URLError(f"the answer was cut off: {answer.length} bytes are missing")
            return content
    except HTTPError as error:
        error.close()
        if error.code in (404, 410):
            return None
        raise URLError(f"the server answers {error.code}") from error
    except HTTPException as error:  # cut off in the middle
        raise URLError(f"the answer is broken: {error!r}") from error


def _reason(error: OSError) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    return str(getattr(reason, "strerror", None) or reason)


def _days(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:.0f} days" if days >= 2 else f"{max(0.0, seconds) / 3600:.0f} hours"
