"""A larger model that computes what a trained smaller one does: a better beginning than random weights.

Widths double as in Net2Net (Chen, Goodfellow and Shlens 2016, https://arxiv.org/abs/1511.05641): every unit
is there twice, and what read it reads both, split at random between the two, so that the copies get different
gradients and part ways. Blocks are added whose outputs begin at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import ModelConfig
from .model import Decoder


def double_outputs(w: Tensor) -> Tensor:
    """[out, in] -> [2 out, in]: each output twice."""
    return torch.cat((w, w))


def split_inputs(w: Tensor, generator: torch.Generator) -> Tensor:
    """[out, in] -> [out, 2 in]: each input's weight split between its two copies."""
    share = 0.25 + 0.5 * torch.rand(w.shape, generator=generator)
    return torch.cat((w * share, w * (1 - share)), dim=1)


def double_heads(w: Tensor, heads: int) -> Tensor:
    """[heads x size, in] -> [2 heads x size, in]: each head beside its copy, so that groups stay together."""
    size = w.shape[0] // heads
    return w.view(heads, 1, size, w.shape[1]).expand(-1, 2, -1, -1).reshape(2 * w.shape[0], w.shape[1])


def split_heads(w: Tensor, heads: int, generator: torch.Generator) -> Tensor:
    """[out, heads x size] -> [out, 2 heads x size]: the counterpart of `double_heads`."""
    out, size = w.shape[0], w.shape[1] // heads
    share = 0.25 + 0.5 * torch.rand((out, heads, 1), generator=generator)
    parts = w.view(out, heads, size)
    return torch.stack((parts * share, parts * (1 - share)), dim=2).reshape(out, 2 * w.shape[1])


def positions(old: int, new: int) -> list[int | None]:
    """For each of `new` blocks the old block that it comes from, or None; the new ones spread evenly."""
    inserted = new - old
    after = [round((i + 1) * old / (inserted + 1)) for i in range(inserted)]
    order: list[int | None] = []
    for i in range(old):
        order += [None] * after.count(i) + [i]
    return order + [None] * after.count(old)


@torch.no_grad()
def grow(small: Decoder, shape: ModelConfig, seed: int = 0) -> Decoder:
    """A model of `shape` with twice the widths of `small` that gives the same logits.

    Raises:
        ValueError: the shape is not twice as wide, or has fewer blocks or another vocabulary.
    """
    c = small.c
    doubled = (2 * c.hidden, 2 * c.heads, 2 * c.kv_heads, 2 * c.ffn)
    if (shape.hidden, shape.heads, shape.kv_heads, shape.ffn) != doubled or shape.layers < c.layers:
        raise ValueError(f"a model of {c} grows to twice its widths and no fewer layers, not to {shape}")
    if shape.vocab_size != c.vocab_size:
        raise ValueError(f"the vocabularies differ: {c.vocab_size} and {shape.vocab_size}")
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    large = Decoder(shape)
    # Both copies of a unit add to a logit, so the last norm halves them.
    large.embed.copy_(torch.cat((small.embed, small.embed), dim=1))
    large.norm.copy_(torch.cat((small.norm, small.norm)) / 2)
    head = c.hidden // c.heads
    for block, source in zip(large.blocks, positions(c.layers, shape.layers), strict=True):
        if source is None:
            block.out.zero_()
            block.down.zero_()
            continue
        old = small.blocks[source]
        block.norm1.copy_(torch.cat((old.norm1, old.norm1)))
        block.norm2.copy_(torch.cat((old.norm2, old.norm2)))
        sizes = (c.heads * head, c.kv_heads * head, c.kv_heads * head)
        counts = (c.heads, c.kv_heads, c.kv_heads)
        parts = [
            split_inputs(double_heads(part, n), g)
            for part, n in zip(old.qkv.split(sizes), counts, strict=True)
        ]
        block.qkv.copy_(torch.cat(parts))
        block.out.copy_(double_outputs(split_heads(old.out, c.heads, g)))
        gate, up = old.gate_up.chunk(2)
        block.gate_up.copy_(
            torch.cat((split_inputs(double_outputs(gate), g), split_inputs(double_outputs(up), g)))
        )
        block.down.copy_(double_outputs(split_inputs(old.down, g)))
    return large
