"""Schemes: how many bits the weights get, in which blocks, and how a block is packed.

The packed form is that of ONNX Runtime's MatMulNBits and GatherBlockQuantized without zero points: for W [n,
K] and blocks of B neighbouring inputs, `packed` uint8 [n, ⌈K/B⌉, B·bits/8] (4 bits: the even element in the
low half-byte) and `scales` float32 [n, ⌈K/B⌉]; weight = (code − 2^(bits−1)) · scale.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.errors import SchemeError
from quantize.methods import METHODS

__all__ = ["SCHEMES", "Quantizer", "Scheme", "dequantize", "pack", "quantize_block", "unpack"]

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

Quantizer = Callable[[str, Floats, int, int], tuple[Codes, Floats]]
"""(first tensor of the matrix, weights float32 [n, K], bits, block size) → (codes uint8 [n, blocks, block],
scales float32 [n, blocks]). The weights may be any slice of the matrix's rows."""

MIN_BLOCK = 16
"""The smallest block that the operators accept."""

_BITS = {"int4": 4, "int8": 8, "fp16": 16, "fp32": 32}


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of a package are stored.

    `head_bits` and `head_block_size` are for the head and the embedding. 16 and 32 bits are plain floats,
    for which block sizes do not apply. `accuracy_level` is MatMulNBits' own: 4 multiplies in int8
    (activations are quantized block by block), 1 and 0 in float32. `method` is a key of
    `quantize.methods.METHODS`. `pad_blocks`: the body keeps `block_size` where it does not divide a row, if
    the padding adds little (`fitting_block`).
    """

    name: str
    bits: int
    block_size: int
    method: str
    head_bits: int
    head_block_size: int
    accuracy_level: int
    pad_blocks: bool = False

    @classmethod
    def named(cls, name: str, **changes: Any) -> Scheme:
        """A scheme of `SCHEMES`, with some fields changed, checked.

        Raises:
            SchemeError: no such scheme or field, or a value that cannot be carried out.
        """
        if name not in SCHEMES:
            raise SchemeError(f"no scheme '{name}'; there are {', '.join(SCHEMES)}")
        known = {field.name for field in fields(cls)} - {"name", "bits"}
        for key in changes:
            if key not in known:
                raise SchemeError(
                    f"a scheme has no field '{key}' to change; it has {', '.join(sorted(known))}"
                )
        return replace(
            SCHEMES[name], **{key: value for key, value in changes.items() if value is not None}
        ).checked()

    def checked(self) -> Scheme:
        """Itself.

        Raises:
            SchemeError: a value that cannot be carried out.
        """
        if _BITS.get(self.name) != self.bits:
            raise SchemeError(f"scheme '{self.name}' with {self.bits} bits; there are {', '.join(_BITS)}")
        if self.head_bits not in _BITS.values():
            raise SchemeError(
                f"head_bits is {self.head_bits}; it can be {', '.join(map(str, _BITS.values()))}"
            )
        for label, bits, block in (
            ("block_size", self.bits, self.block_size),
            ("head_block_size", self.head_bits, self.head_block_size),
        ):
            if bits <= 8 and (block < MIN_BLOCK or block > 256 or block & (block - 1)):
                raise SchemeError(f"{label} is {block}; it must be a power of two from {MIN_BLOCK} to 256")
        if self.method not in METHODS:
            raise SchemeError(f"no quantization method '{self.method}'; there are {', '.join(METHODS)}")
        if self.accuracy_level not in (0, 1, 4):
            raise SchemeError(
                f"accuracy_level is {self.accuracy_level}; it can be 4 (int8 arithmetic), 1 or 0 (float32)"
            )
        return self

    @property
    def quantized(self) -> bool:
        """Whether the body is stored as integers."""
        return self.bits <= 8


SCHEMES: dict[str, Scheme] = {
    "int4": Scheme("int4", 4, 64, "search", 8, 128, 4),
    "int8": Scheme("int8", 8, 128, "rtn", 8, 128, 4),
    "fp16": Scheme("fp16", 16, 0, "rtn", 16, 0, 0),
    "fp32": Scheme("fp32", 32, 0, "rtn", 32, 0, 0),
}
"""The named schemes with their defaults."""


def fitting_block(columns: int, block_size: int, pad: bool = False) -> int:
    """The block size to use for rows of `columns` weights when `block_size` is asked for.

    The largest power of two up to `block_size` that divides `columns`: a block that ends past the row would
    waste memory traffic, and some kernels only take whole blocks. Where not even `MIN_BLOCK` divides it,
    `block_size` stays and the last block of each row is padded. So it does with `pad`, where the padding
    adds an eighth at most: rows of 576 in blocks of 128 instead of 64 read prompts 1.13 times as fast on
    x86-64 and decode as fast, but on ARM they miss the kernels that want whole blocks.
    """
    if pad and (-columns % block_size) * 8 <= columns:
        return block_size
    block = block_size
    while block >= MIN_BLOCK:
        if columns % block == 0:
            return block
        block //= 2
    return block_size


def quantize_block(
    weights: Floats, bits: int, block_size: int, method: str = "rtn", importance: Floats | None = None
) -> tuple[Codes, Floats]:
    """Quantize rows: float32 [n, K] → packed uint8 [n, ⌈K/B⌉, B·bits/8], scales float32 [n, ⌈K/B⌉].

    `importance` float32 [K] weighs the error of each input channel, for methods that can use it.

    Raises:
        SchemeError: no such method, or arguments that it cannot carry out.
    """
    if method not in METHODS:
        raise SchemeError(f"no quantization method '{method}'; there are {', '.join(METHODS)}")
    codes, scales = METHODS[method](weights, bits, block_size, importance)
    return pack(codes, bits), scales


def pack(codes: Codes, bits: int) -> Codes:
    """uint8 [..., B], one code each → uint8 [..., B·bits/8].

    Raises:
        SchemeError: bits other than 4 and 8.
    """
    if bits == 8:
        return codes
    if bits == 4:
        packed: Codes = codes[..., 1::2] << np.uint8(4)
        packed |= codes[..., 0::2]
        return packed
    raise SchemeError(f"{bits} bits cannot be packed; only 4 and 8 can")


def unpack(packed: Codes, bits: int) -> Codes:
    """The inverse of `pack`.

    Raises:
        SchemeError: bits other than 4 and 8.
    """
    if bits == 8:
        return packed
    if bits == 4:
        codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.uint8)
        codes[..., 0::2] = packed & np.uint8(15)
        codes[..., 1::2] = packed >> np.uint8(4)
        return codes
    raise SchemeError(f"{bits} bits cannot be unpacked; only 4 and 8 can")


def dequantize(packed: Codes, scales: Floats, bits: int, columns: int | None = None) -> Floats:
    """What the packed numbers stand for: float32 [n, K], cut to `columns` where the last block was padded.

    Raises:
        SchemeError: bits other than 4 and 8.
    """
    centred: Floats = unpack(packed, bits).astype(np.float32) - np.float32(1 << (bits - 1))
    centred *= scales[..., None]
    rows: Floats = centred.reshape(packed.shape[0], -1)
    return rows[:, :columns]
