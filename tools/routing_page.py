"""Tables and pictures of docs/routing.md from the figures in docs/routing.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bench.report import put_section, table

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "routing.md"

Figure = Mapping[str, Any]
INK = ("#1f5fa8", "#c8541b", "#2a8a57", "#8a4fb0", "#b58a00", "#6b6b6b")

TITLES = {
    "gsm8k": "GSM8K: Mixtral-8x7B and GPT-4",
    "mmlu": "MMLU: Mixtral-8x7B and GPT-4",
    "hwu64": "hwu64 frames: pocket and pocket-cloud",
    "ha_intents": "Home Assistant frames: pocket and pocket-cloud",
    "problems": "Word problems: pocket and pocket-cloud",
}


def write_page(held: Figure, page: Path = PAGE) -> None:
    """Replace the page's sections of the pieces that have been measured, and draw their pictures."""
    images = page.parent / "images"
    for name in ("gsm8k", "mmlu"):
        if name in held:
            put_section(page, f"routing: {name}", routed(held[name]))
    if "gsm8k" in held and "mmlu" in held:
        draw_curves({name: held[name] for name in ("mmlu", "gsm8k")}, images / "routing.png")
    if "llama13b" in held:
        put_section(page, "routing: llama13b", promised(held["llama13b"]))
        draw_promises(held["llama13b"], images / "routing_guarantee.png")
    if "pair" in held:
        parts = [f"### {suite}\n\n{routed(part)}" for suite, part in held["pair"].items()]
        put_section(
            page, "routing: pair", "\n".join(parts) + "\n![Deferral curves](images/routing_pair.png)\n"
        )
        draw_curves(held["pair"], images / "routing_pair.png")


def routed(piece: Figure) -> str:
    """Two tables: the areas and prices of each line, and what is gained at fixed fractions."""
    head = ["order by", "APGR", "CPT 50 %", "CPT 80 %", "CPT 95 %", "AUROC"]
    rows = [["random", "0.500", "50.0 %", "80.0 %", "95.0 %", "0.500"]]
    rows += [
        [
            name,
            interval(line["metrics"].get("apgr")),
            *(percent(line["metrics"].get(f"cpt_{x}")) for x in (50, 80, 95)),
            plain(line["metrics"].get("auroc")),
        ]
        for name, line in piece["lines"].items()
    ]
    apgr = piece.get("oracle_apgr")
    rows.append(["oracle", "–" if apgr is None else f"{apgr:.3f}", "", "", "", ""])
    text = (
        f"{piece['n']} rows; weak model right on {100 * piece['weak']:.1f} %, "
        f"strong model on {100 * piece['strong']:.1f} %.\n\n" + table(head, rows)
    )
    fractions = (10, 20, 30, 40, 50)
    gains = [
        [
            name,
            *(f"{number(line, f'pgr_{x}')} ({number(line, f'oracle_share_{x}')})" for x in fractions),
        ]
        for name, line in piece["lines"].items()
    ]
    gains.insert(0, ["random", *(f"{x / 100:.2f}" for x in fractions)])
    text += "\nPGR at the escalated fraction, and in brackets the share of the oracle's gain there:\n\n"
    text += table(["order by", *(f"{x} %" for x in fractions)], gains)
    stated = [
        [name, *(plain(line["calibration"][key]) for key in ("ece", "ece_floor", "ece_excess", "brier"))]
        for name, line in piece["lines"].items()
        if "calibration" in line
    ]
    if stated:
        text += "\nP(weak model right) as a probability:\n\n"
        text += table(["probability", "ECE", "noise floor", "excess", "Brier"], stated)
    return text


def promised(piece: Figure) -> str:
    rows = [
        [name, *(plain(found[key]) for key in ("ece", "ece_floor", "ece_excess", "brier"))]
        for name, found in piece["calibration"].items()
    ]
    text = (
        f"{piece['n']} rows; right on {100 * piece['accuracy']:.1f} %; "
        f"AUROC of the largest probability {piece['auroc']:.3f}.\n\n"
    )
    text += table(["probability", "ECE", "noise floor", "excess", "Brier"], rows)
    rows = [
        [
            alpha,
            f"{100 * found['certified']:.1f} %",
            f"{100 * found['coverage']:.1f} %",
            f"{found['risk']:.3f}",
            f"{100 * found['violations']:.1f} %",
        ]
        for alpha, found in piece["guarantee"].items()
    ]
    text += "\nAt most α wrong among the answers kept, with confidence 90 %; "
    text += f"{next(iter(piece['guarantee'].values()))['splits']} random halves:\n\n"
    head = ["α", "splits with a promise", "kept, mean", "wrong among kept, mean", "splits above α"]
    return text + table(head, rows)


def interval(metric: Figure | None) -> str:
    return "–" if not metric else f"{metric['value']:.3f} ({metric['low']:.3f}–{metric['high']:.3f})"


def percent(metric: Figure | None) -> str:
    return "–" if not metric else f"{100 * metric['value']:.1f} %"


def plain(metric: Figure | None) -> str:
    return "–" if not metric or metric["value"] is None else f"{metric['value']:.3f}"


def number(line: Figure, name: str) -> str:
    metric = line["metrics"].get(name)
    return "–" if not metric else f"{metric['value']:.2f}"


def draw_curves(pieces: Mapping[str, Figure], out: Path) -> None:
    """Accuracy over the escalated fraction, one panel per set."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(pieces), figsize=(4.6 * len(pieces), 3.9), squeeze=False)
    for ax, (name, piece) in zip(axes[0], pieces.items(), strict=True):
        fractions = [i / 100 for i in range(101)]
        ax.plot(fractions, piece["oracle"], color="#999999", lw=1, ls=":", label="oracle")
        ax.plot([0, 1], [piece["weak"], piece["strong"]], color="#999999", lw=1, ls="--", label="random")
        for color, (label, line) in zip(INK * 2, piece["lines"].items(), strict=False):
            ax.plot(fractions, line["curve"], color=color, lw=1.6, label=label)
        ax.set_title(TITLES.get(name, name), fontsize=10)
        ax.set_xlabel("escalated fraction")
        ax.set_ylabel("share right")
        ax.set_xlim(0, 1)
        ax.grid(alpha=0.25)
        ax.legend(fontsize=7, loc="lower right", framealpha=0.9)
    _save(plt, figure, out)


def draw_promises(piece: Figure, out: Path) -> None:
    """Reliability before and after, and what the promise keeps."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.9))
    left.plot([0, 1], [0, 1], color="#999999", lw=1, ls="--")
    for color, (name, points) in zip(INK, piece["reliability"].items(), strict=False):
        left.plot(*_xy(points), color=color, lw=1.4, marker="o", ms=4, label=name)
    left.set(xlabel="stated probability", ylabel="share right", xlim=(0.2, 1), ylim=(0, 1))
    left.set_title("LLaMA-13B on MMLU, tenths of the rows", fontsize=10)
    left.legend(fontsize=8)
    alphas = list(piece["guarantee"])
    places = range(len(alphas))
    kept = [100 * piece["guarantee"][a]["coverage"] for a in alphas]
    broken = [100 * piece["guarantee"][a]["violations"] for a in alphas]
    right.bar([p - 0.18 for p in places], kept, 0.34, color=INK[0], label="answers kept")
    right.bar([p + 0.18 for p in places], broken, 0.34, color=INK[1], label="splits above α")
    right.axhline(10, color=INK[1], lw=1, ls="--", label="allowed: δ = 10 %")
    right.set_xticks(list(places), [f"α = {a}" for a in alphas])
    right.set_ylabel("%")
    right.set_title("500 random halves: certify on one, look at the other", fontsize=10)
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.grid(alpha=0.25)
    _save(plt, figure, out)


def _xy(points: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(plt: Any, figure: Any, out: Path) -> None:
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    # No date in the file: the same figures make the same picture.
    figure.savefig(out, dpi=130, metadata={"Software": None})
    plt.close(figure)
