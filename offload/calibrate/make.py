"""From a selection to the calibration that is written down."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np

from offload.calibrate.select import Selection
from offload.calibration import Calibration, Fingerprint
from offload.learn.drift import Reference

__all__ = ["make_calibration"]


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
    evidence = [row.evidence for row in selection.usable]
    samples = Reference.of(evidence, np.random.default_rng(seed)).to_dict()["samples"]
    skipped = sum(selection.skipped.values())
    told = {
        **data,
        "n": len(evidence) + skipped,
        "skipped": skipped,
        "reference": {name: [_short(value) for value in values] for name, values in samples.items()},
    }
    utc = created.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Calibration(selection.entries, fingerprint, model_id, utc, told)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
