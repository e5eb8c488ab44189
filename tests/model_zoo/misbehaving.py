"""A web server on this machine that does what real ones do, and what bad ones do when it is told to.

Each entry of `script` answers one request instead of the honest answer; `requests` holds what was asked for.
"""

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Action = Callable[["Handler"], None]


class Server:
    """`files`: path → bytes, served with a strong ETag of their content unless `etag` says otherwise."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: list[Action] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.etag: Callable[[bytes], str | None] = lambda body: f'"{hashlib.sha256(body).hexdigest()}"'
        self.last_modified: str | None = None
        self.url = ""
        self.released = threading.Event()

    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.state.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        if self.state.script:
            self.state.script.pop(0)(self)
        else:
            honest(self)

    @property
    def body(self) -> bytes | None:
        return self.state.files.get(self.path.split("?")[0])

    def send(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def validators(self) -> dict[str, str]:
        etag = self.state.etag(self.body or b"")
        found = {"ETag": etag} if etag is not None else {}
        return found | ({"Last_Modified": self.state.last_modified} if self.state.last_modified else {})

    def wanted_range(self) -> int | None:
        """Where the range that may be fulfilled begins (RFC 9110 14.2)."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if match is None or (condition is not None and condition not in self.validators().values()):
            return None
        return int(match[1])

    def hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


def honest(handler: Handler) -> None:
    answer(handler, None)


def answer(handler: Handler, count: int | None) -> None:
    """The right answer; only its first `count` bytes, and then a cut connection, when that is given."""
    body = handler.body
    if body is None:
        return handler.send(404)
    start = handler.wanted_range()
    if start is not None and start >= len(body):
        return handler.send(416, Content_Range=f"bytes */{len(body)}")
    part = body[start or 0 :]
    headers = handler.validators()
    if start is not None:
        headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    status = 200 if start is None else 206
    if count is None:
        return handler.send(status, part, **headers)
    handler.send(status, part[:count], len(part), **headers)
    return handler.hang_up()


def cut(count: int) -> Action:
    return lambda handler: answer(handler, count)


def ignore_range(handler: Handler) -> None:
    handler.send(200, handler.body or b"", **handler.validators())


def part(said: str, start: int, stop: int | None = None, **headers: str) -> Action:
    """Status 206 with the Content-Range `said` and the bytes from `start` to `stop`."""

    def act(handler: Handler) -> None:
        content = (handler.body or b"")[start:stop]
        handler.send(206, content, **({"Content_Range": said} if said else {}), **headers)

    return act


def status(code: int, body: bytes = b"", **headers: str) -> Action:
    return lambda handler: handler.send(code, body, **headers)


def claim(length: int, **headers: str) -> Action:
    """The whole file under a Content-Length of its own, and the end of the connection."""

    def act(handler: Handler) -> None:
        handler.send(200, handler.body or b"", length, **{**handler.validators(), **headers})
        handler.hang_up()

    return act


def stall(count: int) -> Action:
    """The first `count` bytes, and then nothing until the test is over."""

    def act(handler: Handler) -> None:
        body = handler.body or b""
        handler.send(200, body[:count], len(body), **handler.validators())
        handler.wfile.flush()
        handler.state.released.wait(20)
        handler.hang_up()

    return act


def chunked(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    body = handler.body or b""
    handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def without_length(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(handler.body or b"")
    handler.hang_up()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed or gave up is what the tests are about."""


@contextmanager
def serving(state: Server | None = None) -> Iterator[Server]:
    """The server on a free port of this machine's loopback."""
    state = state or Server()
    server = _Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
