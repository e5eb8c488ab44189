"""Figures of docs/router.md on generated queries: `python -m tools.router_figures [--write]`.

Two tables, both seeded: how often a promise about wrong answers is broken and how much it keeps, on
populations whose true risk is known; and what pacing makes of a budget. `--write` puts them between the
markers in the page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import click
import numpy as np
import numpy.typing as npt

from offload.budget import Pacer, released
from offload.guarantee import selective
from offload.rolling import RollingShare

PAGE = Path(__file__).resolve().parent.parent / "docs" / "router.md"
DRAWS = 500
DELTA = 0.1
LOWEST = 0.3

POPULATIONS = [(300, 0.2, 0.0), (600, 0.1, 0.0), (600, 0.1, 0.03), (600, 0.2, 0.06), (2000, 0.1, 0.03)]
"""(labelled rows, α, how often even the surest answers are wrong) of the first table."""

Floats = npt.NDArray[np.float64]


def draw(rng: np.random.Generator, n: int) -> Floats:
    """Confidences of n queries, from `LOWEST` to 1."""
    return 1 - (1 - LOWEST) * rng.random(n) ** 1.5


def promise(n: int, alpha: float, top: float, starts: int, seed: int = 0) -> tuple[float, float, float]:
    """(share of draws whose promise is broken, share that certify nothing, mean coverage).

    An answer of confidence c is right with probability min(c, 1 − top): `top` is how often even the surest
    fail.
    """
    rng = np.random.default_rng(seed)
    c = -np.sort(-draw(rng, 400_000))
    risk = np.cumsum(np.maximum(1 - c, top)) / np.arange(1, len(c) + 1)
    broken, nothing, kept = 0, 0, 0.0
    for _ in range(DRAWS):
        sample = draw(rng, n)
        right = rng.random(n) < np.minimum(sample, 1 - top)
        found = selective(sample, right, alpha, DELTA, starts=starts)
        if found.threshold is None:
            nothing += 1
            continue
        k = int(np.searchsorted(-c, -found.threshold, side="right"))
        broken += bool(k and risk[k - 1] > alpha)
        kept += k / len(c)
    return broken / DRAWS, nothing / DRAWS, kept / DRAWS


def stream(how: str, share: float, window: int, n: int = 6000, seed: int = 0) -> tuple[float, float, float]:
    """(share escalated, hardest 5 % that were escalated, gain as a share of the hindsight's best).

    Gains are uniform from 0 to 1, and every hundredth stretch of 30 queries is twice as hard.
    """
    rng = np.random.default_rng(seed)
    gains = rng.random(n)
    for begin in range(600, n, 600):
        gains[begin : begin + 30] = gains[begin : begin + 30] ** 0.5
    budget, pacer, done = RollingShare(share, window), Pacer(), np.zeros(n, bool)
    for i, gain in enumerate(gains):
        if how == "paced":
            room = released(budget.left(), budget.limit, (budget.seen + 1) / window)
            least = pacer.least_gain(share, room, budget.limit)
        else:
            least = 1 - share if how == "fixed threshold" else 0.1
        pacer.observe(float(gain))
        done[i] = gain >= least and budget.left() >= 1
        budget.record(bool(done[i]))
    late = slice(500, None)
    gains, done = gains[late], done[late]
    best = np.sort(gains)[-int(share * len(gains)) :].sum()
    hard = gains >= np.quantile(gains, 0.95)
    return float(done.mean()), float(done[hard].mean()), float(gains[done].sum() / best)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def promises() -> str:
    """The first table."""
    rows = []
    for n, alpha, top in POPULATIONS:
        cells = []
        for starts in (1, 4):
            broken, nothing, kept = promise(n, alpha, top, starts)
            cells += [f"{broken:.1%}", f"{nothing:.0%}", f"{kept:.1%}"]
        rows.append([str(n), f"{alpha:g}", f"{top:.0%}", *cells])
    each = ["broken", "nothing", "kept"]
    head = [
        "rows",
        "α",
        "surest wrong",
        *(f"{name}, {how}" for how in ("plain", "4 starts") for name in each),
    ]
    return table(head, rows)


def pacing() -> str:
    """The second table."""
    rows = []
    for share, window in ((0.1, 100), (0.2, 100), (0.2, 500)):
        for how in ("paced", "fixed threshold", "first come, first served"):
            spent, hard, gain = stream(how, share, window)
            rows.append([f"{share:.0%} of any {window}", how, f"{spent:.1%}", f"{hard:.1%}", f"{gain:.1%}"])
    return table(["budget", "how", "escalated", "hardest 5 % escalated", "gain of the best possible"], rows)


@click.command()
@click.option("--write", is_flag=True, help="Put the tables into docs/router.md.")
def main(write: bool) -> None:
    """Print the tables."""
    found = {"promises": promises(), "pacing": pacing()}
    for name, text in found.items():
        print(f"{name}\n\n{text}\n")
    if write:
        page = PAGE.read_text(encoding="utf-8")
        for name, text in found.items():
            pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            page = pattern.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
