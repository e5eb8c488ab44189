"""The file of weights beside the graph: what lies where, and how it gets there a slice at a time.

Two phases. While the graph is built, tensors are only *reserved*: their place and length are known at once,
so the whole size is known before a byte is written. `write` then fills the places, job by job, and never
holds more than a slice of the checkpoint in memory.

This module knows ONNX external data and slices; it does not know architectures or operators.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from quantize.architectures.base import Linear, Norm, Rows
from quantize.checkpoint import DEFAULT_SLICE_BYTES, Checkpoint
from quantize.errors import SchemeError
from quantize.rope import Rope
from quantize.schemes import Quantizer, fitting_block, pack

__all__ = ["ALIGNMENT", "Extent", "Matrix", "Progress", "WeightPlan"]

ALIGNMENT = 4096
"""Bytes. A memory map starts at a page; smaller tensors share one."""

_SMALL_ALIGNMENT = 64
_FLOAT16_MAX = 65504.0


class Progress(Protocol):
    """Called after each piece of work."""

    def __call__(self, done: int, total: int, step: str) -> None:
        """`done` of `total` bytes of the package's weights are written; `step` says what is being worked
        on."""
        ...


@dataclass(frozen=True, slots=True)
class Extent:
    """Where reserved bytes lie in the file."""

    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A reserved matrix [rows, columns]: `bits` per weight in blocks of `block`; 16 and 32 bits are plain
    floats.

    `weights` (and for integers `scales`) name the initializers; `bias` is None where there is none.
    """

    weights: str
    scales: str | None
    bias: str | None
    rows: int
    columns: int
    bits: int
    block: int
    weights_extent: Extent

    @property
    def blocks(self) -> int:
        """Blocks per row."""
        return -(-self.columns // self.block) if self.block else 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of codes."""
        return self.blocks * self.block * self.bits // 8


@dataclass(frozen=True, slots=True)
class _Job:
    step: str
    nbytes: int
    fill: Callable[[_Sink], None]


class _Sink:
    """Writes arrays at positions of the file."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def write(self, offset: int, array: NDArray[Any]) -> None:
        self._file.seek(offset)
        left = memoryview(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
        while left:
            # An unbuffered file may take a part; a full disk then fails on the rest.
            left = left[self._file.write(left) :]


class WeightPlan:
    """Reserves tensors of an external data file named `location` and later fills them from `checkpoint`.

    A plan without a checkpoint (`None`) knows sizes alone and cannot be written.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        quantizer: Quantizer,
        location: str = "model.onnx.data",
        slice_bytes: int = DEFAULT_SLICE_BYTES,
    ) -> None:
        self.location = location
        self.initializers: list[onnx.TensorProto] = []
        self.size = 0
        """Bytes that the file will have."""
        self.resident = 0
        """Bytes that the weights take once loaded: float16 is computed in float32."""
        self.largest = 0
        """Bytes of the largest matrix, which exists twice for a moment while onnxruntime packs it."""
        self.notes: list[str] = []
        """What was decided differently from what was asked for, for people to read."""
        self.step = ""
        """What the next reservations belong to; shown by the progress bar."""
        self._given, self._quantizer, self._slice_bytes = checkpoint, quantizer, slice_bytes
        self._jobs: list[_Job] = []

    @property
    def _checkpoint(self) -> Checkpoint:
        if self._given is None:
            raise ValueError("this plan knows sizes alone: it was made without a checkpoint")
        return self._given

    # --- reserving --------------------------------------------------------------------------------

    def alias(self, name: str, elem_type: int, dims: Sequence[int], extent: Extent) -> None:
        """One more initializer over bytes that are reserved already."""
        tensor = onnx.TensorProto(name=name, data_type=elem_type, dims=list(dims))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", extent.offset), ("length", extent.nbytes)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        self.initializers.append(tensor)

    def constant(self, name: str, value: Any, dtype: type[np.generic] = np.int64) -> str:
        """A small constant inside the graph file."""
        self.initializers.append(onnx.numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def norm(self, name: str, norm: Norm) -> str:
        """The weight of a norm, float32 [size]; a missing 1 is added."""
        extent = self._reserve(name, onnx.TensorProto.FLOAT, (norm.size,))

        def fill(sink: _Sink) -> None:
            sink.write(extent.offset, self._checkpoint.rows(norm.tensor) + np.float32(norm.plus_one))

        self._add(extent.nbytes, fill)
        return name

    def rope(self, name: str, rope: Rope, context_length: int) -> tuple[str, str]:
        """Names of the cosine and the sine table, float32 [rows, half_dim]."""
        dims = (rope.rows(context_length), rope.half_dim)
        cos = self._reserve(name + ".cos", onnx.TensorProto.FLOAT, dims)
        sin = self._reserve(name + ".sin", onnx.TensorProto.FLOAT, dims)

        def fill(sink: _Sink) -> None:
            done = 0
            for cosine, sine in rope.tables(context_length):
                sink.write(cos.offset + done, cosine)
                sink.write(sin.offset + done, sine)
                done += cosine.nbytes

        self._add(cos.nbytes + sin.nbytes, fill)
        return name + ".cos", name + ".sin"

    def matrix(self, name: str, linear: Linear, bits: int, block_size: int, pad: bool = False) -> Matrix:
        """A matrix and its bias. The block shrinks where it does not divide the rows
        (`schemes.fitting_block`, which also says what `pad` does)."""
        rows, columns = linear.out_features, linear.in_features
        bias = self._bias(name + ".bias", linear.biases) if linear.biases else None
        if bits > 8:
            elem = onnx.TensorProto.FLOAT16 if bits == 16 else onnx.TensorProto.FLOAT
            extent = self._reserve(name + ".weight", elem, (rows, columns))
            self._add(extent.nbytes, lambda sink: self._fill_floats(sink, linear.parts, extent, bits))
            self.resident += extent.nbytes if bits == 16 else 0
            self.largest = max(self.largest, rows * columns * 4)
            return Matrix(name + ".weight", None, bias, rows, columns, bits, 0, extent)
        block = fitting_block(columns, block_size, pad)
        if block != block_size:
            note = f"matrices with {columns} inputs use blocks of {block}, which divide {columns}"
            if note not in self.notes:
                self.notes.append(note)
        count, blob = -(-columns // block), block * bits // 8
        codes = self._reserve(name + ".codes", onnx.TensorProto.UINT8, (rows, count, blob))
        scales = self._reserve(name + ".scales", onnx.TensorProto.FLOAT, (rows, count))
        self.largest = max(self.largest, codes.nbytes + scales.nbytes)
        matrix = Matrix(name + ".codes", name + ".scales", bias, rows, columns, bits, block, codes)
        self._add(
            codes.nbytes + scales.nbytes, lambda sink: self._fill_codes(sink, linear.parts, matrix, scales)
        )
        return matrix

    def _reserve(self, name: str, elem_type: int, dims: Sequence[int]) -> Extent:
        nbytes = math.prod(dims) * onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize
        boundary = ALIGNMENT if nbytes >= ALIGNMENT else _SMALL_ALIGNMENT
        extent = Extent(-(-self.size // boundary) * boundary, nbytes)
        self.resident += extent.offset + nbytes - self.size
        self.size = extent.offset + nbytes
        self.alias(name, elem_type, dims, extent)
        return extent

    def _bias(self, name: str, parts: tuple[Rows, ...]) -> str:
        extent = self._reserve(name, onnx.TensorProto.FLOAT, (sum(part.count for part in parts),))

        def fill(sink: _Sink) -> None:
            sink.write(
                extent.offset,
                np.concatenate([self._checkpoint.rows(part.tensor, part.start, part.stop) for part in parts]),
            )

        self._add(extent.nbytes, fill)
        return name

    def _add(self, nbytes: int, fill: Callable[[_Sink], None]) -> None:
        self._jobs.append(_Job(self.step, nbytes, fill))

    # --- filling ----------------------------------------------------------------------------------

    def write(self, path: Path, progress: Progress | None = None) -> None:
        """Write the file.

        Raises:
            CheckpointError: the checkpoint cannot be read.
            SchemeError: a weight does not fit the scheme (not finite, beyond float16).
            OSError: the file cannot be written.
        """
        total, done = sum(job.nbytes for job in self._jobs), 0
        with path.open("wb", buffering=0) as raw:
            raw.truncate(self.size)
            sink = _Sink(raw)
            for job in self._jobs:
                job.fill(sink)
                done += job.nbytes
                if progress is not None:
                    progress(done, total, job.step)

    def _fill_floats(self, sink: _Sink, parts: tuple[Rows, ...], extent: Extent, bits: int) -> None:
        offset = extent.offset
        for part in parts:
            for rows in self._checkpoint.slices(part.tensor, part.start, part.stop, self._slice_bytes):
                if bits == 16:
                    if rows.size and float(np.abs(rows).max()) > _FLOAT16_MAX:
                        raise SchemeError(
                            f"tensor '{part.tensor}' has values beyond float16 (±{_FLOAT16_MAX:.0f}); "
                            "use --scheme fp32, int8 or int4"
                        )
                    rows = rows.astype(np.float16)
                sink.write(offset, rows)
                offset += rows.nbytes

    def _fill_codes(self, sink: _Sink, parts: tuple[Rows, ...], matrix: Matrix, scales: Extent) -> None:
        offset, scale_offset = matrix.weights_extent.offset, scales.offset
        for part in parts:
            for rows in self._checkpoint.slices(part.tensor, part.start, part.stop, self._slice_bytes):
                try:
                    codes, scale = self._quantizer(part.tensor, rows, matrix.bits, matrix.block)
                except SchemeError as error:
                    raise SchemeError(f"tensor '{part.tensor}': {error}") from error
                packed = pack(codes, matrix.bits)
                sink.write(offset, packed)
                sink.write(scale_offset, scale)
                offset += packed.nbytes
                scale_offset += scale.nbytes
