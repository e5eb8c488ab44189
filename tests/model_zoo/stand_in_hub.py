"""A hub on this machine: what the Hugging Face hub answers to a download, as files of a web server.

The form of its answers is that of https://huggingface.co/docs/hub/api; the real one has not been asked.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from misbehaving import Server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""Files of this many bytes or more are stored as the hub stores weights, by their SHA-256."""


def git_sha1(body: bytes) -> str:
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()


def sibling(name: str, body: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"rfilename": name, "size": len(body), "blobId": git_sha1(body)}
    if len(body) >= LARGE:
        digest = hashlib.sha256(body).hexdigest()
        entry |= {"blobId": "f" * 40, "lfs": {"sha256": digest, "size": len(body), "pointerSize": 130}}
    return entry


def publish(
    server: Server,
    repository: str,
    files: Mapping[str, bytes],
    *,
    commit: str = COMMIT,
    revisions: tuple[str, ...] = ("main",),
    gated: bool | str = False,
) -> None:
    """Let the server have a repository at one commit, under the names `revisions` too."""
    info = {
        "id": repository,
        "sha": commit,
        "gated": gated,
        "siblings": [sibling(name, body) for name, body in files.items()],
    }
    for revision in (*revisions, commit):
        server.files[f"/api/models/{repository}/revision/{revision}"] = json.dumps(info).encode()
    for name, body in files.items():
        server.files[f"/{repository}/resolve/{commit}/{name}"] = body


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def downloads(server: Server) -> list[str]:
    """Names of the files that were asked for, in order."""
    return [path.rsplit("/", 1)[1] for path, _ in server.requests if "/resolve/" in path]
