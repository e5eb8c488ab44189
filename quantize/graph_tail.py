"""The end of the graph: exact top-k, log-sum-exp and entropy of M rows of logits, so that a step moves few
numbers.

Top-k goes through chunks where the vocabulary allows it: the k largest values lie in the k chunks with the
largest maxima, so two small searches replace one over the whole row, and the chunk maxima give the row's
maximum for the log-sum-exp at no cost. Entropy is lse − Σ p·logit.
"""

from __future__ import annotations

from collections.abc import Callable

from quantize.weights import WeightPlan

__all__ = ["NodeSink", "add_evidence", "chunk_size"]

_CHUNKS = (64, 48, 40, 32, 24, 16)


NodeSink = Callable[..., str]
"""(operator, inputs, outputs, domain="", **attributes) → name of the first output; adds a node."""


def chunk_size(vocab_size: int, topk: int) -> int | None:
    """Entries per chunk, or None where no chunking divides the vocabulary or there would be too few
    chunks."""
    return next((c for c in _CHUNKS if vocab_size % c == 0 and vocab_size // c >= 4 * topk), None)


def add_evidence(node: NodeSink, plan: WeightPlan, vocab_size: int, topk: int) -> None:
    """From `logits` float32 [B, M, V] make `topk_logits`, `topk_ids` [B, M, K], `lse` and `entropy` [B, M,
    1]."""
    plan.constant("tail.k", [topk])
    plan.constant("tail.last", [-1])
    chunk = chunk_size(vocab_size, topk)
    if chunk is None:
        node("TopK", ["logits", "tail.k"], ["topk_logits", "topk_ids"], axis=-1)
        node("ReduceMax", ["logits", "tail.last"], ["tail.max"], keepdims=1)
    else:
        _chunked_topk(node, plan, vocab_size // chunk, chunk, topk)
    # Σ exp(x − max) and Σ exp(x − max)·x in one sweep each.
    node("Sub", ["logits", "tail.max"], ["tail.shifted"])
    node("Exp", ["tail.shifted"], ["tail.exp"])
    node("ReduceSum", ["tail.exp", "tail.last"], ["tail.z"], keepdims=1)
    node("Mul", ["tail.exp", "tail.shifted"], ["tail.weighted"])
    node("ReduceSum", ["tail.weighted", "tail.last"], ["tail.s"], keepdims=1)
    node("Log", ["tail.z"], ["tail.log_z"])
    node("Add", ["tail.log_z", "tail.max"], ["lse"])
    # With shifted logits the maximum cancels: entropy = log z − s / z, without subtracting two large numbers.
    node("Div", ["tail.s", "tail.z"], ["tail.mean"])
    node("Sub", ["tail.log_z", "tail.mean"], ["entropy"])


def _chunked_topk(node: NodeSink, plan: WeightPlan, chunks: int, chunk: int, topk: int) -> None:
    plan.constant("tail.rows", [0, 0, chunks, chunk])
    plan.constant("tail.flat_candidates", [0, 0, topk * chunk])
    plan.constant("tail.chunk", chunk)
    node("Reshape", ["logits", "tail.rows"], ["tail.chunked"])
    node("ReduceMax", ["tail.chunked", "tail.last"], ["tail.chunk_max"], keepdims=0)
    # 1. the k chunks with the largest maxima, best first; the first of them holds the row's maximum
    node("TopK", ["tail.chunk_max", "tail.k"], ["tail.best_max", "tail.best"], axis=-1)
    node("ReduceMax", ["tail.best_max", "tail.last"], ["tail.max"], keepdims=1)
    # 2. their entries, and the k largest of those
    plan.constant("tail.pick_axis", [-1])
    node("Unsqueeze", ["tail.best", "tail.pick_axis"], ["tail.best_index"])
    node("GatherND", ["tail.chunked", "tail.best_index"], ["tail.candidates"], batch_dims=2)
    node("Reshape", ["tail.candidates", "tail.flat_candidates"], ["tail.flat"])
    node("TopK", ["tail.flat", "tail.k"], ["topk_logits", "tail.place"], axis=-1)
    # 3. place among the candidates → token id = best[place // chunk]·chunk + place % chunk
    node("Div", ["tail.place", "tail.chunk"], ["tail.which"])
    node("GatherElements", ["tail.best", "tail.which"], ["tail.of"], axis=-1)
    node("Sub", ["tail.of", "tail.which"], ["tail.moved"])
    node("Mul", ["tail.moved", "tail.chunk"], ["tail.shift"])
    node("Add", ["tail.place", "tail.shift"], ["topk_ids"])
