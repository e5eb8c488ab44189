"""`manifest.json`: what a model package says about itself.

The keys are fixed by `manifest.schema.json`. `Manifest.to_json` is deterministic (sorted keys, two spaces,
UTF-8, one newline at the end), because a detached signature covers the exact bytes of the file and because a
user's own calibration is filed under their hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from model_zoo import schema
from model_zoo.errors import ManifestError

__all__ = [
    "FORMAT",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "SIGNATURE_NAME",
    "FileEntry",
    "Generation",
    "Licence",
    "Manifest",
    "Memory",
    "Quantization",
    "Source",
    "check_member_name",
    "read_exact",
    "read_manifest",
]

FORMAT = 1
"""The format version that this release writes, and the newest that it reads."""

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
MAX_MANIFEST_BYTES = 8 * 1024 * 1024
"""A longer manifest is refused before it is parsed, bytes."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a package: its size in bytes and its SHA-256 as 64 lower-case hexadecimal digits."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the weights are stored; what does not apply to a scheme is `None`."""

    scheme: str
    method: str
    bits: int
    block_size: int | None = None
    head_bits: int | None = None
    head_block_size: int | None = None
    accuracy_level: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What running the model needs, bytes."""

    weights_bytes: int
    kv_bytes_per_token: int
    runtime_bytes: int

    def total(self, context: int) -> int:
        """Bytes needed with a KV cache of `context` tokens: weights + KV + runtime."""
        return self.weights_bytes + self.kv_bytes_per_token * context + self.runtime_bytes


@dataclass(frozen=True, slots=True)
class Licence:
    """Licence of the model: SPDX id (or the publisher's own name for it) and who must be named."""

    id: str
    name: str | None = None
    url: str | None = None
    attribution: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """What the package was made from, by what and when (`created`: UTC, `2026-01-31T12:00:00Z`)."""

    repository: str
    exporter: str
    exporter_version: str
    created: str
    revision: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """Token ids that generation needs, and the sampling parameters the publisher recommends."""

    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of `manifest.json`; `files` and `revision` are filled in by `PackageWriter.commit`."""

    id: str
    architecture: str
    quantization: Quantization
    context_length: int
    vocab_size: int
    parameters: int
    engine: str
    memory: Memory
    licence: Licence
    source: Source
    generation: Generation
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    revision: str = ""
    format: int = FORMAT

    def with_revision(self) -> Manifest:
        """The same manifest with its revision: 16 hexadecimal digits of the SHA-256 over all else in it.

        Since the table of files holds their hashes, equal revisions mean equal content.
        """
        rest = {key: value for key, value in self.to_dict().items() if key != "revision"}
        digest = hashlib.sha256(_dump(rest).encode("utf-8")).hexdigest()
        return dataclasses.replace(self, revision=digest[:16])

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of all listed files, bytes."""
        return sum(entry.size for entry in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; optional keys that are `None` are left out."""
        return {
            "format": self.format,
            "id": self.id,
            "revision": self.revision,
            "architecture": self.architecture,
            "quantization": _plain(self.quantization),
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "parameters": self.parameters,
            "engine": self.engine,
            "engine_options": dict(self.engine_options),
            "files": {path: _plain(entry) for path, entry in self.files.items()},
            "memory": _plain(self.memory),
            "licence": _plain(self.licence),
            "source": _plain(self.source),
            "generation": _plain(self.generation),
            "evaluation": dict(self.evaluation),
        }

    def to_json(self) -> str:
        """The text of `manifest.json`: the same manifest always gives the same bytes.

        Raises:
            ManifestError: a value is not JSON (such as NaN) or breaks the schema.
        """
        text = _dump(self.to_dict())
        _check(json.loads(text), MANIFEST_NAME)
        return text

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = MANIFEST_NAME) -> Manifest:
        """Read and check a manifest; `where` begins the error messages (the file's path).

        Raises:
            ManifestError: naming the key, its value and what was expected.
        """
        if len(text) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{where}: has {len(text)} bytes; more than {MAX_MANIFEST_BYTES} is refused")
        try:
            decoded = text.decode("utf-8") if isinstance(text, bytes) else text
            data = json.loads(decoded, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ManifestError(
                f"{where}: is not valid JSON: {error}; the package is damaged: install it again"
            ) from error
        return cls.from_dict(data, where=where)

    @classmethod
    def from_dict(cls, data: Any, *, where: str = MANIFEST_NAME) -> Manifest:
        """Like `from_json`, from values that were parsed already."""
        _check(data, where)
        licence = dict(data["licence"], attribution=tuple(data["licence"]["attribution"]))
        generation = dict(data["generation"], eos_token_ids=tuple(data["generation"]["eos_token_ids"]))
        parsed = {
            **data,
            "quantization": Quantization(**data["quantization"]),
            "files": {path: FileEntry(**entry) for path, entry in data["files"].items()},
            "memory": Memory(**data["memory"]),
            "licence": Licence(**licence),
            "source": Source(**data["source"]),
            "generation": Generation(**generation),
        }
        return cls(**parsed)


def check_member_name(name: str) -> str | None:
    """Why `name` cannot be a file of a package, or `None` when it can.

    A member is a relative POSIX path that stays inside the package on every system.
    """
    if not name:
        return "must not be empty"
    if "\\" in name or ":" in name or any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "must not contain a backslash, a colon or a control character"
    if name.startswith("/"):
        return "must be relative to the package, not absolute"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "must not contain '..', '.' or an empty part"
    if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in name.split("/")):
        return "must not have a part longer than 255 bytes"
    if name in (MANIFEST_NAME, SIGNATURE_NAME):
        return "must not be the manifest or its signature, which cannot list themselves"
    return None


def read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest of a package folder and the exact bytes it was read from.

    Raises:
        ManifestError: it is missing, unreadable or breaks the schema.
    """
    path = folder / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as error:
        raise ManifestError(
            f"{folder}: is not a model package: it has no {MANIFEST_NAME}. "
            "Make one with: edge-runtime quantize SRC OUT"
        ) from error
    except OSError as error:
        raise ManifestError(
            f"{path}: cannot be read: {error.strerror or error}; check its permissions"
        ) from error
    return read_exact(raw, str(path)), raw


def read_exact(raw: bytes, where: str) -> Manifest:
    """A manifest whose bytes are those that were once written: a change anywhere in them is noticed.

    Raises:
        ManifestError: it breaks the schema, or was edited or damaged after it was written.
    """
    manifest = Manifest.from_json(raw, where=where)
    derived = manifest.with_revision().revision
    if manifest.revision != derived:
        reason = f"its content gives the revision {derived} but it says {manifest.revision}"
    elif raw != manifest.to_json().encode("utf-8"):
        reason = "it is not laid out as manifests are written"
    else:
        return manifest
    raise ManifestError(
        f"{where}: was changed after it was written: {reason}. Install the package again; "
        "to change a manifest on purpose use model_zoo.amend"
    )


# --- reading and checking -----------------------------------------------------------------------------------


def _dump(data: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ManifestError(f"{MANIFEST_NAME}: a value cannot be written as JSON: {error}") from error
    return text


def _plain(section: Any) -> dict[str, Any]:
    """A section's dataclass as a dict of JSON values, without the keys that are `None`."""
    values = {name: getattr(section, name) for name in section.__dataclass_fields__}
    return {
        key: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _check(data: Any, where: str) -> None:
    """Raise `ManifestError` unless `data` is a manifest of a format that this release reads."""
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise ManifestError(
            f"{where}: format is {version} but this release reads formats up to {FORMAT}. "
            "Upgrade it with: pip install --upgrade edge-runtime"
        )
    problem = schema.problem(data)
    if problem is not None:
        raise ManifestError(f"{where}: {problem}")
    _check_names(data["files"], where)


def _check_names(names: Iterable[str], where: str) -> None:
    listed = set(names)
    for name in sorted(listed):
        problem = check_member_name(name)
        if problem is None and any(str(parent) in listed for parent in PurePosixPath(name).parents):
            problem = "lies below a path that is itself listed as a file"
        if problem is not None:
            raise ManifestError(f"{where}: files[{json.dumps(name)}]: the path {problem}")
