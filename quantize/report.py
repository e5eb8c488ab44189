"""What quantization cost: the same text through the float32 model and the quantized one.

For every scored position the two next-token distributions p (reference) and q (candidate) are compared over
the whole vocabulary: KL(p‖q) = Σ p (log p − log q) in nats, whether both rank the same token first, and the
log-probability that each gives to the token that really follows. This module knows two engines behind the
common seam; it does not know how either was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engines.base import Engine
from edge_runtime.errors import MissingExtraError
from quantize.errors import QuantizeError

__all__ = ["Fidelity", "Positions", "compare", "divergence", "draw", "rows_of_table"]

_CHUNK = 64
"""Positions scored in one forward pass: two float32 rows of a 150,000-token vocabulary each stay below 80
MB."""

Progress = Callable[[int, int], None]
"""(positions scored, positions in total)."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Per-position figures of two sets of logits; every array has shape [n].

    `kl` float64, nats; `same_top` bool; `logprob_reference` and `logprob` float64, nats, of the token that
    follows."""

    kl: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    logprob_reference: NDArray[np.float64]
    logprob: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How closely a quantized package follows its float32 reference.

    `tokens`: scored positions. `kl_*`: KL(p_reference‖p_candidate) per position, nats; `kl_error` is the
    standard error of the mean. `top1_agreement`: share of positions where both rank the same token first.
    `perplexity_ratio`: candidate / reference. `*_bytes`: files of the packages. `kl` float64 [tokens] is
    kept for pictures."""

    tokens: int
    kl_mean: float
    kl_error: float
    kl_median: float
    kl_p99: float
    kl_max: float
    top1_agreement: float
    perplexity_reference: float
    perplexity: float
    perplexity_ratio: float
    reference_bytes: int
    package_bytes: int
    kl: NDArray[np.float64] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The figures without the array, as JSON values."""
        names = [name for name in self.__slots__ if name != "kl"]
        return {name: getattr(self, name) for name in names}


def divergence(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], following: Sequence[int]
) -> Positions:
    """Compare logits [n, V] of both models; `following` [n] are the tokens that really come next."""
    n = len(following)
    kl, same = np.empty(n), np.empty(n, np.bool_)
    log_p, log_q = np.empty(n), np.empty(n)
    # Row by row in float64: a few MB even for a vocabulary of 150,000.
    for row in range(n):
        p, q = _log_softmax(reference[row]), _log_softmax(candidate[row])
        # Rounding can leave a tiny negative sum where p and q agree.
        kl[row] = max(0.0, float(np.dot(np.exp(p), p - q)))
        same[row] = p.argmax() == q.argmax()
        log_p[row], log_q[row] = p[following[row]], q[following[row]]
    return Positions(kl, same, log_p, log_q)


def compare(
    reference: Engine,
    candidate: Engine,
    rows: Sequence[Sequence[int]],
    *,
    reference_bytes: int = 0,
    package_bytes: int = 0,
    chunk: int = _CHUNK,
    progress: Progress | None = None,
) -> Fidelity:
    """Score every row of token ids with both engines; every position that has a successor counts.

    Raises:
        QuantizeError: the vocabularies differ, or there is nothing to score.
        EngineError, ContextOverflowError: from the engines.
    """
    ours, theirs = candidate.info.vocab_size, reference.info.vocab_size
    if ours != theirs:
        raise QuantizeError(
            f"'{candidate.info.model_id}' has {ours} tokens and its reference '{reference.info.model_id}' "
            f"{theirs}: "
            "they are not made from one checkpoint"
        )
    total = sum(max(0, len(row) - 1) for row in rows)
    if not total:
        raise QuantizeError("there is no text to compare on: every row needs two tokens at least")
    parts: list[Positions] = []
    done = 0
    for row in rows:
        states = [engine.new_sequence() for engine in (reference, candidate)]
        try:
            for start in range(0, len(row) - 1, chunk):
                tokens = list(row[start : min(start + chunk, len(row) - 1)])
                logits = []
                for state in states:
                    scores = state.forward(tokens, num_logits=len(tokens), want_logits=True)
                    assert scores.logits is not None
                    logits.append(scores.logits)
                parts.append(divergence(logits[0], logits[1], list(row[start + 1 : start + 1 + len(tokens)])))
                done += len(tokens)
                if progress is not None:
                    progress(done, total)
        finally:
            for state in states:
                state.close()
    return _summarise(parts, reference_bytes, package_bytes)


def _summarise(parts: Sequence[Positions], reference_bytes: int, package_bytes: int) -> Fidelity:
    kl = np.concatenate([part.kl for part in parts])
    log_p = np.concatenate([part.logprob_reference for part in parts])
    log_q = np.concatenate([part.logprob for part in parts])
    same = np.concatenate([part.same_top for part in parts])
    return Fidelity(
        tokens=len(kl),
        kl_mean=float(kl.mean()),
        kl_error=float(kl.std() / math.sqrt(len(kl))),
        kl_median=float(np.median(kl)),
        kl_p99=float(np.quantile(kl, 0.99)),
        kl_max=float(kl.max()),
        top1_agreement=float(same.mean()),
        perplexity_reference=math.exp(-float(log_p.mean())),
        perplexity=math.exp(-float(log_q.mean())),
        perplexity_ratio=math.exp(float(log_p.mean() - log_q.mean())),
        reference_bytes=reference_bytes,
        package_bytes=package_bytes,
        kl=kl,
    )


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return wide - math.log(float(np.exp(wide).sum()))


def rows_of_table(found: Fidelity) -> list[tuple[str, str]]:
    """The figures as (name, value) for people."""
    table = [
        ("tokens compared", f"{found.tokens}"),
        ("KL mean (nats)", f"{found.kl_mean:.5f} ± {found.kl_error:.5f}"),
        ("KL 99th percentile (nats)", f"{found.kl_p99:.5f}"),
        ("top-1 agreement", f"{found.top1_agreement:.2%}"),
        ("perplexity float32 → quantized", f"{found.perplexity_reference:.4f} → {found.perplexity:.4f}"),
        ("perplexity ratio", f"{found.perplexity_ratio:.4f}"),
    ]
    if found.reference_bytes and found.package_bytes:
        share = found.package_bytes / found.reference_bytes
        sizes = f"{found.package_bytes / 2**20:.1f} of {found.reference_bytes / 2**20:.1f} MiB ({share:.0%})"
        table.append(("size", sizes))
    return table


def draw(reports: Mapping[str, Fidelity], path: Path) -> None:
    """A picture of one or more reports: how often KL exceeds a value, and mean KL against size.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the picture cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "Drawing the quantization report") from error
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    tail, trade = figure.subplots(1, 2)
    smallest = 1e-7
    for label, found in reports.items():
        ordered = np.sort(np.maximum(found.kl, smallest))
        share = 1.0 - np.arange(len(ordered)) / len(ordered)
        (line,) = tail.loglog(ordered, share, label=label)
        trade.plot(found.package_bytes / 2**20, max(found.kl_mean, smallest), "o", color=line.get_color())
        trade.annotate(
            label,
            (found.package_bytes / 2**20, max(found.kl_mean, smallest)),
            xytext=(5, 4),
            textcoords="offset points",
        )
    tail.set(
        xlabel="KL(float32 ‖ quantized), nats",
        ylabel="share of positions above",
        title="Tail of the divergence",
    )
    tail.grid(True, which="major", alpha=0.3)
    tail.legend(fontsize="small")
    trade.set(xlabel="package, MiB", ylabel="mean KL, nats", title="Divergence against size", yscale="log")
    trade.grid(True, which="both", alpha=0.3)
    figure.savefig(path, dpi=120)
