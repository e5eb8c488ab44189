"""A calibration that is watched: it goes silent when it no longer holds, and is made anew from feedback.

One monitor per kind of answer, since a change in the mix of kinds does not touch the calibration of each.
After an alarm answers of that kind have no probability, with the alarm as the reason, so the router escalates
them as it does those of an uncalibrated model; labelled answers are collected, and when there are enough the
calibration is fitted again and takes over, with a new reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from offload.calibrate import Labelled, select
from offload.calibration import Calibration
from offload.errors import CalibrationError
from offload.learn.drift import FALSE_ALARM_EVERY, CalibrationMonitor, Drift, DriftMonitor, Reference
from offload.types import Confidence, Evidence

__all__ = ["Notice", "Watch", "references", "refit"]

ROWS_WANTED = 300
"""Labelled answers of a kind before it is calibrated again."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should hear, in words."""

    kind: Literal["drifted", "recalibrated", "failed"]
    message: str


def references(
    rows: Sequence[Labelled], rng: np.random.Generator, calibration_id: str | None
) -> dict[str, Reference]:
    """A reference for every kind among the rows that a calibration was fitted on."""
    kinds = dict.fromkeys(row.kind for row in rows)
    return {
        kind: Reference.of(
            [row.evidence for row in rows if row.kind == kind], rng, calibration_id=calibration_id
        )
        for kind in kinds
    }


def refit(old: Calibration, rows: Sequence[Labelled], created: str) -> Calibration:
    """The calibration with the entries of these rows' kinds fitted again, by single signals.

    `created` is UTC, `2026-01-31T12:00:00Z`.

    Raises:
        CalibrationError: too few rows, or one class only.
    """
    entries = select(rows, combiners=()).entries
    fresh = {entry.kind for entry in entries}
    kept = tuple(entry for entry in old.entries if entry.kind not in fresh)
    data = {"description": "feedback collected after drift", "n": len(rows), "replaces": old.id}
    return replace(old, entries=(*entries, *kept), created=created, data=data)


@dataclass(slots=True)
class Watch:
    """Scores answers like its calibration, while that holds.

    `recalibrate` makes a calibration of the old one and labelled rows (`refit` with the time); None: only
    tell. Kinds without a reference are not watched. `notices` is what to tell the user, oldest first.
    """

    calibration: Calibration
    reference: Mapping[str, Reference]
    rng: np.random.Generator
    recalibrate: Callable[[Calibration, Sequence[Labelled]], Calibration] | None = None
    rows_wanted: int = ROWS_WANTED
    false_alarm_every: int = FALSE_ALARM_EVERY
    notices: list[Notice] = field(default_factory=list)
    alarms: dict[str, Drift] = field(init=False, default_factory=dict)
    _monitors: dict[str, DriftMonitor] = field(init=False, default_factory=dict)
    _stated: dict[str, CalibrationMonitor] = field(init=False, default_factory=dict)
    _rows: dict[str, list[Labelled]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Start watching every kind."""
        for kind, reference in self.reference.items():
            self._start(kind, reference)

    def confidence(self, evidence: Evidence, text: str | None = None) -> Confidence:
        """As `Calibration.confidence`, without a probability where the calibration no longer holds."""
        found = self.calibration.confidence(evidence, text)
        kind = self._kind(evidence, text)
        if kind in self._monitors:
            self._hear(kind, self._monitors[kind].update(evidence))
        if kind in self.alarms:
            return replace(found, p_correct=None, reason=self.alarms[kind].message)
        return found

    def label(self, evidence: Evidence, correct: bool, text: str | None = None) -> Notice | None:
        """Whether an answer was right, from feedback; the notice if that changed something."""
        kind = self._kind(evidence, text)
        if kind is None or kind not in self._monitors:
            return None
        before = len(self.notices)
        if kind in self.alarms:
            self._rows[kind].append(Labelled(evidence, correct, kind))
            if self.recalibrate is not None and len(self._rows[kind]) >= self.rows_wanted:
                self._again(kind)
        else:
            p = self.calibration.apply(evidence, text)
            if p is not None:
                self._hear(kind, self._stated[kind].update(p, correct))
        return self.notices[-1] if len(self.notices) > before else None

    def _kind(self, evidence: Evidence, text: str | None) -> str | None:
        entry = self.calibration.entry(evidence, text)
        return None if entry is None else entry.kind

    def _start(self, kind: str, reference: Reference) -> None:
        # Two monitors per kind share the promise about false alarms.
        every = self.false_alarm_every * 2 * len(self.reference)
        self._monitors[kind] = DriftMonitor(reference, self.rng, every)
        self._stated[kind] = CalibrationMonitor(self.calibration.id, every)
        self._rows[kind] = []
        self.alarms.pop(kind, None)

    def _hear(self, kind: str, drift: Drift | None) -> None:
        if drift is not None and kind not in self.alarms:
            self.alarms[kind] = drift
            self.notices.append(Notice("drifted", f"answers of kind '{kind}': {drift.message}"))

    def _again(self, kind: str) -> None:
        assert self.recalibrate is not None
        rows, old = self._rows[kind], self.calibration.id
        try:
            self.calibration = self.recalibrate(self.calibration, rows)
        except CalibrationError as error:
            self._rows[kind] = []
            self.notices.append(
                Notice("failed", f"answers of kind '{kind}' could not be calibrated again: {error}")
            )
            return
        reference = Reference.of([r.evidence for r in rows], self.rng, calibration_id=self.calibration.id)
        self.notices.append(
            Notice(
                "recalibrated",
                f"answers of kind '{kind}' were calibrated again on {len(rows)} labelled ones: calibration "
                f"{self.calibration.id} replaces {old}",
            )
        )
        self._start(kind, reference)
