"""A naive forward pass of a model description in float64: no cache, no fusion, one head at a time where it
matters.

Fast paths are checked against it. `weight(name)` gives a checkpoint tensor; `matrix(name, linear)` may
replace a matrix by what quantization left of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from quantize.architectures.base import Attention, Linear, ModelDescription, Norm
from quantize.checkpoint import Checkpoint
from quantize.methods import METHODS
from quantize.rope import Rope
from quantize.schemes import Scheme, dequantize, fitting_block, pack

Matrix = Callable[[Linear, bool], np.ndarray]


def float_matrices(checkpoint: Checkpoint) -> Matrix:
    """Matrices as they stand in the checkpoint, [out, in]."""
    return lambda linear, _head: np.concatenate(
        [checkpoint.rows(p.tensor, p.start, p.stop) for p in linear.parts]
    )


def dequantized_matrices(checkpoint: Checkpoint, scheme: Scheme) -> Matrix:
    """Matrices as the scheme's codes and scales stand for them."""
    exact = float_matrices(checkpoint)

    def matrix(linear: Linear, head: bool) -> np.ndarray:
        weights = exact(linear, head)
        bits, block = (scheme.head_bits, scheme.head_block_size) if head else (scheme.bits, scheme.block_size)
        if bits == 16:
            return weights.astype(np.float16).astype(np.float32)
        if bits == 32:
            return weights
        block = fitting_block(linear.in_features, block, scheme.pad_blocks and not head)
        codes, scales = METHODS[scheme.method](weights, bits, block)
        return dequantize(pack(codes, bits), scales, bits, linear.in_features)

    return matrix


def forward(
    model: ModelDescription,
    checkpoint: Checkpoint,
    tokens: list[int],
    matrix: Matrix | None = None,
    rope_length: int | None = None,
) -> np.ndarray:
    """Logits float64 [len(tokens), vocabulary] of a sequence from its start."""
    matrix = matrix or float_matrices(checkpoint)

    def linear(linear: Linear, x: np.ndarray) -> np.ndarray:
        y = x @ matrix(linear, False).astype(np.float64).T
        if linear.biases:
            y = y + np.concatenate([checkpoint.rows(b.tensor, b.start, b.stop) for b in linear.biases])
        return y

    def norm(norm: Norm | None, x: np.ndarray) -> np.ndarray:
        if norm is None:
            return x
        weight = checkpoint.rows(norm.tensor).astype(np.float64) + (1.0 if norm.plus_one else 0.0)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.epsilon) * weight

    x = matrix(model.whole(model.embedding), True).astype(np.float64)[tokens]
    x = x * (model.embedding_scale or 1.0)
    for layer in model.layers:
        a = layer.attention
        qkv = linear(a.qkv, norm(layer.attention_norm, x)).reshape(len(tokens), -1, a.head_dim)
        q, k, v = np.split(qkv, [a.heads, a.heads + a.kv_heads], axis=1)
        rope = model.ropes[a.rope]
        q = rotate(rope, norm(a.q_norm, q), rope_length or len(tokens))
        k = rotate(rope, norm(a.k_norm, k), rope_length or len(tokens))
        x = x + norm(layer.attention_out_norm, linear(a.out, attend(a, q, k, v)))
        y = norm(layer.mlp_norm, x)
        gate, up = linear(layer.mlp.gate, y), linear(layer.mlp.up, y)
        x = x + norm(layer.mlp_out_norm, linear(layer.mlp.down, activate(layer.mlp.activation, gate) * up))
    logits = (
        norm(model.final_norm, x)
        @ matrix(model.whole(model.head or model.embedding), True).astype(np.float64).T
    )
    return (
        logits if model.logit_softcap is None else np.tanh(logits / model.logit_softcap) * model.logit_softcap
    )


def rotate(rope: Rope, x: np.ndarray, length: int) -> np.ndarray:
    """Rotate pairs (i, i + half) of the first channels of [S, heads, dim]; the rest passes."""
    is_long = rope.switch is not None and length > rope.switch
    frequencies = rope.long_frequencies if is_long else rope.frequencies
    angles = np.arange(len(x))[:, None, None] * frequencies
    cos, sin = np.cos(angles) * rope.factor, np.sin(angles) * rope.factor
    half = rope.half_dim
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def attend(a: Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal, windowed, grouped attention; [S, heads·dim]."""
    out = np.zeros_like(q)
    for head in range(a.heads):
        group = head // (a.heads // a.kv_heads)
        for i in range(len(q)):
            first = 0 if a.window is None else max(0, i - a.window + 1)
            scores = k[first : i + 1, group] @ q[i, head] * a.scale
            if a.softcap is not None:
                scores = np.tanh(scores / a.softcap) * a.softcap
            weights = np.exp(scores - scores.max())
            out[i, head] = weights / weights.sum() @ v[first : i + 1, group]
    return out.reshape(len(q), -1)


def activate(kind: str, x: np.ndarray) -> np.ndarray:
    if kind == "silu":
        return x / (1 + np.exp(-x))
    if kind == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
