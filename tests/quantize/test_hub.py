"""Fetching from a hub: only what is needed, resumable, and errors that say what to do.

The hub is a stand-in on this machine; the real one has not been asked.
"""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from model_zoo.http import Transport
from quantize import hub
from quantize.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = np.random.default_rng(0).bytes(12 << 20)


class Hub:
    """What the stand-in serves, what it was asked for, and how it misbehaves."""

    def __init__(self):
        self.files = {
            "config.json": b'{"model_type": "llama"}',
            "tokenizer.json": b"{}",
            "model.safetensors": WEIGHTS,
            "LICENSE": b"do as you like",
            "pytorch_model.bin": b"never fetched",
            "original/model.safetensors": b"never fetched",
        }
        self.break_after = None  # bytes of the weights after which the connection is cut, once
        self.broken = False  # afterwards: downloads of weights get 503
        self.refusal = None  # (status, X-Error-Code) for every request
        self.damage = False
        self.requests = []  # (path, Range header)

    def etag(self, name):
        return hashlib.sha256(self.files[name]).hexdigest()

    def git_sha1(self, name):
        body = self.files[name]
        return hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()

    def entry(self, name):
        size = len(self.files[name])
        lfs = {"oid": self.etag(name), "sha256": self.etag(name), "size": size, "pointerSize": 130}
        entry = {
            "type": "file",
            "path": name,
            "rfilename": name,
            "size": size,
            "oid": self.git_sha1(name),
            "blobId": self.git_sha1(name),
        }
        return entry | ({"lfs": lfs} if size > 1000 else {})


def handler_for(hub_state):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def reply(self, status, body=b"", headers=()):
            self.send_response(status)
            for key, value in headers:
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            path = self.path.split("?")[0]
            hub_state.requests.append((self.command, path, self.headers.get("Range")))
            if hub_state.refusal:
                status, code = hub_state.refusal
                return self.reply(status, b'{"error": "no"}', [("X-Error-Code", code)] if code else [])
            if path == "/api/models/owner/tiny/revision/main":
                names = [hub_state.entry(name) for name in hub_state.files]
                info = {"id": "owner/tiny", "sha": COMMIT, "siblings": names, "tags": [], "private": False}
                return self.reply(200, json.dumps(info).encode(), [("Content-Type", "application/json")])
            if path.startswith(f"/api/models/owner/tiny/tree/{COMMIT}"):
                names = [hub_state.entry(name) for name in hub_state.files]
                return self.reply(200, json.dumps(names).encode(), [("Content-Type", "application/json")])
            if path.startswith("/api/models/owner/tiny/revision/"):
                return self.reply(404, b"{}", [("X-Error-Code", "RevisionNotFound")])
            match = re.fullmatch(rf"/owner/tiny/resolve/(?:main|{COMMIT})/(.+)", path)
            if match and match[1] in hub_state.files:
                return self.send_file(match[1])
            return self.reply(404, b"{}", [("X-Error-Code", "RepoNotFound")])

        do_HEAD = do_GET  # noqa: N815

        def send_file(self, name):
            body = hub_state.files[name]
            headers = [("X-Repo-Commit", COMMIT), ("ETag", f'"{hub_state.etag(name)}"')]
            if self.command == "HEAD" or len(body) < 1000:
                return self.reply(200, body, headers)
            if hub_state.broken:
                return self.reply(503)
            start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1])
            part = bytes(len(body)) if hub_state.damage else body
            part = part[start:]
            self.send_response(206 if start else 200)
            for key, value in headers:
                self.send_header(key, value)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if hub_state.break_after is not None:
                self.wfile.write(part[: hub_state.break_after])
                self.wfile.flush()
                hub_state.break_after, hub_state.broken = None, True
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return None
            self.wfile.write(part)
            return None

    return Handler


@pytest.fixture
def served():
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(state))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    async def at_once(seconds):
        pass

    monkeypatch.setattr(hub, "TRANSPORT", Transport(sleep=at_once, proxy=lambda url: None))


def weight_ranges(state):
    return [
        asked for verb, path, asked in state.requests if verb == "GET" and path.endswith("/model.safetensors")
    ]


def test_an_id_is_told_from_a_path():
    assert hub.parse_id("owner/tiny") == ("owner/tiny", "main")
    assert hub.parse_id("hf://owner/Tiny-1.5B@refs/pr/3") == ("owner/Tiny-1.5B", "refs/pr/3")
    for text in ("tiny", "./owner/tiny", "/models/tiny", "a/b/c", "../tiny", "owner/..", "owner/tiny@", ""):
        assert hub.parse_id(text) is None


def test_only_what_quantizing_needs_is_fetched(served, tmp_path):
    state, endpoint = served
    seen = []
    folder = hub.fetch(
        "owner/tiny", cache_dir=tmp_path, endpoint=endpoint, progress=lambda *step: seen.append(step)
    )
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert found == ["LICENSE", "config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert seen[-1] == ("model.safetensors", len(WEIGHTS), len(WEIGHTS))
    assert weight_ranges(state) == [None]


def test_a_second_fetch_downloads_no_weights(served, tmp_path):
    state, endpoint = served
    first = hub.fetch("owner/tiny", cache_dir=tmp_path, endpoint=endpoint)
    state.requests.clear()
    assert hub.fetch("owner/tiny", cache_dir=tmp_path, endpoint=endpoint) == first
    assert weight_ranges(state) == []


def test_a_broken_download_keeps_what_came_and_the_next_run_resumes_there(served, tmp_path):
    state, endpoint = served
    state.break_after = 11 << 20
    with pytest.raises(CheckpointError, match=r"owner/tiny: the download broke off: .*run the same command"):
        hub.fetch("owner/tiny", cache_dir=tmp_path, endpoint=endpoint)
    (partial,) = tmp_path.rglob("*.edge-runtime-partial")
    kept = partial.stat().st_size
    assert 0 < kept <= 11 << 20
    state.broken = False
    state.requests.clear()
    folder = hub.fetch("owner/tiny", cache_dir=tmp_path, endpoint=endpoint)
    assert weight_ranges(state) == [f"bytes={kept}-"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not list(tmp_path.rglob("*.edge-runtime-partial"))


def test_weights_that_arrive_damaged_are_refused_and_removed(served, tmp_path):
    state, endpoint = served
    state.damage = True
    with pytest.raises(
        CheckpointError,
        match=f"owner/tiny: model.safetensors: arrived damaged .*expected {state.etag('model.safetensors')}",
    ):
        hub.fetch("owner/tiny", cache_dir=tmp_path, endpoint=endpoint)
    assert not list(tmp_path.rglob("*.edge-runtime-partial"))


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, "RepoNotFound"), r"has no model 'owner/tiny', or it is private.*HF_TOKEN"),
        ((404, "RepoNotFound"), r"has no model 'owner/tiny', or it is private.*HF_TOKEN"),
        ((403, "GatedRepo"), r"owner/tiny is gated.*Open http://.*/owner/tiny.*accept.*HF_TOKEN"),
        ((500, ""), r"cannot be reached .*is not \(wholly\) in the cache .*connect to the network"),
    ],
)
def test_a_refusal_says_what_to_do(served, tmp_path, refusal, message):
    state, endpoint = served
    state.refusal = refusal
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        hub.fetch("owner/tiny", cache_dir=tmp_path, endpoint=endpoint)


def test_an_unknown_revision_is_named(served, tmp_path):
    _, endpoint = served
    with pytest.raises(CheckpointError, match="owner/tiny has no revision 'v9'"):
        hub.fetch("owner/tiny@v9", cache_dir=tmp_path, endpoint=endpoint)


def test_a_repository_without_safetensors_is_refused_before_anything_is_fetched(served, tmp_path):
    state, endpoint = served
    del state.files["model.safetensors"]
    with pytest.raises(CheckpointError, match="owner/tiny has no weights in safetensors format"):
        hub.fetch("owner/tiny", cache_dir=tmp_path, endpoint=endpoint)
    assert all(verb == "GET" and path.startswith("/api/") for verb, path, _ in state.requests)


def test_without_a_network_the_cache_answers(served, tmp_path):
    state, endpoint = served
    folder = hub.fetch("owner/tiny", cache_dir=tmp_path, endpoint=endpoint)
    state.refusal = (500, "")
    assert hub.fetch("owner/tiny", cache_dir=tmp_path, endpoint=endpoint) == folder


FETCH = "import sys; from quantize.hub import fetch; print(fetch(sys.argv[1]))"


def run_with(environment, source="owner/tiny"):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", FETCH, source],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_hubs_own_variables_are_honoured(served, tmp_path):
    _, endpoint = served
    found = run_with({"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)})
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(str(tmp_path / "hub"))
    offline = run_with({"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert offline.stdout == found.stdout, offline.stderr
    missing = run_with(
        {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}, "owner/other"
    )
    assert "HF_HUB_OFFLINE is set, and owner/other@main is not (wholly) in the cache" in missing.stderr


def test_what_is_neither_a_folder_nor_an_id_is_refused():
    with pytest.raises(CheckpointError, match="'nowhere' is neither a folder nor a hub id"):
        hub.fetch("nowhere")
