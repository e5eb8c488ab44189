"""Pictures of confidences: whether they mean what they say, and what handing over the least sure ones buys.

Knows: arrays and matplotlib (the extra `plot`). Does not know: models, calibrations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import MissingExtraError
from offload.evaluate.reliability import BINS, bins, ece, ece_floor

__all__ = ["deferral", "draw_deferral", "draw_reliability"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

INK, SOFT, SURE, ALARM = "#1f2933", "#9aa5b1", "#0b7285", "#c2410c"


def draw_reliability(
    path: Path, p: Floats, correct: Bools, *, title: str, before: Floats | None = None
) -> None:
    """Share of right answers by stated probability, with the number of answers below.

    Args:
        p: probabilities [n], as calibrated. before: the model's own, drawn beside them.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plt = _pyplot()
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(5.2, 5.6), sharex=True, height_ratios=(4, 1), constrained_layout=True
    )
    top.plot([0, 1], [0, 1], color=SOFT, lw=1, ls=(0, (4, 3)))
    floor = f"(chance alone: {ece_floor(p, redraws=300):.3f})"
    drawn = [("calibrated", p, SURE, f"{ece(p, correct):.3f} {floor}")]
    if before is not None:
        drawn.insert(0, ("uncalibrated", before, ALARM, f"{ece(before, correct):.3f}"))
    for name, stated, colour, error in drawn:
        mean, share, low, high = _binned(stated, correct)
        top.errorbar(
            mean,
            share,
            yerr=[share - low, high - share],
            color=colour,
            marker="o",
            ms=4.5,
            lw=1.4,
            elinewidth=0.8,
            label=f"{name}: calibration error {error}",
        )
    top.set(ylabel="share that was right", xlim=(0, 1), ylim=(-0.02, 1.02))
    top.set_title(title, pad=36)
    top.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8.5)
    edges = np.linspace(0, 1, BINS + 1)
    bottom.hist([p[correct], p[~correct]], edges, stacked=True, color=[SURE, ALARM], label=["right", "wrong"])
    bottom.set(xlabel="stated probability of being right", ylabel="answers")
    bottom.legend(loc="upper center", ncols=2, frameon=False, fontsize=8.5)
    _finish(plt, figure, (top, bottom), path)


def draw_deferral(
    path: Path, p: Floats, correct: Bools, *, title: str, strong_correct: Bools | None = None
) -> None:
    """Accuracy when the least sure answers are handed over, against a perfect and a blind order.

    With `strong_correct` the accuracy is of both models together; without, that of the answers kept.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(5.6, 4.2), constrained_layout=True)
    # The perfect order hands over first what the other model gets right and this one does not.
    gain = (~correct if strong_correct is None else strong_correct).astype(int) - correct
    share = np.arange(len(p) + 1) / len(p)
    if strong_correct is None:
        blind = np.full(len(share), correct.mean())
    else:
        blind = correct.mean() + share * (strong_correct.mean() - correct.mean())
    curves = {
        "best order there is": (deferral(-gain, correct, strong_correct), SOFT, (0, (4, 3))),
        "by confidence": (deferral(p, correct, strong_correct), SURE, "-"),
        "at random": (blind, ALARM, (0, (1, 2))),
    }
    for name, (accuracy, colour, dash) in curves.items():
        axes.plot(100 * share, 100 * accuracy, color=colour, ls=dash, lw=1.8, label=name)
    what = "accuracy of the answers kept" if strong_correct is None else "accuracy of both together"
    axes.set(xlabel="answers handed over, %", ylabel=f"{what}, %", xlim=(0, 100), title=title)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.08), frameon=False, fontsize=9)
    _finish(plt, figure, (axes,), path)


def deferral(confidence: npt.ArrayLike, correct: Bools, strong_correct: Bools | None = None) -> Floats:
    """Accuracy after handing over 0…n answers, the least confident first: float64 [n + 1].

    Without `strong_correct` it is that of the answers kept; the last value, of none, repeats the one before.
    """
    order = np.argsort(np.asarray(confidence, np.float64), kind="stable")
    kept = correct[order].sum() - np.r_[0, np.cumsum(correct[order])]
    n = len(order)
    if strong_correct is not None:
        return np.asarray((kept + np.r_[0, np.cumsum(strong_correct[order])]) / n)
    rest = n - np.arange(n + 1)
    accuracy = kept[:-1] / rest[:-1]
    return np.append(accuracy, accuracy[-1])


def _binned(p: Floats, correct: Bools) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean probability, share right, and its 95 % Wilson interval, per bin that has answers."""
    at = bins(p)
    n = np.bincount(at, minlength=BINS)
    filled = n > 0
    mean = np.bincount(at, p, BINS)[filled] / n[filled]
    share = np.bincount(at, correct, BINS)[filled] / n[filled]
    rows, z = n[filled], 1.96
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * np.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return mean, share, np.minimum(centre - half, share), np.maximum(centre + half, share)


def _finish(plt: Any, figure: Any, axes: tuple[Any, ...], path: Path) -> None:
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
        one.set_axisbelow(True)
        one.title.set_color(INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "drawing pictures") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot
