"""Watching whether evidence and probabilities still mean what they meant when the calibration was made.

Two monitors, both sequential tests whose false alarms are bounded at every length of use, not at one sample
size:

`DriftMonitor` compares each answer's signals with those of the calibration's own rows. A signal's value
becomes a conformal p-value: its rank among the reference and everything seen since, ties broken at random
(Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*). While the rows are exchangeable these
p-values are independent and uniform, whatever the distribution and however small the reference. A mixture of
bets on them, in the manner of the Simple Jumper (Vovk et al., arXiv 2102.10439), is summed over all possible
times of change by the rule of Shiryaev and Roberts.

`CalibrationMonitor` needs labels (feedback) and bets on correct − stated probability, whose mean is 0 while
the calibration holds.

The statistic R of either has E[R after T answers] = T while nothing changed, so by Doob's inequality
P(an alarm within T answers) ≤ T / `false_alarm_every`, and the mean time to a false alarm is at least
`false_alarm_every`. With several signals each one's threshold is multiplied by their number (a union bound).
"""

from __future__ import annotations

import bisect
import math
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from offload.confidence import SIGNALS, signal_value
from offload.errors import CalibrationError
from offload.types import Evidence

__all__ = ["CalibrationMonitor", "Drift", "DriftMonitor", "Reference", "ks_statistic", "psi"]

Floats = npt.NDArray[np.float64]

WATCHED = ("mean_logprob", "min_logprob", "mean_entropy", "length")
"""Signals watched by default."""
REFERENCE_ROWS = 1_000
FALSE_ALARM_EVERY = 20_000
FEWEST, WINDOW = 20, 200
"""The figures of an alarm describe the answers since the change, at least and at most as many."""

MISSING = -math.inf
"""A missing signal ranks below every number, so that evidence that disappears is drift too."""

_SLOPES = (-0.9, -0.45, 0.45, 0.9)
_JUMP = 0.01


class _Bets:
    """Shiryaev–Roberts over a mixture of bets 1 + s·x with slopes s, for x in [−1, 1] with mean 0.

    `total` is R. Capital moves between the bets at rate `_JUMP`, so that a change of another kind is met too.
    """

    def __init__(self, kinds: int) -> None:
        self.slopes = np.zeros((kinds, 1 + len(_SLOPES) * kinds))
        for kind in range(kinds):
            first = 1 + kind * len(_SLOPES)
            self.slopes[kind, first : first + len(_SLOPES)] = _SLOPES
        self.capital = np.zeros(self.slopes.shape[1])
        self.sums = np.zeros(self.slopes.shape[1])
        self.since = np.zeros(self.slopes.shape[1], np.int64)
        self.seen = 0

    @property
    def total(self) -> float:
        """R."""
        return float(self.capital.sum())

    def update(self, x: Sequence[float]) -> float:
        """One observation of every kind; R after it."""
        factors = 1 + np.asarray(x) @ self.slopes
        staked = self.capital + 1 / len(self.capital)
        self.capital = factors * ((1 - _JUMP) * staked + _JUMP * staked.mean())
        # CUSUM of each bet: its last zero is where a change of that kind would have begun.
        self.sums = np.maximum(0.0, self.sums + np.log(factors))
        self.seen += 1
        self.since = np.where(self.sums == 0, self.seen, self.since)
        return self.total

    def began(self) -> int:
        """The observation after which the change most likely began."""
        return int(self.since[int(np.argmax(self.sums))])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "capital": self.capital.tolist(),
            "sums": self.sums.tolist(),
            "since": self.since.tolist(),
            "seen": self.seen,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `to_dict` wrote."""
        self.capital = np.asarray(state["capital"], np.float64)
        self.sums = np.asarray(state["sums"], np.float64)
        self.since = np.asarray(state["since"], np.int64)
        self.seen = int(state["seen"])


@dataclass(frozen=True, slots=True)
class Reference:
    """Sorted samples of the signals of a calibration's rows, by signal; a missing value is −inf.

    Samples, not quantiles: the test's guarantee needs values that are exchangeable with new ones.
    """

    calibration_id: str | None
    samples: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(
        cls,
        rows: Sequence[Evidence | None],
        rng: np.random.Generator,
        *,
        calibration_id: str | None = None,
        signals: Sequence[str] = WATCHED,
        limit: int = REFERENCE_ROWS,
    ) -> Reference:
        """From the evidence of the rows that a calibration was fitted on; at most `limit` of them, at random.

        Raises:
            CalibrationError: no rows, or a signal that does not exist.
        """
        unknown = [name for name in signals if name not in SIGNALS]
        if unknown:
            raise CalibrationError(f"there is no signal {unknown[0]!r}; known: {', '.join(SIGNALS)}")
        if not rows:
            raise CalibrationError("a reference for drift needs the evidence of at least one row")
        kept = rng.choice(len(rows), size=min(limit, len(rows)), replace=False)
        values = [_values(rows[i], signals) for i in kept]
        return cls(
            calibration_id, {name: tuple(sorted(v[k] for v in values)) for k, name in enumerate(signals)}
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; a missing value is null."""
        return {
            "calibration_id": self.calibration_id,
            "samples": {name: _plain(values) for name, values in self.samples.items()},
        }

    @classmethod
    def from_dict(cls, value: object) -> Reference:
        """Back from `to_dict`.

        Raises:
            CalibrationError: not such an object, or a signal that this version does not know.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("samples"), Mapping):
            raise CalibrationError("a reference for drift is an object with 'calibration_id' and 'samples'")
        samples: dict[str, tuple[float, ...]] = {}
        for name, values in value["samples"].items():
            if name not in SIGNALS:
                raise CalibrationError(f"a reference for drift has an unknown signal {name!r}")
            if not isinstance(values, list) or not all(
                v is None or (isinstance(v, int | float) and math.isfinite(v)) for v in values
            ):
                raise CalibrationError(f"the samples of {name!r} must be numbers or null")
            samples[str(name)] = tuple(sorted(MISSING if v is None else float(v) for v in values))
        name = value.get("calibration_id")
        return cls(None if name is None else str(name), samples)


@dataclass(frozen=True, slots=True)
class Drift:
    """An alarm. `since` is the answer after which the change most likely began, `answers` those seen in all.

    `ks` and `psi` compare the newest answers with the reference (None for calibration drift).
    """

    signal: str
    since: int
    answers: int
    ks: float | None
    psi: float | None
    message: str


@dataclass(slots=True)
class DriftMonitor:
    """Tells when evidence no longer looks as it did when the calibration was made.

    `rng` breaks ties between equal values. Memory grows by eight bytes per signal and answer.
    """

    reference: Reference
    rng: np.random.Generator
    false_alarm_every: int = FALSE_ALARM_EVERY
    answers: int = 0
    alarm: Drift | None = None
    _bags: dict[str, array[float]] = field(init=False)
    _bets: dict[str, _Bets] = field(init=False)
    _recent: dict[str, deque[float]] = field(init=False)

    def __post_init__(self) -> None:
        """Start from the reference."""
        self._bags = {name: array("d", values) for name, values in self.reference.samples.items()}
        self._bets = {name: _Bets(2) for name in self.reference.samples}
        self._recent = {name: deque(maxlen=WINDOW) for name in self.reference.samples}

    def update(self, evidence: Evidence | None) -> Drift | None:
        """Look at one more answer; the alarm, once there is one, stays until a new monitor is made."""
        self.answers += 1
        names = tuple(self._bags)
        for name, value in zip(names, _values(evidence, names), strict=True):
            self._recent[name].append(value)
            p = _p_value(self._bags[name], value, float(self.rng.random()))
            # Two kinds of bets: that values have moved up or down, and that they are more or less spread.
            total = self._bets[name].update((2 * p - 1, 2 * abs(2 * p - 1) - 1))
            if self.alarm is None and total >= self.false_alarm_every * len(names):
                self.alarm = self._describe(name)
        return self.alarm

    def to_dict(self) -> dict[str, Any]:
        """What has been seen, JSON-ready, so that the watch goes on after a restart (`from_dict`)."""
        return {
            "reference": self.reference.to_dict(),
            "false_alarm_every": self.false_alarm_every,
            "answers": self.answers,
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "signals": {
                name: {
                    "bag": _plain(self._bags[name]),
                    "recent": _plain(self._recent[name]),
                    **self._bets[name].to_dict(),
                }
                for name in self._bags
            },
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], rng: np.random.Generator) -> DriftMonitor:
        """Back from `to_dict`.

        Raises:
            CalibrationError: not the state of a monitor.
        """
        try:
            monitor = cls(Reference.from_dict(value["reference"]), rng, int(value["false_alarm_every"]))
            monitor.answers = int(value["answers"])
            monitor.alarm = None if value["alarm"] is None else Drift(**value["alarm"])
            for name, state in value["signals"].items():
                monitor._bags[name] = array("d", _floats(state["bag"]))
                monitor._recent[name].extend(_floats(state["recent"]))
                monitor._bets[name].restore(state)
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"this is not the state of a watch for drift: {error!r}") from error
        return monitor

    def _describe(self, name: str) -> Drift:
        reference = np.asarray(self.reference.samples[name])
        since = self._bets[name].began()
        recent = np.asarray(self._recent[name])[-max(self.answers - since, FEWEST) :]
        ks, shift = ks_statistic(reference, recent), psi(reference, recent)
        moved = "lower" if np.median(recent) < np.median(reference) else "higher"
        if np.isinf(recent).mean() > np.isinf(reference).mean() + 0.1:
            moved = "missing more often"
        owner = f"calibration {self.reference.calibration_id}"
        return Drift(
            name,
            since,
            self.answers,
            ks,
            shift,
            f"the evidence has drifted since about answer {since} of {self.answers}: {name} is "
            f"{moved} than when {owner if self.reference.calibration_id else 'the reference'} was made "
            f"(Kolmogorov-Smirnov distance {ks:.2f}, population stability index {shift:.2f}, "
            f"last {len(recent)} answers). Its probabilities may no longer hold: label recent queries and "
            "run `edge-runtime calibrate` again",
        )


@dataclass(slots=True)
class CalibrationMonitor:
    """Tells when stated probabilities no longer match how often answers are right. Needs labels.

    Feed it every answer that has one, or a share of them chosen without looking at the answer: votes that
    come more often for bad answers make a sound calibration look too optimistic.
    """

    calibration_id: str | None = None
    false_alarm_every: int = FALSE_ALARM_EVERY
    alarm: Drift | None = None
    _bets: _Bets = field(default_factory=lambda: _Bets(1))
    _recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def update(self, p_correct: float, correct: bool) -> Drift | None:
        """One labelled answer.

        Raises:
            ValueError: a probability that is none.
        """
        if not 0 <= p_correct <= 1:
            raise ValueError(f"p_correct must be a probability, not {p_correct!r}")
        self._recent.append((p_correct, float(correct)))
        total = self._bets.update((float(correct) - p_correct,))
        if self.alarm is None and total >= self.false_alarm_every:
            stated, right = np.mean(np.asarray(self._recent), axis=0)
            owner = f"calibration {self.calibration_id}" if self.calibration_id else "the calibration"
            since = self._bets.began()
            self.alarm = Drift(
                "p_correct",
                since,
                self._bets.seen,
                None,
                None,
                f"{owner} no longer holds: of the last {len(self._recent)} labelled answers {right:.2f} were "
                f"right where it stated {stated:.2f} (since about answer {since} of {self._bets.seen}); run "
                "`edge-runtime calibrate` again",
            )
        return self.alarm


def _plain(values: Iterable[float]) -> list[float | None]:
    return [None if math.isinf(v) else v for v in values]


def _floats(values: Iterable[float | None]) -> list[float]:
    return [MISSING if v is None else float(v) for v in values]


def ks_statistic(reference: Floats, recent: Floats) -> float:
    """Largest distance between the two empirical distribution functions (Kolmogorov and Smirnov), 0 to 1."""
    a, b = np.sort(reference), np.sort(recent)
    points = np.concatenate([a, b])
    return float(
        np.abs(
            np.searchsorted(a, points, side="right") / len(a)
            - np.searchsorted(b, points, side="right") / len(b)
        ).max()
    )


def psi(reference: Floats, recent: Floats, bins: int = 10) -> float:
    """Population stability index: Σ (q − p) ln(q / p) over bins at the reference's quantiles.

    Half a row is added to every bin, so that an empty one does not make it infinite. Above .25 is commonly
    read as a large shift.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    p = np.bincount(np.searchsorted(edges, reference, side="left"), minlength=len(edges) + 1) + 0.5
    q = np.bincount(np.searchsorted(edges, recent, side="left"), minlength=len(edges) + 1) + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _p_value(bag: array[float], value: float, tie: float) -> float:
    """Smoothed conformal p-value of a value among the bag and itself; the value joins the bag."""
    below = bisect.bisect_left(bag, value)
    equal = bisect.bisect_right(bag, value) - below + 1
    bag.insert(below, value)
    return (below + tie * equal) / len(bag)


def _values(evidence: Evidence | None, signals: Iterable[str]) -> list[float]:
    values = []
    for name in signals:
        value = None if evidence is None else signal_value(name, evidence)
        values.append(MISSING if value is None else value)
    return values
