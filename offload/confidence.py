"""From evidence to a raw signal of sureness, and with a calibration to a probability of being right.

Knows: the published signals, and when evidence is too poor to say anything. Does not know: how a calibration
is fitted (`offload.calibrate`), what is done with a confidence (`offload.router`).

Every signal is turned so that a **higher value means surer**. Log-probabilities are those of the raw
distribution, in nats. Poor evidence gives `None`, never a sure value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from offload.checks import CHECKS
from offload.errors import OffloadError
from offload.spans import SPANS
from offload.types import QUANTILES, Confidence, Evidence

if TYPE_CHECKING:
    from offload.calibration import Calibration

__all__ = [
    "DEFAULT_SIGNAL",
    "EXTRA",
    "PROBES",
    "SIGNALS",
    "Signal",
    "not_whole",
    "problem_with",
    "score",
    "signal_value",
]

Signal = Callable[[Evidence], "float | None"]
"""Evidence → a number, higher for surer; `None` where the evidence does not have it."""

DEFAULT_SIGNAL = "mean_logprob"
"""Reported as `Confidence.raw` of a model without a calibration."""


def sum_logprob(e: Evidence) -> float | None:
    """Chow-sum: the log-probability of the whole answer. Sees long answers as unsure.

    Chow 1970, applied to sequences by Gupta et al., arXiv 2404.10136, section 3.1.
    """
    return e.sum_logprob


def mean_logprob(e: Evidence) -> float | None:
    """Chow-average: log-probability per token (Gupta et al., arXiv 2404.10136, section 3.1)."""
    return e.mean_logprob


def min_logprob(e: Evidence) -> float | None:
    """The least likely token: Chow-quantile at level 0 (Gupta et al., arXiv 2404.10136, section 3.3)."""
    return e.min_logprob


def quantile_logprob(level: float) -> Signal:
    """Chow-quantile: a quantile of the tokens' log-probabilities (Gupta et al., arXiv 2404.10136)."""

    def signal(e: Evidence) -> float | None:
        return e.quantiles.get(level)

    return signal


def mean_entropy(e: Evidence) -> float | None:
    """Minus the mean entropy of the next-token distributions (Malinin and Gales, arXiv 2002.07650)."""
    return None if e.mean_entropy is None else -e.mean_entropy


def max_entropy(e: Evidence) -> float | None:
    """Minus the largest entropy of a next-token distribution (Manakul et al., arXiv 2303.08896: Max(H))."""
    return None if e.max_entropy is None else -e.max_entropy


def mean_margin(e: Evidence) -> float | None:
    """Mean log-probability margin of the likeliest token over the next.

    Margin sampling (Scheffer et al. 2001) per token, as UCCI (arXiv 2605.18796) uses it for cascades.
    """
    return e.mean_margin


def length(e: Evidence) -> float | None:
    """Minus the number of tokens: the baseline that a signal has to beat."""
    return -float(e.n)


_OF_TOKENS: Mapping[str, Signal] = {
    "sum_logprob": sum_logprob,
    "mean_logprob": mean_logprob,
    "min_logprob": min_logprob,
    **{f"q{round(100 * level)}_logprob": quantile_logprob(level) for level in QUANTILES if level > 0},
    "mean_entropy": mean_entropy,
    "max_entropy": max_entropy,
    "mean_margin": mean_margin,
    "length": length,
}


def _of_span(name: str, signal: Signal) -> Signal:
    def of_span(e: Evidence) -> float | None:
        part = e.spans.get(name)
        return None if part is None or not part.n_scored else signal(part)

    return of_span


def _of_extra(name: str) -> Signal:
    def of_extra(e: Evidence) -> float | None:
        return e.extra.get(name)

    return of_extra


PROBES = ("p_true", "agreement", "second_prompt")
"""Signals that cost further passes of the model; see `offload.probes`."""

EXTRA = (*CHECKS, *PROBES)
"""Signals that are kept in `Evidence.extra`: not made from tokens."""

SIGNALS: Mapping[str, Signal] = {
    **_OF_TOKENS,
    **{f"{span}.{name}": _of_span(span, signal) for span in SPANS for name, signal in _OF_TOKENS.items()},
    **{name: _of_extra(name) for name in EXTRA},
}
"""Every signal by name: over the whole answer (`mean_logprob`), over a span of it (`answer.mean_logprob`, see
`offload.spans`), checks of the text (`grounded`, see `offload.checks`), and those that cost further passes
(`p_true`, see `offload.probes`).
"""


def problem_with(evidence: Evidence) -> str | None:
    """Why this evidence says nothing about the answer, as a sentence; `None` when it may.

    Evidence of another engine can look perfect because it is missing: log-probabilities of 0 for every token
    are what greedy decoding leaves when they are taken after the temperature. Ours have an entropy or a
    margin beside them that shows a real distribution.
    """
    e = evidence
    if e.n <= 0 or e.n_scored <= 0 or e.sum_logprob is None or e.mean_logprob is None:
        return "no token has a log-probability"
    figures = (e.sum_logprob, e.mean_logprob, e.min_logprob, e.mean_entropy, e.max_entropy, e.mean_margin)
    if any(x is not None and not math.isfinite(x) for x in (*figures, *e.quantiles.values())):
        return "a figure is not finite"
    if e.n_scored > e.n:
        return f"{e.n_scored} tokens are scored but there are only {e.n}"
    if e.sum_logprob > 0 or e.mean_logprob > 0 or (e.min_logprob or 0) > 0 or (e.mean_entropy or 0) < 0:
        return "a log-probability is above 0, or an entropy below"
    if e.sum_logprob == 0 and not e.mean_entropy and not e.mean_margin:
        return (
            "every log-probability is 0 and nothing beside them shows a distribution, as when they are taken "
            "after a temperature of 0"
        )
    return None


def not_whole(evidence: Evidence) -> str | None:
    """Why the answer is cut short, so that its signals say nothing of the whole; `None` for a whole one."""
    if evidence.finish_reason in ("length", "cancelled", "error"):
        return f"the answer is not whole (it ended because of '{evidence.finish_reason}')"
    return None


def signal_value(name: str, evidence: Evidence) -> float | None:
    """A signal of the evidence: a finite number, or `None` where the evidence is poor or has no such part.

    Raises:
        OffloadError: there is no signal of that name; names the nearest.
    """
    signal = SIGNALS.get(name)
    if signal is None:
        near = get_close_matches(name, SIGNALS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise OffloadError(f"there is no signal '{name}'.{hint} Known ones: {', '.join(_OF_TOKENS)}, …")
    if name not in EXTRA and problem_with(evidence) is not None:
        return None
    value = signal(evidence)
    return value if value is not None and math.isfinite(value) else None


def score(
    evidence: Evidence, calibration: Calibration | None = None, *, text: str | None = None
) -> Confidence:
    """How sure the evidence makes us that the answer is right.

    Without a calibration, or where it says nothing about this answer, `p_correct` is `None` and `reason` says
    why; a router then escalates (`docs/confidence.md`). With `text` the calibration's entry for that kind of
    answer is used; otherwise the kind is told from the evidence's spans.
    """
    if calibration is None:
        reason = problem_with(evidence) or "the model has no calibration (edge-runtime calibrate makes one)"
        return Confidence(None, DEFAULT_SIGNAL, None, signal_value(DEFAULT_SIGNAL, evidence), reason)
    return calibration.confidence(evidence, text=text)
