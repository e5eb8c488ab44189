"""A Llama-architecture decoder in plain torch, with the names of transformers' checkpoint at export.

Pre-norm RMSNorm, rotary positions in the half-split layout, grouped-query attention, SwiGLU, tied embeddings
(Touvron et al., LLaMA, arXiv 2302.13971; GQA: arXiv 2305.13245).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, computed in float32, returned in x's dtype."""
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    return (h * weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, half-split layout: x [B, H, T, D], cos and sin [T, D/2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    """Attention and feed-forward with residuals. Weights are [out, in], q/k/v and gate/up fused by rows."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.c = c
        self.head = c.hidden // c.heads
        rows = (c.heads + 2 * c.kv_heads) * self.head
        self.norm1 = nn.Parameter(torch.ones(c.hidden))
        self.norm2 = nn.Parameter(torch.ones(c.hidden))
        self.qkv = nn.Parameter(torch.randn(rows, c.hidden) * c.hidden**-0.5)
        self.out = nn.Parameter(torch.randn(c.hidden, c.hidden) * c.hidden**-0.5 / math.sqrt(2 * c.layers))
        self.gate_up = nn.Parameter(torch.randn(2 * c.ffn, c.hidden) * c.hidden**-0.5)
        self.down = nn.Parameter(torch.randn(c.hidden, c.ffn) * c.ffn**-0.5 / math.sqrt(2 * c.layers))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        c, (batch, length, _) = self.c, x.shape
        dt, drop = x.dtype, c.dropout if self.training else 0.0
        h = F.linear(rms_norm(x, self.norm1, c.norm_eps), self.qkv.to(dt))
        h = h.view(batch, length, c.heads + 2 * c.kv_heads, self.head).transpose(1, 2)
        qk, v = h.split((c.heads + c.kv_heads, c.kv_heads), dim=1)
        q, k = rotate(qk, cos, sin).split((c.heads, c.kv_heads), dim=1)
        group = c.heads // c.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        # On a CPU the fused kernel takes six times as long for rows of some 30 tokens in bfloat16.
        scores = torch.matmul(q, k.transpose(-1, -2)) * self.head**-0.5 + mask
        a = torch.matmul(scores.softmax(-1), v)
        a = F.linear(a.transpose(1, 2).reshape(batch, length, c.hidden), self.out.to(dt))
        x = x + F.dropout(a, drop, self.training)
        gate, up = F.linear(rms_norm(x, self.norm2, c.norm_eps), self.gate_up.to(dt)).chunk(2, dim=-1)
        return x + F.dropout(F.linear(F.silu(gate) * up, self.down.to(dt)), drop, self.training)


class Decoder(nn.Module):
    """tokens int64 [B, T] -> hidden states [B, T, hidden] in the compute dtype; `logits` gives float32."""

    def __init__(self, c: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.c, self.dtype = c, dtype
        self.embed = nn.Parameter(torch.randn(c.vocab_size, c.hidden) * 0.04)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.Parameter(torch.ones(c.hidden))
        half = c.hidden // c.heads // 2
        angle = torch.outer(
            torch.arange(c.context).float(), c.rope_theta ** (-torch.arange(half).float() / half)
        )
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = F.embedding(tokens, self.embed).to(self.dtype)
        x = F.dropout(x, self.c.dropout if self.training else 0.0, self.training)
        cos, sin = self.cos[:length].to(self.dtype), self.sin[:length].to(self.dtype)
        mask = torch.full((length, length), -torch.inf, dtype=self.dtype).triu(1)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return rms_norm(x, self.norm, self.c.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed.to(hidden.dtype)).float()

    def parameters_count(self) -> int:
        return sum(p.numel() for p in self.parameters())
