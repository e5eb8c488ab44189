"""Reads a Hugging Face checkpoint folder: config.json and safetensors in one or many shards.

Weights are never loaded whole: `rows` and `slices` read a range of rows from the file and widen it to
float32, so that memory grows with the slice and not with the model. The safetensors layout is the published
one (8 bytes of little-endian header length, a JSON header, then the raw data): https://huggingface.co/docs/safetensors.

This module knows files and dtypes; it does not know architectures or quantization.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from quantize.errors import CheckpointError

__all__ = ["DEFAULT_SLICE_BYTES", "Checkpoint", "TensorInfo"]

DEFAULT_SLICE_BYTES = 8 << 20
"""Bytes of float32 in one slice."""

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_STORED: dict[str, tuple[type[np.generic], int]] = {
    "BF16": (np.uint16, 2),
    "F16": (np.float16, 2),
    "F32": (np.float32, 4),
}
_MAX_HEADER = 100_000_000
"""The header size that the safetensors format allows at most, bytes."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: file name, stored dtype (BF16, F16, F32), shape, first byte in the file, bytes."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Checkpoint:
    """An open checkpoint folder. A context manager; reading after `close` fails. Not thread-safe."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], digest: str
    ) -> None:
        self.folder, self.config, self.tensors, self.digest = folder, config, tensors, digest
        self._files: dict[str, BinaryIO] = {}

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read config.json and all headers, and check that every shard is as long as its header says.

        `digest` becomes the SHA-256 (hex) over config.json, the shard index and the shards' headers in order
        of their names: it tells two checkpoints apart without reading gigabytes.

        Raises:
            CheckpointError: a file is missing, unreadable, cut short or of an unsupported dtype.
        """
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is not a folder with a checkpoint (config.json and *.safetensors)"
            )
        digest = hashlib.sha256()
        config = read_json(folder / "config.json", digest)
        tensors: dict[str, TensorInfo] = {}
        names, wanted = _shards(folder, digest)
        for name in names:
            tensors.update(_read_header(folder / name, digest))
        for tensor, shard in wanted.items():
            if tensor not in tensors:
                raise CheckpointError(
                    f"{folder / _INDEX} says that {shard} holds the tensor '{tensor}', but it does not"
                )
        return cls(folder, config, tensors, digest.hexdigest())

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Where `name` lies.

        Raises:
            CheckpointError: there is no such tensor; the message names near ones.
        """
        try:
            return self.tensors[name]
        except KeyError:
            tail = ".".join(name.split(".")[-2:])
            near = sorted(other for other in self.tensors if f".{other}".endswith(f".{tail}"))[:3]
            hint = f"; it has {', '.join(near)}" if near else ""
            raise CheckpointError(f"{self.folder} has no tensor '{name}'{hint}") from None

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Check a tensor's shape.

        Raises:
            CheckpointError: the tensor is missing or has another shape than config.json asks for.
        """
        found = self.info(name).shape
        if found != shape:
            raise CheckpointError(
                f"{self.folder}: tensor '{name}' has shape {list(found)}, "
                f"but config.json asks for {list(shape)}"
            )

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows start:stop of a tensor along its first dimension, as float32 [stop - start, ...].

        Raises:
            CheckpointError: the tensor is missing or the file got shorter since it was opened.
        """
        info = self.info(name)
        stop = info.shape[0] if stop is None else stop
        stored, size = _STORED[info.dtype]
        row = math.prod(info.shape[1:])
        count = (stop - start) * row
        file = self._file(info.file)
        file.seek(info.offset + start * row * size)
        raw = np.fromfile(file, dtype=stored, count=count)
        if raw.size != count:
            raise CheckpointError(
                f"{self.folder / info.file} ended while reading '{name}': "
                f"wanted {count * size} bytes, got {raw.nbytes}"
            )
        return _widen(raw, info.dtype).reshape((stop - start, *info.shape[1:]))

    def slices(
        self, name: str, start: int = 0, stop: int | None = None, slice_bytes: int = DEFAULT_SLICE_BYTES
    ) -> Iterator[NDArray[np.float32]]:
        """The same rows, a few at a time: each piece is at most `slice_bytes` of float32 (but at least one
        row)."""
        shape = self.info(name).shape
        stop = shape[0] if stop is None else stop
        step = max(1, slice_bytes // (4 * max(1, math.prod(shape[1:]))))
        for first in range(start, stop, step):
            yield self.rows(name, first, min(first + step, stop))

    def _file(self, name: str) -> BinaryIO:
        if name not in self._files:
            try:
                # Unbuffered: numpy reads straight into its array, and no page cache of ours grows.
                self._files[name] = (self.folder / name).open("rb", buffering=0)
            except OSError as error:
                raise CheckpointError(f"{self.folder / name} cannot be read: {error.strerror}") from error
        return self._files[name]


def read_json(path: Path, digest: hashlib._Hash | None = None) -> dict[str, Any]:
    """A JSON object from a file; its bytes also go into `digest`.

    Raises:
        CheckpointError: the file is missing, unreadable or not a JSON object.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; a checkpoint folder needs it") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if digest is not None:
        digest.update(raw)
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def _shards(folder: Path, digest: hashlib._Hash) -> tuple[list[str], dict[str, str]]:
    """Names of the shards, and which shard the index promises each tensor in."""
    if (folder / _INDEX).exists():
        index = read_json(folder / _INDEX, digest).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise CheckpointError(f"{folder / _INDEX} has no 'weight_map'")
        return sorted(set(index.values())), index
    if (folder / _SINGLE).exists():
        return [_SINGLE], {}
    for other in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        if (folder / other).exists():
            raise CheckpointError(
                f"{folder} holds {other} but no safetensors. Convert it first: "
                "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
            )
    raise CheckpointError(f"{folder} has neither {_SINGLE} nor {_INDEX}")


def _read_header(path: Path, digest: hashlib._Hash) -> dict[str, TensorInfo]:
    """The tensors of one shard, after checking the header and the file's length."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(size - 8, _MAX_HEADER):
                raise CheckpointError(
                    f"{path} is not a safetensors file or is cut short: its header is incomplete"
                )
            raw = file.read(length)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing, but the checkpoint's index lists it") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    digest.update(raw)
    try:
        header = json.loads(raw)
        entries = {
            name: (
                str(entry["dtype"]),
                tuple(int(n) for n in entry["shape"]),
                int(entry["data_offsets"][0]),
                int(entry["data_offsets"][1]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} has an unreadable safetensors header: {error!r}") from error
    base = 8 + length
    end = base + max((stop for _, _, _, stop in entries.values()), default=0)
    if size < end:
        raise CheckpointError(
            f"{path} is cut short: its header describes {end} bytes, the file has {size}. Fetch it again"
        )
    tensors = {}
    for name, (dtype, shape, start, stop) in entries.items():
        if dtype not in _STORED:
            raise CheckpointError(
                f"{path}: tensor '{name}' is stored as {dtype}; only {', '.join(_STORED)} can be read. "
                "Already quantized checkpoints must be converted back first"
            )
        if start < 0 or stop - start != math.prod(shape) * _STORED[dtype][1]:
            raise CheckpointError(
                f"{path}: tensor '{name}' of shape {list(shape)} and dtype {dtype} cannot take "
                f"{stop - start} bytes; the header is damaged"
            )
        tensors[name] = TensorInfo(path.name, dtype, shape, base + start, stop - start)
    return tensors


def _widen(raw: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Stored numbers as float32. bfloat16 is the upper half of a float32, so widening is a shift and
    exact."""
    if dtype == "BF16":
        wide = raw.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return raw.astype(np.float32, copy=False)
