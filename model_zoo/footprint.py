"""What a quantized package will weigh, from the numbers of its architecture alone.

Knows: how the weights of a decoder lie in a package's file (`docs/onnx-graph.md`), and so its size and the
memory it takes, before anything is downloaded. Does not know: checkpoints, ONNX, or the exporter; a test
compares these sums with the exporter's own plan, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from model_zoo.manifest import Memory

__all__ = [
    "DEFAULT_CONTEXT",
    "RUNTIME_BYTES",
    "SCHEMES",
    "Architecture",
    "Footprint",
    "SchemeLayout",
    "footprint",
    "parameters",
]

DEFAULT_CONTEXT = 32768
"""The longest context that a package gets unless a longer one is asked for, tokens."""

RUNTIME_BYTES = 96 << 20
"""Interpreter, libraries and activations while answering, bytes; what was measured stands in
`docs/quantization.md`."""

_PAGE = 4096
_SMALL_ALIGNMENT = 64
_MIN_BLOCK = 16
_GRAPH_BYTES = 3 << 10
_GRAPH_BYTES_PER_LAYER = (4 << 10, 6 << 10)
_OTHER_BYTES = 32 << 10
"""The graph without weights, per layer (without and with norms on the heads) and at all; licence, chat
template and manifest together. Measured, and small beside the rest."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder's numbers, as its config.json has them.

    `heads` query heads and `kv_heads` key and value heads of `head_dim` channels; `ffn`: inner width of the
    gated MLP; `tied`: the embedding is the head as well. `qkv_bias`, `qk_norm`: extra vectors (Qwen 2, Qwen
    3); `norms`: RMS norms per layer (2, Gemma 3 has 4). `rotary_dim` channels of a head are rotated (all of
    them when it is 0), with `ropes` different tables. `default_context`: tokens that a package gets when
    nothing else is asked for (0: the trained context, `DEFAULT_CONTEXT` at most).
    """

    name: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    tied: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    rotary_dim: int = 0
    ropes: int = 1
    default_context: int = 0

    @property
    def qkv(self) -> int:
        """Outputs of the packed query, key and value projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache per token of context: keys and values of every layer in float32."""
        return self.layers * 2 * self.kv_heads * self.head_dim * 4

    def context(self, trained: int) -> int:
        """Tokens of context of a package, when the checkpoint was trained for `trained`."""
        return min(trained, self.default_context or DEFAULT_CONTEXT)


@dataclass(frozen=True, slots=True)
class SchemeLayout:
    """Bits per weight of a scheme in its body and in its head, in blocks of so many weights (0: floats)."""

    bits: int
    block: int
    head_bits: int
    head_block: int


SCHEMES: dict[str, SchemeLayout] = {
    "int4": SchemeLayout(4, 64, 8, 128),
    "int8": SchemeLayout(8, 128, 8, 128),
    "fp16": SchemeLayout(16, 0, 16, 0),
    "fp32": SchemeLayout(32, 0, 32, 0),
}
"""The schemes that `edge-runtime quantize` has, with its defaults."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a package on disk (all files together) and what running it takes in memory."""

    package_bytes: int
    memory: Memory


def parameters(arch: Architecture) -> int:
    """Number of weights; a tied head counts once."""
    tables = arch.vocab * arch.hidden * (1 if arch.tied else 2)
    layer = sum(rows * columns for rows, columns in _matrices(arch))
    layer += arch.norms * arch.hidden
    layer += 2 * arch.head_dim if arch.qk_norm else 0
    layer += arch.qkv if arch.qkv_bias else 0
    return tables + arch.layers * layer + arch.hidden


def footprint(arch: Architecture, scheme: str, context: int, tokenizer_bytes: int) -> Footprint:
    """Size and memory of a package.

    Args:
        scheme: a key of `SCHEMES`.
        context: tokens of context that the package is made for (its rotary tables take room).
        tokenizer_bytes: size of `tokenizer.json`.

    Raises:
        KeyError: no such scheme.
    """
    layout = SCHEMES[scheme]
    size = unpacked = largest = 0
    for tensor in _tensors(arch, layout, context):
        for nbytes in tensor.parts:
            boundary = _PAGE if nbytes >= _PAGE else _SMALL_ALIGNMENT
            size = -(-size // boundary) * boundary + nbytes
        unpacked += tensor.parts[0] if tensor.float16 else 0
        largest = max(largest, tensor.held)
    graph = _GRAPH_BYTES + arch.layers * _GRAPH_BYTES_PER_LAYER[arch.qk_norm]
    return Footprint(
        package_bytes=size + graph + tokenizer_bytes + _OTHER_BYTES,
        # float16 is computed in float32: both copies are there once the model is loaded
        memory=Memory(size + unpacked, arch.kv_bytes_per_token, RUNTIME_BYTES + largest),
    )


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Byte counts that follow each other in the file. `held`: bytes that exist twice while the model is
    loaded."""

    parts: tuple[int, ...]
    held: int = 0
    float16: bool = False


def _matrices(arch: Architecture) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of a layer's matrices in the order of the file: qkv, out, gate and up, down."""
    inner = arch.heads * arch.head_dim
    return (
        (arch.qkv, arch.hidden),
        (arch.hidden, inner),
        (2 * arch.ffn, arch.hidden),
        (arch.hidden, arch.ffn),
    )


def _tensors(arch: Architecture, layout: SchemeLayout, context: int) -> Iterator[_Tensor]:
    """Everything in the file of weights, in its order: tables, rotary tables, layers, final norm."""
    for _ in range(1 if arch.tied else 2):
        yield _matrix(arch.vocab, arch.hidden, layout.head_bits, layout.head_block)
    # Beyond `default_context` the frequencies are others (longrope), and the short ones are kept as well.
    rows = context + (arch.default_context if context > arch.default_context else 0)
    for _ in range(arch.ropes):
        table = rows * ((arch.rotary_dim or arch.head_dim) // 2) * 4
        yield _Tensor((table, table))
    norm, head_norm = _Tensor((arch.hidden * 4,)), _Tensor((arch.head_dim * 4,))
    qkv, out, gate_up, down = (_matrix(*shape, layout.bits, layout.block) for shape in _matrices(arch))
    extra = (norm,) if arch.norms == 4 else ()
    bias = (_Tensor((arch.qkv * 4,)),) if arch.qkv_bias else ()
    head_norms = (head_norm, head_norm) if arch.qk_norm else ()
    for _ in range(arch.layers):
        yield from (norm, *bias, qkv, *head_norms, out, *extra, norm, gate_up, down, *extra)
    yield norm


def _matrix(rows: int, columns: int, bits: int, block: int) -> _Tensor:
    if bits > 8:
        return _Tensor((rows * columns * bits // 8,), rows * columns * 4, bits == 16)
    fitting = next((b for b in _halves(block) if columns % b == 0), block)
    blocks = -(-columns // fitting)
    codes, scales = rows * blocks * fitting * bits // 8, rows * blocks * 4
    return _Tensor((codes, scales), codes + scales)


def _halves(block: int) -> Iterator[int]:
    while block >= _MIN_BLOCK:
        yield block
        block //= 2
