"""Fetches a checkpoint from a Hugging Face hub into the hub's own cache; a broken download resumes.

Everything that names a place or a right stays with `huggingface_hub`, so that HF_HOME, HF_HUB_CACHE,
HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean everywhere else, and another program finds the
files too. Its releases from 2 on start a file again when a process dies in the middle of it. The weights
are therefore put into the cache's `blobs` folder by us first
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache), from where the partial file left off, and
checked against the SHA-256 that the hub names; the library then finds them there.

This module knows the hub; it does not know what is in the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from edge_runtime.errors import MissingExtraError, first_line
from quantize.errors import CheckpointError

__all__ = ["ALLOWED", "HubId", "fetch", "parse_id"]

ALLOWED = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICEN[CS]E*",
    "NOTICE*",
    "README.md",
]
"""Patterns of the files that quantizing needs, at the top of the repository; nothing else is fetched."""

_NOT_BELOW = ["*/*"]
_RESUMABLE = 4 << 20
"""Files of this many bytes or more are fetched by us, so that they resume."""

_ID = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[str, int, int], None]
"""(file name, bytes of it that are here, its bytes in total)."""


class HubId(NamedTuple):
    """`owner/name`, and a branch, tag or commit of it."""

    repository: str
    revision: str


def parse_id(text: str) -> HubId | None:
    """`owner/name`, `owner/name@revision` or either after `hf://` → its parts; None for anything else."""
    match = _ID.fullmatch(text)
    if match is None or ".." in text or "--" in match[1]:
        return None
    return HubId(match[1], match[2] or "main")


def fetch(
    source: str,
    *,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download what quantizing needs of a hub repository and return the folder it lies in.

    Args:
        source: `owner/name` or `owner/name@revision`.
        cache_dir: the hub cache; default: where HF_HUB_CACHE or HF_HOME say.
        endpoint: the hub's URL; default: HF_ENDPOINT or the public hub.
        progress: called while weights arrive.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        CheckpointError: not an id, not found, gated, out of reach and not in the cache,
            without safetensors, or cut off; says what to do.
    """
    name = parse_id(source)
    if name is None:
        raise CheckpointError(
            f"{source!r} is neither a folder nor a hub id. Give the path of a checkpoint folder, or "
            "'owner/name'"
        )
    hub, constants, errors = _library("", name), _library("constants", name), _library("errors", name)
    filter_repo_objects = _library("utils", name).filter_repo_objects

    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    place = endpoint or constants.ENDPOINT
    options: dict[str, Any] = {
        "revision": name.revision,
        "cache_dir": cache,
        "endpoint": endpoint,
        "allow_patterns": ALLOWED,
        "ignore_patterns": _NOT_BELOW,
    }
    with _quiet(name):
        # 1. what is there
        try:
            info = hub.HfApi(endpoint=endpoint).model_info(
                name.repository, revision=name.revision, files_metadata=True
            )
        except errors.GatedRepoError as error:
            raise _gated(name, place) from error
        except errors.RepositoryNotFoundError as error:
            raise CheckpointError(
                f"{place} has no model '{name.repository}', or it is private. Check the name; for a "
                "private model set "
                "HF_TOKEN or run: hf auth login"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise CheckpointError(
                f"{name.repository} has no revision '{name.revision}'. Name a branch, a tag or a commit, "
                "or leave out "
                f"'@{name.revision}'"
            ) from error
        except Exception as error:  # noqa: BLE001 - transport errors differ between releases
            return _from_cache(hub, errors, name, place, options, error)
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
        wanted = list(filter_repo_objects(sizes, allow_patterns=ALLOWED, ignore_patterns=_NOT_BELOW))
        if not any(file.endswith(".safetensors") for file in wanted):
            raise CheckpointError(
                f"{name.repository} has no weights in safetensors format (model*.safetensors). Convert it "
                "first, or "
                "choose a repository that has them"
            )
        # 2. the weights, resumable; 3. the rest, and the library's own bookkeeping
        try:
            for file in sorted(wanted):
                if sizes[file] >= _RESUMABLE:
                    _fetch_blob(hub, name, str(info.sha), file, cache, endpoint, progress)
            return Path(hub.snapshot_download(name.repository, **options))
        except errors.GatedRepoError as error:
            raise _gated(name, place) from error
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"the download of {name.repository} from {place} broke off ({first_line(error)}). What "
                "has arrived is "
                "kept: run the same command again to resume"
            ) from error


def _library(part: str, name: HubId) -> Any:
    """A module of huggingface_hub.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(f"huggingface_hub.{part}" if part else "huggingface_hub")
    except ImportError as error:
        raise MissingExtraError(
            "huggingface_hub", "hub", f"Fetching {name.repository} from the hub"
        ) from error


def _fetch_blob(
    hub: Any,
    name: HubId,
    commit: str,
    file: str,
    cache: Path,
    endpoint: str | None,
    progress: Progress | None,
) -> None:
    """Put one file into the cache's blobs, resuming a partial one; does nothing when it is there already."""
    url = hub.hf_hub_url(name.repository, file, revision=commit, endpoint=endpoint)
    meta = hub.get_hf_file_metadata(url)
    if not meta.etag or not meta.size or not re.fullmatch(r"[\w.-]+", meta.etag):
        return  # an unusual server: the library's own way still works
    blobs = cache / f"models--{name.repository.replace('/', '--')}" / "blobs"
    blob, partial = blobs / meta.etag, blobs / f"{meta.etag}.edge-runtime-partial"
    if blob.exists():
        return
    blobs.mkdir(parents=True, exist_ok=True)
    headers = _library("utils", name).build_hf_headers()
    if urlsplit(meta.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a signed URL of another host carries its own right
    with partial.open("ab") as raw:
        if raw.tell() > meta.size:
            raw.truncate(0)
            raw.seek(0)
        counted = _Counted(raw, lambda done: progress and progress(file, done, meta.size))
        _library("file_download", name).http_get(
            meta.location, counted, resume_size=raw.tell(), headers=headers, expected_size=meta.size
        )
    if _SHA256.fullmatch(meta.etag) and (found := _sha256(partial)) != meta.etag:
        partial.unlink()
        raise CheckpointError(
            f"{file} of {name.repository} arrived damaged (SHA-256 {found}, the hub says {meta.etag}) and "
            "was "
            "removed. Run the same command again"
        )
    partial.replace(blob)


def _from_cache(
    hub: Any, errors: Any, name: HubId, place: str, options: dict[str, Any], reason: BaseException
) -> Path:
    """The cached folder, for when the hub is out of reach or HF_HUB_OFFLINE is set."""
    offline = isinstance(reason, errors.OfflineModeIsEnabled)
    why = "HF_HUB_OFFLINE is set" if offline else f"{place} cannot be reached ({first_line(reason)})"
    way = "unset HF_HUB_OFFLINE" if offline else "connect to the network"
    try:
        folder = Path(hub.snapshot_download(name.repository, local_files_only=True, **options))
    except (errors.LocalEntryNotFoundError, FileNotFoundError) as error:
        raise CheckpointError(
            f"{why}, and {name.repository}@{name.revision} is not (wholly) in the cache "
            f"{options['cache_dir']}. To "
            f"fetch it, {way}; or give the path of a checkpoint folder"
        ) from error
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise CheckpointError(
            f"{why}, and the cache {options['cache_dir']} holds only a part of "
            f"{name.repository}@{name.revision}. To "
            f"fetch the rest, {way}"
        )
    return folder


def _gated(name: HubId, place: str) -> CheckpointError:
    return CheckpointError(
        f"{name.repository} is gated: its publisher wants you to accept the terms first. Open "
        f"{place}/{name.repository} "
        "in a browser, accept them, then set HF_TOKEN or run: hf auth login"
    )


class _Counted:
    """A binary file that tells how long it has become."""

    def __init__(self, raw: BinaryIO, changed: Callable[[int], object]) -> None:
        self._raw, self._changed = raw, changed

    def write(self, data: bytes) -> int:
        written = self._raw.write(data)
        self._changed(self._raw.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


@contextlib.contextmanager
def _quiet(name: HubId) -> Iterator[None]:
    """Without the library's own progress bars and retry warnings: the command line draws its own."""
    utils, logging = _library("utils", name), _library("utils.logging", name)
    silent = utils.are_progress_bars_disabled()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    if not silent and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if not silent and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
            utils.enable_progress_bars()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
