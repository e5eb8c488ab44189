"""Which calibrator a kind of answer gets: all are tried in folds, a richer one is taken only where it wins.

The rule: the richer choice replaces the plainer one when its out-of-fold Brier score is lower by more than
one standard error of the rows' paired differences.

1. Of single signals with temperature, Platt or isotonic: the lowest Brier score.
2. `logistic` over the signals of `COMBINED` replaces that by the rule, then `gbdt` replaces what stands by
   the rule; neither may lower the AUROC.
3. A family (`frame/hass`) gets an entry of its own by the rule, against the entry of its whole form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from offload.calibrate.fit import (
    Bools,
    Floats,
    fit_isotonic,
    fit_logistic,
    fit_platt,
    fit_temperature,
    fit_trees,
    folds,
    has_scikit_learn,
)
from offload.calibration import Entry
from offload.calibrators import Calibrator, reads_as_probability, scaled
from offload.confidence import DEFAULT_SIGNAL, EXTRA, SIGNALS, not_whole, problem_with
from offload.errors import CalibrationError
from offload.evaluate.metrics import auroc
from offload.evaluate.reliability import brier, ece, ece_floor
from offload.types import Evidence

__all__ = [
    "COMBINERS",
    "MIN_CLASS",
    "MIN_ROWS",
    "Candidate",
    "KindFit",
    "Labelled",
    "Selection",
    "choose",
    "select",
]

FOLDS = 5
MIN_ROWS, MIN_CLASS = 50, 10
"""A form with fewer rows, or with fewer right or wrong ones, gets no entry."""
FAMILY_ROWS, FAMILY_CLASS = 100, 20
"""The same of a family, which otherwise shares the entry of its form."""
ISOTONIC_ROWS = 500
"""Isotonic steps through fewer rows follow their noise."""
TRIED_SIGNALS = 8
"""Single signals that are calibrated: those with the highest AUROC."""

COMBINED = (
    "sum_logprob",
    "mean_logprob",
    "min_logprob",
    "mean_entropy",
    "max_entropy",
    *(f"{span}.{name}" for span in ("answer", "keys", "steps") for name in ("mean_logprob", "min_logprob")),
    "intent.min_logprob",
    *EXTRA,
)
"""Signals that a combiner gets, where all rows have them: few, of different kinds.

With every signal there is it learns the mix of questions that it was made from, and loses on another mix what
it won in the folds."""

SINGLES: Mapping[str, Callable[[Floats, Bools], Calibrator]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}
COMBINERS: Mapping[str, Callable[[Floats, Bools], Calibrator]] = {
    "logistic": fit_logistic,
    "gbdt": fit_trees,
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """The evidence of an answer and whether it was right.

    `kind` is `offload.spans.read(answer).kind`; `strong_correct` whether the cloud's answer was right.
    """

    evidence: Evidence
    correct: bool
    kind: str
    strong_correct: bool | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A calibrator that was tried, with its out-of-fold probabilities float64 [n] and what they are worth."""

    method: str
    signals: tuple[str, ...]
    probabilities: Floats
    brier: float
    auroc: float
    ece: float

    @property
    def label(self) -> str:
        """Method and signal, or the number of signals."""
        what = self.signals[0] if len(self.signals) == 1 else f"{len(self.signals)} signals"
        return f"{self.method} · {what}"


@dataclass(frozen=True, slots=True)
class KindFit:
    """What was found for one kind of answer: the entry, all candidates by Brier score, and the chosen one.

    `rows` are indices int64 [n] into the usable rows of the `Selection`.
    """

    kind: str
    entry: Entry
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    rows: npt.NDArray[np.int64]
    correct: Bools


@dataclass(frozen=True, slots=True)
class Selection:
    """The entries of a calibration and how they were found.

    `usable` are the rows whose evidence says something; `skipped` counts the others by reason; `left_out`
    says why a kind has no entry; `signal_auroc` has every signal's AUROC by kind.
    """

    kinds: tuple[KindFit, ...]
    usable: tuple[Labelled, ...]
    skipped: Mapping[str, int]
    left_out: Mapping[str, str]
    signal_auroc: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """For `Calibration`."""
        return tuple(kind.entry for kind in self.kinds)

    def pooled(self) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Out-of-fold probabilities of all rows whose kind has an entry, and their indices into `usable`."""
        rows = np.concatenate([kind.rows for kind in self.kinds])
        p = np.concatenate([kind.chosen.probabilities for kind in self.kinds])
        order = np.argsort(rows)
        return p[order], rows[order]


def select(
    rows: Sequence[Labelled],
    *,
    combiners: Sequence[str] | None = None,
    seed: int = 0,
    step: Callable[[str], None] = lambda kind: None,
) -> Selection:
    """Choose and fit an entry for every kind of answer that has rows enough.

    Args:
        combiners: names of `COMBINERS` to try; by default all that can be fitted here.
        step: called with the kind before each is worked on.

    Raises:
        CalibrationError: no kind has rows enough, or only one class; says how many there are and are needed.
    """
    if combiners is None:
        combiners = [name for name in COMBINERS if name != "gbdt" or has_scikit_learn()]
    problems = [problem_with(row.evidence) or not_whole(row.evidence) for row in rows]
    usable = tuple(row for row, problem in zip(rows, problems, strict=True) if problem is None)
    skipped = dict(Counter(problem for problem in problems if problem is not None))
    kinds = np.array([row.kind for row in usable], dtype=object)
    forms = np.array([kind.partition("/")[0] for kind in kinds], dtype=object)
    correct = np.array([row.correct for row in usable], bool)
    found: list[KindFit] = []
    left_out: dict[str, str] = {}

    def fit(kind: str, at: npt.NDArray[np.int64]) -> KindFit:
        step(kind)
        chosen, candidates, calibrator = choose(
            [usable[i].evidence for i in at], correct[at], combiners=combiners, seed=seed
        )
        entry = _entry(kind, chosen, calibrator, correct[at], seed)
        return KindFit(kind, entry, chosen, candidates, at, correct[at])

    for form in sorted(set(forms)):
        at = np.flatnonzero(forms == form)
        problem = _too_few(correct[at], MIN_ROWS, MIN_CLASS)
        if problem is not None:
            left_out[form] = problem
            continue
        whole = fit(form, at)
        own = []
        for family in sorted(set(kinds[at]) - {form}):
            inside = kinds[at] == family
            if _too_few(correct[at][inside], FAMILY_ROWS, FAMILY_CLASS) is None:
                apart = fit(family, at[inside])
                if wins(apart.chosen.probabilities, whole.chosen.probabilities[inside], correct[at][inside]):
                    own.append(apart)
        rest = at[~np.isin(kinds[at].astype(str), [kind.kind for kind in own])]
        # A rest too small to stand alone keeps the entry of the whole form.
        if own and _too_few(correct[rest], MIN_ROWS, MIN_CLASS) is None:
            whole = fit(form, rest)
        elif own:
            whole = _restricted(whole, rest)
        found += [whole, *own]
    if not found:
        raise CalibrationError(_nothing(rows, skipped, left_out))
    aurocs = {
        kind.kind: signal_aurocs([usable[i].evidence for i in kind.rows], kind.correct) for kind in found
    }
    return Selection(tuple(found), usable, skipped, left_out, aurocs)


def choose(
    evidence: Sequence[Evidence], correct: Bools, *, combiners: Sequence[str] = (), seed: int = 0
) -> tuple[Candidate, tuple[Candidate, ...], Calibrator]:
    """The candidate that this module's rule picks, all of them, and the picked one fitted on all rows."""
    y = np.asarray(correct, bool)
    columns = _columns(evidence)
    if not columns:
        raise CalibrationError("there is no signal that all rows have: the evidence has gaps")
    fold = folds(y, FOLDS, seed)
    ranked = sorted(columns, key=lambda name: -(auroc(columns[name], y) or 0.0))
    tried = list(dict.fromkeys([*ranked[:TRIED_SIGNALS], *({DEFAULT_SIGNAL} & set(columns))]))
    candidates = [
        _tried(method, (signal,), columns, y, fold)
        for signal in tried
        for method in SINGLES
        if (method != "temperature" or reads_as_probability(signal))
        and (method != "isotonic" or len(y) >= ISOTONIC_ROWS)
    ]
    best = min(candidates, key=lambda c: c.brier)
    varied = tuple(name for name in COMBINED if name in columns and np.ptp(columns[name]) > 0)
    for method in combiners:
        if len(varied) > 1:
            richer = _tried(method, varied, columns, y, fold)
            candidates.append(richer)
            if wins(richer.probabilities, best.probabilities, y) and richer.auroc >= best.auroc:
                best = richer
    fitted = _fit(best.method, _matrix(best.signals, columns), y)
    return best, tuple(sorted(candidates, key=lambda c: c.brier)), fitted


def wins(richer: Floats, plainer: Floats, correct: Bools) -> bool:
    """Whether the Brier score is lower by more than one standard error of the paired differences."""
    gain = (plainer - correct) ** 2 - (richer - correct) ** 2
    return bool(gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))


def signal_aurocs(evidence: Sequence[Evidence], correct: Bools) -> dict[str, float]:
    """AUROC of every signal that all rows have, best first."""
    found = {name: auroc(column, correct) for name, column in _columns(evidence).items()}
    known = {name: value for name, value in found.items() if value is not None}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


def _columns(evidence: Sequence[Evidence]) -> dict[str, Floats]:
    """Scaled signals that every row has; `problem_with` has let the rows through."""
    found = {}
    for name, signal in SIGNALS.items():
        values = [value for e in evidence if (value := signal(e)) is not None and math.isfinite(value)]
        if len(values) == len(evidence):
            found[name] = scaled(name, values)
    return found


def _matrix(signals: Sequence[str], columns: Mapping[str, Floats]) -> Floats:
    return np.column_stack([columns[name] for name in signals])


def _fit(method: str, x: Floats, y: Bools) -> Calibrator:
    return SINGLES[method](x[:, 0], y) if method in SINGLES else COMBINERS[method](x, y)


def _tried(
    method: str,
    signals: tuple[str, ...],
    columns: Mapping[str, Floats],
    y: Bools,
    fold: npt.NDArray[np.int64],
) -> Candidate:
    x, p = _matrix(signals, columns), np.empty(len(y))
    for k in range(FOLDS):
        p[fold == k] = _fit(method, x[fold != k], y[fold != k])(x[fold == k])
    return Candidate(method, signals, p, brier(p, y), auroc(p, y) or 0.5, ece(p, y))


def _entry(kind: str, chosen: Candidate, calibrator: Calibrator, y: Bools, seed: int) -> Entry:
    figures = {
        "brier": chosen.brier,
        "auroc": chosen.auroc,
        "ece": chosen.ece,
        "ece_floor": ece_floor(chosen.probabilities, seed=seed),
    }
    rounded = {name: round(value, 6) for name, value in figures.items()}
    return Entry(kind, chosen.signals, calibrator, len(y), int(y.sum()), rounded)


def _restricted(whole: KindFit, rest: npt.NDArray[np.int64]) -> KindFit:
    """The fit of a form with its own rows reduced to `rest`; the entry stays that of all."""
    kept = np.isin(whole.rows, rest)
    p, y = whole.chosen.probabilities[kept], whole.correct[kept]
    chosen = Candidate(
        whole.chosen.method, whole.chosen.signals, p, whole.chosen.brier, whole.chosen.auroc, whole.chosen.ece
    )
    return KindFit(whole.kind, whole.entry, chosen, whole.candidates, whole.rows[kept], y)


def _too_few(correct: Bools, rows: int, each: int) -> str | None:
    right, wrong = int(correct.sum()), int((~correct).sum())
    if len(correct) < rows or min(right, wrong) < each:
        return f"{right} right and {wrong} wrong rows; needs {rows} with at least {each} of each"
    return None


def _nothing(rows: Sequence[Labelled], skipped: Mapping[str, int], left_out: Mapping[str, str]) -> str:
    told = [f"kind '{kind}': {why}" for kind, why in left_out.items()]
    told += [f"{count} rows without usable evidence: {why}" for why, count in skipped.items()]
    return f"no calibration can be made from {len(rows)} rows: " + ("; ".join(told) or "there are none")
