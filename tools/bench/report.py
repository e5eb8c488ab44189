"""Tables, pictures and the page's sections from the figures of a run.

The JSON of a run is the source of all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["machine_line", "memory_table", "picture", "put_section", "ratio_table", "speed_table", "table"]

MIB = 2**20


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers and align right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join([" --- "] + [" ---: "] * (len(head) - 1)) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def machine_line(machine: Mapping[str, Any]) -> str:
    """One sentence about the machine."""
    sets = ", ".join(machine.get("instruction_sets", [])) or "no special instruction sets"
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB of memory" if "memory_bytes" in machine else ""
    cpu = machine.get("cpu", machine["machine"])
    return (
        f"{cpu}, {machine['cores']} cores ({sets}){memory}, {machine['system']}, Python {machine['python']}"
    )


def speed_table(run: Mapping[str, Any]) -> str:
    """Decode and prefill rates of every engine, in tokens per second, one column per prompt length."""
    prompts = run["prompts"]
    head = ["engine", "evidence"]
    head += (
        [f"decode after {p}" for p in prompts]
        + [f"prefill {p}" for p in prompts]
        + [f"ttft {p}, s" for p in prompts]
    )
    rows = []
    for name in run["order"]:
        cells = [run["summaries"][name].get(str(p)) for p in prompts]
        mark = ["*" if c and c["disturbed"] else "" for c in cells]
        row = [name, "yes" if run["engines"][name]["evidence"] else "no"]
        row += [f"{c['decode_tps']:.1f}{m}" if c else "" for c, m in zip(cells, mark, strict=True)]
        row += [f"{c['prefill_tps']:.0f}{m}" if c else "" for c, m in zip(cells, mark, strict=True)]
        row += [f"{c['ttft_s']:.2f}" if c else "" for c in cells]
        rows.append(row)
    for name, limit in run.get("limits", {}).items():
        rows.append([f"memory bandwidth limit, {name}", "", f"{limit:.1f}"] + [""] * (3 * len(prompts) - 1))
    text = table(head, rows)
    if any(c["disturbed"] for per in run["summaries"].values() for c in per.values()):
        text += "\n\\* no block was free of other processes' work; the figure is from disturbed ones.\n"
    return text


def ratio_table(ratios: Mapping[str, Any], prompts: Sequence[int]) -> str:
    """Our speed divided by each peer's: the median of the ratios within rounds, per prompt length."""
    head = ["peer"] + [f"decode after {p}" for p in prompts] + [f"prefill {p}" for p in prompts]
    rows = []
    for name, ratio in ratios.items():
        cells = [ratio[what].get(str(p)) for what in ("decode", "prefill") for p in prompts]
        rows.append([name, *(f"{c:.2f}×" if c is not None else "" for c in cells)])
    return table(head, rows)


def memory_table(run: Mapping[str, Any]) -> str:
    """Load time and memory of fresh processes, in seconds and MiB."""
    rows = []
    for name, m in run["memory"].items():
        mib = [f"{m[key] / MIB:.0f}" if key in m else "" for key in ("peak", "anon", "file")]
        rows.append([name, f"{m['load_s']:.2f}" if "load_s" in m else "", *mib])
    return table(["engine", "load, s", "peak, MiB", "anonymous, MiB", "file-backed, MiB"], rows)


def put_section(page: Path, key: str, text: str) -> None:
    """Replace what stands between `<!-- KEY -->` and `<!-- /KEY -->` in a page.

    Raises:
        ValueError: the page lacks the two marks, or has them more than once.
    """
    old = page.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {re.escape(key)} -->\n).*?(<!-- /{re.escape(key)} -->)", re.DOTALL)
    new, count = pattern.subn(lambda m: f"{m[1]}{text.rstrip()}\n{m[2]}", old)
    if count != 1:
        raise ValueError(f"{page}: expected one section <!-- {key} --> … <!-- /{key} -->, found {count}")
    page.write_text(new, encoding="utf-8")


def picture(runs: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Bars of decode and prefill rates, one row of panels per run (shape and threads), ours in another
    colour.

    Raises:
        ImportError: matplotlib is missing; `pip install 'edge-runtime[plot]'`.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the picture needs matplotlib: pip install 'edge-runtime[plot]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(runs), 2, figsize=(13, 1.0 + 3.6 * len(runs)), squeeze=False, layout="constrained"
    )
    for row, run in zip(axes, runs, strict=True):
        prompt = str(run["prompts"][min(1, len(run["prompts"]) - 1)])
        names = [n for n in run["order"] if prompt in run["summaries"][n]]
        colours = ["#0b7285" if run["engines"][n]["group"] == "ours" else "#adb5bd" for n in names]
        for axis, key, label in zip(row, ("decode_tps", "prefill_tps"), ("decode", "prefill"), strict=True):
            values = [run["summaries"][n][prompt][key] for n in names]
            bars = axis.barh(names, values, color=colours)
            axis.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
            axis.invert_yaxis()
            axis.set_title(
                f"{run['shape']}, {run['threads']} thread(s): {label}, tokens/s (prompt {prompt})", fontsize=9
            )
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
            axis.margins(x=0.12)
            if label == "prefill":
                axis.set_yticklabels([])
        if run.get("limits"):
            (limit_name, limit), *_ = run["limits"].items()
            row[0].axvline(
                limit, color="#e8590c", linestyle="--", linewidth=1, label=f"bandwidth limit, {limit_name}"
            )
            row[0].legend(fontsize=7, loc="lower right")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def save(path: Path, runs: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> None:
    """Write the figures of all runs as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "runs": list(runs)}, indent=1) + "\n", encoding="utf-8")
