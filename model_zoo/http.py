"""HTTP as downloads need it: redirects, proxies, time-outs, and errors that say what happened.

Knows: requests and answers (RFC 9110), over aiohttp. Does not know: files (`download.py`) or any hub's API.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from model_zoo.errors import DownloadError

__all__ = [
    "Http",
    "Transport",
    "TransportError",
    "check_url",
    "environment_proxy",
    "get_bytes",
    "is_local",
    "raise_for_status",
    "retrying",
]

T = TypeVar("T")

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be another one in a moment (RFC 9110, RFC 6585)."""

_SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization")
_BUFFER = 1 << 18


class TransportError(DownloadError):
    """Something that trying again may mend: a cut or stalled connection, or a server that is busy."""


@dataclass(frozen=True, slots=True)
class Transport:
    """How patient a download is; the network's randomness, proxies and waiting come in here too.

    `stall_s`: seconds without a byte after which a connection is given up. `attempts`: tries in a row that
    bring nothing new before a download fails; between them it waits `backoff_s`, then twice as long each
    time, up to `backoff_max_s`. `connections`: files at once.
    """

    connect_s: float = 30.0
    stall_s: float = 60.0
    attempts: int = 6
    backoff_s: float = 0.5
    backoff_max_s: float = 20.0
    connections: int = 4
    proxy: Callable[[str], str | None] = lambda url: environment_proxy(url)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random

    async def wait(self, failures: int, asked: float | None = None) -> None:
        """Wait before the next try; `asked`: seconds that the server wished for (Retry-After)."""
        pause = min(self.backoff_s * 2.0 ** max(0, failures - 1), self.backoff_max_s)
        # Spread out, so that many devices do not come back in the same instant.
        await self.sleep(max(pause * (0.5 + 0.5 * self.jitter()), min(asked or 0.0, self.backoff_max_s)))


class Http:
    """A session as an asynchronous context manager.

    Compression is refused (`Accept-Encoding: identity`), since sizes, ranges and hashes are of the plain
    bytes. Cookies and `~/.netrc` play no part.
    """

    def __init__(self, transport: Transport | None = None) -> None:
        self.transport = transport or Transport()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Http:
        patience = aiohttp.ClientTimeout(
            total=None, sock_connect=self.transport.connect_s, sock_read=self.transport.stall_s
        )
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": _user_agent(), "Accept-Encoding": "identity"},
            read_bufsize=_BUFFER,
            timeout=patience,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def open(
        self, url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request after redirects, whatever its status; its body is read inside the block.

        A redirect to another origin gets no `Authorization`; one from https to http is refused.

        Raises:
            TransportError: no connection, or it broke or stalled, also while the block reads the body.
            DownloadError: a URL or redirect that is not followed, a certificate that does not hold.
        """
        if self._session is None:
            raise RuntimeError("Http is used inside `async with`")
        check_url(url)
        current, sent = _as_url(url), dict(headers or {})
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                proxy = self.transport.proxy(str(current))
                request = self._session.request(
                    method, current, headers=sent, allow_redirects=False, proxy=proxy
                )
                async with request as response:
                    if response.status not in _REDIRECTS:
                        _refuse_encoding(response, url)
                        yield response
                        return
                    following = _redirected(current, response)
                if following.origin() != current.origin():
                    # A signed URL of another host carries its own right; ours is nobody else's business.
                    sent = {key: value for key, value in sent.items() if key.lower() not in _SECRET_HEADERS}
                current = following
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise DownloadError(
                f"{url}: no safe connection to {current.host}: {_reason(error)}. Check this device's clock "
                "and its certificates (the package ca-certificates; SSL_CERT_FILE names another file of them)"
            ) from error
        except aiohttp.InvalidURL as error:
            raise DownloadError(f"{url}: leads to {error}, which is no address. Check it") from error
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
            raise TransportError(_sentence(url, error, self.transport)) from error
        raise DownloadError(f"{url}: leads through more than {_MAX_REDIRECTS} redirects; it is not followed")


async def retrying(http: Http, attempt: Callable[[], Awaitable[T]]) -> T:
    """The result of `attempt`, which is tried again after faults that may pass.

    Raises:
        TransportError: the last try failed as well. Whatever else `attempt` raises.
    """
    failures = 0
    while True:
        try:
            return await attempt()
        except TransportError as fault:
            failures += 1
            if failures >= http.transport.attempts:
                raise
            await http.transport.wait(failures, fault.retry_after)


async def get_bytes(
    http: Http, url: str, headers: Mapping[str, str] | None = None, *, limit: int
) -> tuple[bytes, Mapping[str, str]]:
    """The whole body of a small answer (at most `limit` bytes) and its headers; tries again on faults.

    Raises:
        DownloadError: status other than 200 (`status` has it), or a longer body.
        TransportError: the last try failed as well.
    """

    async def attempt() -> tuple[bytes, Mapping[str, str]]:
        async with http.open(url, headers) as response:
            raise_for_status(response, url)
            body = bytearray()
            async for chunk in response.content.iter_chunked(_BUFFER):
                body += chunk
                if len(body) > limit:
                    raise DownloadError(f"{url}: sends more than {limit} bytes; it is refused")
            return bytes(body), response.headers

    return await retrying(http, attempt)


def raise_for_status(response: aiohttp.ClientResponse, url: str) -> None:
    """Nothing for status 200 and 206, else the error it means.

    Raises:
        TransportError: a status that may pass. DownloadError: any other; `status` and `code` say which.
    """
    if response.status in (200, 206):
        return
    said = f"{response.status} {response.reason or ''}".strip()
    code = response.headers.get("X-Error-Code")
    if response.status in _TRANSIENT:
        raise TransportError(
            f"{url}: the server says {said}",
            status=response.status,
            code=code,
            retry_after=_seconds(response.headers.get("Retry-After")),
        )
    hint = "Check the address" if response.status in (404, 410) else "Check the address and your right to it"
    raise DownloadError(f"{url}: the server says {said}. {hint}", status=response.status, code=code)


def check_url(url: str) -> None:
    """Refuse what is not an http or https address with a host.

    Raises:
        DownloadError: naming what is wrong.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise DownloadError(f"{url!r}: is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise DownloadError(
            f"{url!r}: is no address to download from; it must begin with https:// or http://"
        )


def is_local(url: str) -> bool:
    """Whether an address is on this very machine."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def environment_proxy(url: str) -> str | None:
    """The proxy that http_proxy, https_proxy, all_proxy and no_proxy give an address; `None` for none, as
    always within this machine."""
    if is_local(url):
        return None
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    host = parts.hostname or ""
    if not proxy or urllib.request.proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        named = f"{urlsplit(proxy).scheme}://{urlsplit(proxy).hostname}"
        raise DownloadError(
            f"{url}: the environment names the proxy {named}, of a kind that is not supported. "
            "Give an http:// proxy in https_proxy, or name the host in no_proxy"
        )
    return proxy


# --- parts --------------------------------------------------------------------------------------------------


def _redirected(current: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if not location:
        raise DownloadError(f"{current}: the server redirects ({response.status}) and does not say where to")
    following = current.join(_as_url(location))
    if following.scheme not in ("http", "https") or not following.host:
        raise DownloadError(f"{current}: redirects to {location!r}, which is not followed")
    if current.scheme == "https" and following.scheme == "http":
        raise DownloadError(
            f"{current}: redirects from https to http ({following.host}), where anybody on the way could "
            "change the bytes; it is not followed"
        )
    return following


def _as_url(text: str) -> URL:
    # Signed addresses must stay as they are, letter by letter; only what is not ASCII yet is encoded.
    return URL(text, encoded=text.isascii() and " " not in text)


def _refuse_encoding(response: aiohttp.ClientResponse, url: str) -> None:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise DownloadError(
            f"{url}: arrives compressed ({encoding}) though the plain bytes were asked for, so that neither "
            "its size nor a resumed part can be relied on. A proxy on the way may do this: name the host in "
            "no_proxy"
        )


def _sentence(url: str, error: BaseException, transport: Transport) -> str:
    if isinstance(error, aiohttp.SocketTimeoutError | aiohttp.ServerTimeoutError | asyncio.TimeoutError):
        connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
        seconds = transport.connect_s if connecting else transport.stall_s
        what = "no connection" if connecting else "not a byte arrived"
        return f"{url}: {what} within {seconds:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error  # asyncio puts the address into strerror; resolvers have codes below 0
        why = os.strerror(cause.errno) if cause.errno is not None and cause.errno > 0 else cause.strerror
        return f"{url}: {error.host} cannot be reached ({why or _reason(error)})"
    return f"{url}: the connection broke ({_reason(error)})"


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is not worth a clock."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None


def _user_agent() -> str:
    try:
        return f"edge-runtime/{metadata.version('edge-runtime')}"
    except metadata.PackageNotFoundError:
        return "edge-runtime/0+source"
