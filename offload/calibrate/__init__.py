"""Making a calibration from labelled answers: fits, and the choice among them by cross-validation.

Knows: evidence, labels, kinds of answers. Does not know: models, files of rows, where a calibration is kept.
Fitting tree combiners needs the extra `learn`; all else, and applying any of them, needs numpy alone.
"""

from offload.calibrate.fit import (
    fit_isotonic,
    fit_logistic,
    fit_platt,
    fit_temperature,
    fit_trees,
    has_scikit_learn,
)
from offload.calibrate.make import make_calibration
from offload.calibrate.selection import Candidate, KindFit, Labelled, Selection, choose, select

__all__ = [
    "Candidate",
    "KindFit",
    "Labelled",
    "Selection",
    "choose",
    "fit_isotonic",
    "fit_logistic",
    "fit_platt",
    "fit_temperature",
    "fit_trees",
    "has_scikit_learn",
    "make_calibration",
    "select",
]
