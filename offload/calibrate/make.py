"""From a selection to the calibration that is written down."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np

from offload.calibrate.selection import Selection
from offload.calibration import Calibration, Fingerprint

__all__ = ["make_calibration"]

REFERENCE_ROWS = 400
"""Rows of a kind whose signals are kept."""


def make_calibration(
    selection: Selection,
    fingerprint: Fingerprint,
    *,
    model_id: str,
    created: datetime,
    data: Mapping[str, Any],
    seed: int = 0,
) -> Calibration:
    """The calibration of a selection, with what watching for drift compares later answers with.

    Args:
        created: an aware time.
        data: what is told of the rows; `n`, `skipped` and `reference` are added.
        seed: which rows' signals are kept as the reference.
    """
    from offload.learn.drift import (
        Reference,
    )  # `offload.learn` makes calibrations anew, so it imports this package

    rng, references = np.random.default_rng(seed), {}
    for kind in selection.kinds:
        evidence = [selection.usable[i].evidence for i in kind.rows]
        samples = Reference.of(evidence, rng, limit=REFERENCE_ROWS).to_dict()["samples"]
        references[kind.kind] = {
            name: [_short(value) for value in values] for name, values in samples.items()
        }
    skipped = sum(selection.skipped.values())
    told = {**data, "n": len(selection.usable) + skipped, "skipped": skipped, "reference": references}
    utc = created.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Calibration(selection.entries, fingerprint, model_id, utc, told)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
