"""Stopping an answer that cannot be kept any more: bounds on what its confidence can still become.

Two kinds of bound, and each says which it is:

- **exact**: log-probabilities are never positive and entropies never negative, so a sum or a minimum of
  log-probabilities can only fall, and a mean can rise at most to sum / (n + tokens left). Where a calibration
  turns one such signal into a probability, the best value gives the highest probability that is possible.
- **statistical**: from recorded traces, the level of a running signal that answers which ended above the
  threshold fell below at some time in a share of at most ε (a conformal quantile, so
  P(stopped | would have been kept) ≤ ε for exchangeable traces, over all tokens of an answer together).

Knows: evidence, calibrations, traces. Does not know: engines or what follows a stop (`offload.router`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from offload.errors import PolicyError
from offload.types import Evidence

if TYPE_CHECKING:
    from offload.calibration import Calibration, Entry

__all__ = ["RUNNING", "Ceiling", "EarlyStop", "StopTable", "Trace", "best_value", "fit_stop"]

RUNNING = ("sum_logprob", "min_logprob", "mean_logprob")
"""Running signals that a statistical bound may be on."""

FIRST_MEAN = 8
"""A running mean counts from this token on: earlier it is too noisy to say anything."""

GRID = tuple(i / 100 for i in range(1, 100))


def best_value(signal: str, evidence: Evidence, tokens_left: int | None) -> float | None:
    """The highest value that a signal over the whole answer can still reach; `None`: no bound is known.

    Args:
        signal: a name of `offload.confidence.SIGNALS` (higher is surer).
        evidence: of the tokens so far.
        tokens_left: the most tokens that can follow; `None` when that is not known.
    """
    e = evidence
    if e.n_scored <= 0:
        return None
    if signal == "sum_logprob":
        return e.sum_logprob
    if signal == "min_logprob":
        return e.min_logprob
    if signal == "length":
        return -float(e.n)
    if signal == "max_entropy":
        return None if e.max_entropy is None else -e.max_entropy
    if tokens_left is None:
        return None
    shrink = e.n_scored / (e.n_scored + max(0, tokens_left))
    if signal == "mean_logprob":
        return None if e.mean_logprob is None else e.mean_logprob * shrink
    if signal == "mean_entropy":
        return None if e.mean_entropy is None else -e.mean_entropy * shrink
    return None


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Keeping is out of reach: `exact` or up to a share ε of answers; `reason` gives the numbers."""

    exact: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Trace:
    """One recorded answer: log-probabilities of its scored tokens (nats), the confidence it ended with."""

    logprobs: tuple[float, ...]
    p_correct: float


@dataclass(frozen=True, slots=True)
class StopTable:
    """For thresholds on the grid, the value of a running signal below which an answer is given up.

    A bound of `-inf` (stored as `null`) never stops. `n` traces, of which `saved` is the share of all tokens
    of the answers that end below the threshold and are not computed, at the threshold `at`.
    """

    signal: str
    epsilon: float
    thresholds: tuple[float, ...]
    bounds: tuple[float, ...]
    n: int
    saved: float = 0.0
    at: float = 0.5

    def bound(self, threshold: float) -> float:
        """The bound of the nearest threshold on the grid at or below this one; `-inf` below the grid."""
        i = bisect_right(self.thresholds, threshold + 1e-9) - 1
        return self.bounds[i] if i >= 0 else -math.inf

    def running(self, evidence: Evidence) -> float | None:
        """The running signal, or `None` while it says nothing."""
        if self.signal == "mean_logprob" and evidence.n_scored < FIRST_MEAN:
            return None
        value = getattr(evidence, self.signal)
        return float(value) if value is not None and math.isfinite(value) else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "bounds": [None if math.isinf(b) else b for b in self.bounds]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StopTable:
        """The inverse of `to_dict`.

        Raises:
            PolicyError: something is missing or does not fit.
        """
        try:
            table = cls(
                str(data["signal"]),
                float(data["epsilon"]),
                tuple(float(t) for t in data["thresholds"]),
                tuple(-math.inf if b is None else float(b) for b in data["bounds"]),
                int(data["n"]),
                float(data.get("saved", 0.0)),
                float(data.get("at", 0.5)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"a table for stopping early is damaged: {error!r}") from error
        if table.signal not in RUNNING or len(table.bounds) != len(table.thresholds):
            raise PolicyError(
                f"a table for stopping early has the signal '{table.signal}' and {len(table.bounds)} bounds "
                f"for {len(table.thresholds)} thresholds"
            )
        if list(table.thresholds) != sorted(table.thresholds) or any(math.isnan(b) for b in table.bounds):
            raise PolicyError("a table for stopping early has thresholds out of order, or a NaN bound")
        return table


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Both kinds of bound. `tables` are statistical ones by form of answer (`frame`, `solution`, `text`)."""

    tables: Mapping[str, StopTable] = field(default_factory=dict)

    def ceiling(
        self,
        evidence: Evidence,
        threshold: float,
        *,
        calibration: Calibration | None = None,
        tokens_left: int | None = None,
        text: str | None = None,
    ) -> Ceiling | None:
        """Why the confidence cannot reach `threshold`; `None` when it can, or when nothing is known."""
        form = form_so_far(text)
        if calibration is not None:
            best = _highest(calibration.entries, form, evidence, tokens_left)
            if best is not None and best < threshold:
                return Ceiling(True, f"the confidence can reach {best:.3f} at most")
        # While the form is open, every table has to agree.
        tables = [table for name, table in self.tables.items() if form in (None, name)]
        said = []
        for table in tables:
            value, bound = table.running(evidence), table.bound(threshold)
            if value is None or value >= bound:
                return None
            said.append(f"{table.signal} {value:.3f} is below {bound:.3f}")
        if not said:
            return None
        share = max(table.epsilon for table in tables)
        return Ceiling(False, f"{'; '.join(said)}, as in at most {share:.0%} of kept answers")


def form_so_far(text: str | None) -> str | None:
    """The form that an answer which begins like this will have; `None` while both are possible."""
    begun = (text or "").lstrip()
    if not begun:
        return None
    if begun.startswith(("{", "```")):
        return "frame"
    return "solution" if begun[0].isdigit() or begun.lower().startswith("answer") else "text"


def _highest(
    entries: Sequence[Entry], form: str | None, evidence: Evidence, tokens_left: int | None
) -> float | None:
    """The highest probability that any entry which may apply can still give; `None`: no bound."""
    import numpy as np

    from offload.calibrators import scaled

    best: float | None = None
    for entry in entries:
        if form is not None and entry.kind.partition("/")[0] != form:
            continue
        value = best_value(entry.signals[0], evidence, tokens_left) if entry.single else None
        if value is None:
            return None
        p = float(entry.calibrator(np.array([[float(scaled(entry.signals[0], value))]]))[0])
        best = p if best is None else max(best, p)
    return best


def fit_stop(
    traces: Sequence[Trace], *, epsilon: float = 0.02, at: float = 0.5, signals: Sequence[str] = RUNNING
) -> StopTable:
    """The table that saves most tokens at the threshold `at`, among the running signals.

    For each threshold of the grid: the bound is the ⌊ε (k + 1)⌋-th smallest of the lowest values that the
    signal had in the k answers that end at or above the threshold; fewer than 1/ε − 1 of them give no bound
    (split conformal prediction, arXiv 2107.07511, section 1).

    Raises:
        PolicyError: no traces, ε is not between 0 and 1, or a trace holds what is not a log-probability.
    """
    if not traces:
        raise PolicyError("no traces to fit on: record answers with their tokens' log-probabilities first")
    if not 0 < epsilon < 1:
        raise PolicyError(f"epsilon is {epsilon!r}: it is a share between 0 and 1")
    for i, trace in enumerate(traces):
        if not all(-math.inf < x <= 0 for x in trace.logprobs) or not 0 <= trace.p_correct <= 1:
            raise PolicyError(f"trace {i}: a log-probability is not finite or above 0, or p is no share")
    made = []
    for signal in signals:
        lowest = [(t.p_correct, min(_course(signal, t.logprobs), default=math.inf)) for t in traces]
        bounds = tuple(_conformal_low([m for p, m in lowest if p >= least], epsilon) for least in GRID)
        table = StopTable(signal, epsilon, GRID, bounds, len(traces), at=at)
        made.append(replace(table, saved=tokens_saved(table, traces, at).share_of_escalated))
    return max(made, key=lambda table: table.saved)


@dataclass(frozen=True, slots=True)
class Saved:
    """What stopping early saves: token counts, and answers given up that would have been kept."""

    tokens: int
    tokens_escalated: int
    tokens_all: int
    stopped: int
    wrongly_stopped: int
    kept: int

    @property
    def share_of_escalated(self) -> float:
        """Of the tokens of answers that are escalated anyway."""
        return self.tokens / self.tokens_escalated if self.tokens_escalated else 0.0


def tokens_saved(table: StopTable, traces: Sequence[Trace], threshold: float) -> Saved:
    """Replay traces token by token: what `table` saves at `threshold`, and what it loses."""
    bound = table.bound(threshold)
    tokens = escalated = stopped = wrongly = kept = 0
    for trace in traces:
        n, keep = len(trace.logprobs), trace.p_correct >= threshold
        first = FIRST_MEAN if table.signal == "mean_logprob" else 1
        course = _course(table.signal, trace.logprobs)
        at = next((i + first for i, value in enumerate(course) if value < bound), n)
        kept += keep
        escalated += 0 if keep else n
        stopped += at < n
        wrongly += keep and at < n
        tokens += 0 if keep else n - at
    return Saved(tokens, escalated, sum(len(t.logprobs) for t in traces), stopped, wrongly, kept)


def _course(signal: str, logprobs: Sequence[float]) -> list[float]:
    """The running signal after each token (a mean from `FIRST_MEAN` on)."""
    total, least, course = 0.0, math.inf, []
    for i, value in enumerate(logprobs, 1):
        total, least = total + value, min(least, value)
        if signal == "sum_logprob":
            course.append(total)
        elif signal == "min_logprob":
            course.append(least)
        elif i >= FIRST_MEAN:
            course.append(total / i)
    return course


def _conformal_low(values: Sequence[float], epsilon: float) -> float:
    rank = math.floor(epsilon * (len(values) + 1) + 1e-9)
    return sorted(values)[rank - 1] if rank >= 1 else -math.inf
