"""The Hugging Face hub: what a repository holds, and its files in the hub's own cache.

The layout is the one of `huggingface_hub` (blobs, snapshots, refs:
https://huggingface.co/docs/huggingface_hub/guides/manage-cache), so that other programs find what was
fetched here and the other way round; HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean
what they mean there. Every file is checked against the hash that the hub names: SHA-256 of large files,
git's hash of a blob for small ones.

Knows: the hub's API and cache. Does not know: what is in the files, or which of them are wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from model_zoo.download import Progress, Wanted, download
from model_zoo.errors import DownloadError, HubError, StoreError
from model_zoo.http import Http, Transport, TransportError, get_bytes, is_local
from model_zoo.manifest import check_member_name
from model_zoo.partial import PARTIAL_SUFFIX

__all__ = [
    "DEFAULT_ENDPOINT",
    "Hub",
    "HubFile",
    "HubId",
    "HubSettings",
    "HubUnreachableError",
    "ModelInfo",
    "parse_id",
    "select",
]

DEFAULT_ENDPOINT = "https://huggingface.co"
MAIN = "main"

_MAX_INFO_BYTES = 64 << 20
_ID = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRUE = frozenset({"1", "on", "yes", "true"})


class HubUnreachableError(HubError):
    """The hub gives no answer, or is not to be asked (HF_HUB_OFFLINE)."""


class HubId(NamedTuple):
    """`owner/name`, and a branch, tag or commit of it."""

    repository: str
    revision: str


def parse_id(text: str) -> HubId | None:
    """`owner/name`, `owner/name@revision` or either after `hf://` → its parts; None for anything else."""
    match = _ID.fullmatch(text)
    if match is None or ".." in text or "--" in match[1]:
        return None
    return HubId(match[1], match[2] or MAIN)


@dataclass(frozen=True, slots=True)
class HubSettings:
    """Where the hub is and what opens it. `token` goes to `endpoint` alone, and over https (or within this
    machine) alone."""

    cache_dir: Path
    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    offline: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> HubSettings:
        """What the hub's own variables say."""
        home = Path(
            environment.get("HF_HOME")
            or Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
        ).expanduser()
        cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
        return cls(
            cache_dir=Path(cache).expanduser(),
            endpoint=(environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/"),
            token=_token(environment, home),
            offline=any(
                environment.get(name, "").lower() in _TRUE
                for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
            ),
        )

    @property
    def headers(self) -> dict[str, str]:
        """Headers for the endpoint."""
        safe = urlsplit(self.endpoint).scheme == "https" or is_local(self.endpoint)
        return {"Authorization": f"Bearer {self.token}"} if self.token and safe else {}


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: `sha256` of a large one, `git_sha1` of a small one; size in bytes."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    @property
    def blob(self) -> str:
        """Its name in the cache's folder of blobs."""
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a repository holds at one commit. `gated`: its publisher wants terms accepted first."""

    id: HubId
    commit: str
    files: tuple[HubFile, ...]
    gated: bool


def select(files: Iterable[HubFile], patterns: Sequence[str]) -> tuple[HubFile, ...]:
    """The files at the top of a repository that match one of the patterns (as in a shell)."""
    return tuple(
        file
        for file in files
        if "/" not in file.name and any(fnmatchcase(file.name, pattern) for pattern in patterns)
    )


class Hub:
    """The hub that the settings name, and its cache on this disk."""

    def __init__(self, settings: HubSettings | None = None, transport: Transport | None = None) -> None:
        self.settings = settings or HubSettings.from_environment()
        self._transport = transport or Transport()

    def info(self, name: HubId) -> ModelInfo:
        """Ask what a repository holds.

        Raises:
            HubUnreachableError: no network, no hub, or HF_HUB_OFFLINE.
            HubError: no such repository or revision, or one that this user may not see.
        """
        if self.settings.offline:
            raise HubUnreachableError("HF_HUB_OFFLINE is set")
        place = self.settings.endpoint
        url = f"{place}/api/models/{name.repository}/revision/{quote(name.revision, safe='')}?blobs=true"
        # A person waits for this one: fewer tries than for files.
        transport = dataclasses.replace(self._transport, attempts=min(3, self._transport.attempts))

        async def ask() -> bytes:
            async with Http(transport) as http:
                return (await get_bytes(http, url, self.settings.headers, limit=_MAX_INFO_BYTES))[0]

        try:
            body = asyncio.run(ask())
        except TransportError as error:
            raise HubUnreachableError(f"{place} cannot be reached ({error})") from error
        except DownloadError as error:
            raise self._refused(error, name) from error
        return _parsed(body, name, place)

    def missing_bytes(self, info: ModelInfo, files: Iterable[HubFile]) -> int:
        """Bytes of `files` that are not in the cache yet, what arrived of them counted as there."""
        storage = self._storage(info.id)
        found = 0
        for file in files:
            blob = storage / "blobs" / file.blob
            if not blob.exists() and not (storage / "snapshots" / info.commit / file.name).exists():
                partial = blob.with_name(blob.name + PARTIAL_SUFFIX)
                found += max(0, file.size - (partial.stat().st_size if partial.exists() else 0))
        return found

    def fetch(self, info: ModelInfo, files: Iterable[HubFile], *, progress: Progress | None = None) -> Path:
        """Bring files of a commit into the cache; returns the folder of its snapshot.

        Small files come first, so that a refusal costs nothing.

        Raises:
            HubError: gated, gone, damaged, or broken off; what arrived is kept.
            StoreError: the cache cannot be written.
        """
        storage, wanted = self._storage(info.id), sorted(files, key=lambda file: file.size)
        base = f"{self.settings.endpoint}/{info.id.repository}/resolve/{info.commit}"
        by_blob = {file.blob: file for file in reversed(wanted)}  # equal files are stored once
        try:
            download(
                [
                    Wanted(
                        url=f"{base}/{quote(file.name)}",
                        target=storage / "blobs" / blob,
                        size=file.size,
                        sha256=file.sha256,
                        git_sha1=file.git_sha1,
                        headers=self.settings.headers,
                        label=file.name,
                    )
                    for blob, file in reversed(by_blob.items())
                ],
                transport=self._transport,
                progress=progress,
            )
        except DownloadError as error:
            raise self._refused(error, info.id) from error
        snapshot = storage / "snapshots" / info.commit
        try:
            for file in wanted:
                _point(snapshot / file.name, storage / "blobs" / file.blob)
            if info.id.revision != info.commit:
                _replace_text(storage / "refs" / info.id.revision, info.commit)
        except OSError as error:
            raise StoreError(f"{snapshot}: cannot be written: {error.strerror or error}") from error
        return snapshot

    def cached(self, name: HubId) -> Path | None:
        """The folder of a revision that was fetched before, by us or another program; asks nobody."""
        storage, commit = self._storage(name), name.revision
        with contextlib.suppress(OSError):
            commit = (storage / "refs" / name.revision).read_text("utf-8").strip()
        snapshot = storage / "snapshots" / commit
        return snapshot if "/" not in commit and commit not in ("", ".", "..") and snapshot.is_dir() else None

    def holds(self, info: ModelInfo, files: Iterable[HubFile]) -> Path | None:
        """The snapshot folder when all these files are in the cache already."""
        snapshot = self._storage(info.id) / "snapshots" / info.commit
        whole = all((snapshot / file.name).is_file() for file in files)
        return snapshot if whole and snapshot.is_dir() else None

    def _storage(self, name: HubId) -> Path:
        return self.settings.cache_dir / f"models--{name.repository.replace('/', '--')}"

    def _refused(self, error: DownloadError, name: HubId) -> HubError:
        """An answer of the hub as a sentence that says what to do."""
        place, repository = self.settings.endpoint, name.repository
        if error.code == "GatedRepo" or (error.status == 403 and error.code is None):
            text = self.gated(name)
        elif error.status == 401 and error.code is None and self.settings.headers:
            text = f"{place} does not accept the token of HF_TOKEN or `hf auth login`; renew it, or unset it"
        elif error.code == "RevisionNotFound":
            text = (
                f"{repository} has no revision '{name.revision}'. Name a branch, a tag or a commit, or leave "
                f"out '@{name.revision}'"
            )
        elif error.status in (401, 404) and error.code != "EntryNotFound":
            text = (
                f"{place} has no model '{repository}', or it is private. Check the name; for a private model "
                "set HF_TOKEN or run: hf auth login"
            )
        else:
            text = f"{repository}: {error}"
        return HubError(text, status=error.status, code=error.code)

    def gated(self, name: HubId) -> str:
        """What to do about a gated repository."""
        withheld = " (HF_TOKEN is not sent, since HF_ENDPOINT has no https)"
        return (
            f"{name.repository} is gated: its publisher wants you to accept the terms first. Open "
            f"{self.settings.endpoint}/{name.repository} in a browser, accept them, then set HF_TOKEN or "
            "run: hf auth login (a fine-grained token needs the right to read public gated repositories)"
            f"{withheld if self.settings.token and not self.settings.headers else ''}"
        )


# --- the API ------------------------------------------------------------------------------------------------


def _parsed(body: bytes, name: HubId, place: str) -> ModelInfo:
    """The answer of /api/models/REPOSITORY/revision/REVISION?blobs=true."""
    try:
        answer = json.loads(body)
        commit, siblings = answer["sha"], answer["siblings"]
        files = tuple(_file(sibling) for sibling in siblings)
    except (ValueError, KeyError, TypeError) as error:
        raise HubError(
            f"{place} answers in a way that is not understood ({type(error).__name__}: {error}); is it a "
            "hub? HF_ENDPOINT names it"
        ) from error
    if not isinstance(commit, str) or _COMMIT.fullmatch(commit) is None:
        raise HubError(f"{place} names the commit {commit!r} of {name.repository}, which is none")
    return ModelInfo(name, commit, files, bool(answer.get("gated")))


def _file(sibling: Mapping[str, Any]) -> HubFile:
    name, size, large = sibling["rfilename"], sibling["size"], sibling.get("lfs") or {}
    if not isinstance(name, str) or not isinstance(size, int) or size < 0:
        raise ValueError(f"a file named {name!r} of {size!r} bytes")
    if (problem := check_member_name(name)) is not None:
        raise ValueError(f"a file named {name!r}: the path {problem}")
    sha256 = large.get("sha256") or large.get("oid")
    git = None if sha256 else sibling.get("blobId")
    if not (_SHA256.fullmatch(sha256) if sha256 else _COMMIT.fullmatch(git or "")):
        raise ValueError(f"no hash of {name}")
    return HubFile(name, size, sha256, git)


def _token(environment: Mapping[str, str], home: Path) -> str | None:
    if environment.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE:
        return None
    token = environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        try:
            token = Path(environment.get("HF_TOKEN_PATH") or home / "token").expanduser().read_text("utf-8")
        except OSError:
            return None  # nobody is logged in
    return token.replace("\r", "").replace("\n", "").strip() or None


# --- the cache ----------------------------------------------------------------------------------------------


def _point(pointer: Path, blob: Path) -> None:
    """Let a name of a snapshot mean a blob; where links are not to be had, the blob moves there."""
    if pointer.exists():
        return
    pointer.parent.mkdir(parents=True, exist_ok=True)
    fresh = pointer.with_name(f".{pointer.name}.{secrets.token_hex(4)}")
    try:
        fresh.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # FAT on an SD card
        blob.replace(pointer)
        return
    fresh.replace(pointer)


def _replace_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fresh.write_text(text, "utf-8")
    fresh.replace(path)
