"""`edge-runtime models recommend`: which models fit this device, at which scheme, with the sums shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

import model_zoo
from edge_runtime.cli import output
from model_zoo import files as fs

if TYPE_CHECKING:
    from edge_runtime.device import DeviceProfile
    from model_zoo.recommend import Candidate, Resources

__all__ = ["SIZE", "command"]

_NEAR = 3
"""Models that do not fit and are listed all the same, the nearest ones, without `--all`."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """Bytes with a unit: `4GB` (10⁹), `512MiB` (2²⁰), or a plain number."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMG]?I?)B?\s*", str(value).upper())
        if found is None or found.group(2) not in _UNITS:
            self.fail(f"{value!r} is not a size; write one such as 4GB, 512MiB or 1.5GiB.", param, ctx)
        return int(float(found.group(1)) * _UNITS[found.group(2)])


SIZE = _Size()


@click.command("recommend")
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Tokens of context to reckon with, prompt and answer together; by default 2048, or all a model has.",
)
@click.option(
    "--memory", type=SIZE, help="Memory that a model may take, such as 4GB; by default what is free."
)
@click.option("--board", help="Another board than this device, such as pi5-8gb or orin-nano.")
@click.option("--scheme", help="One scheme only: int4, int8, fp16 or fp32.")
@click.option(
    "--min-speed",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Tokens per second that the memory must allow; expect half of it at best.",
)
@click.option("--all", "everything", is_flag=True, help="List every model, also those far from fitting.")
@output.json_option
def command(
    context: int | None,
    memory: int | None,
    board: str | None,
    scheme: str | None,
    min_speed: float,
    everything: bool,
    as_json: bool,
) -> None:
    """Recommend models that fit this device.

    Memory needed is weights + KV cache of the context + runtime, and every part is shown. The speed is what
    the board's memory bandwidth allows at most, each token reading all weights once; it is told for boards
    whose bandwidth is known, and what is reached is less.
    """
    from edge_runtime.registries import configured_registries
    from model_zoo.footprint import SCHEMES
    from model_zoo.recommend import DEFAULT_CONTEXT, recommend

    if scheme is not None and scheme not in SCHEMES:
        raise click.BadParameter(f"{scheme!r} is none of {', '.join(SCHEMES)}.", param_hint="--scheme")
    registries = configured_registries(output.current_config())
    described, resources, profile = _resources(board, memory)
    found = recommend(registries.entries(), resources, context=context, scheme=scheme, min_speed=min_speed)
    chosen = next((c for c in found if c.verdict == "fits" and "chat" in c.entry.tasks), None)
    if as_json:
        output.emit_json(
            {
                "device": None if profile is None else profile.to_json(),
                "described": described,
                "memory_bytes": resources.memory,
                "disk_bytes": resources.disk,
                "bandwidth_bytes_per_s": resources.bandwidth,
                "context": context,
                "recommended": None if chosen is None else chosen.entry.id,
                "scheme": None if chosen is None else chosen.scheme,
                "command": None if chosen is None else _command(chosen),
                "candidates": [candidate.to_json() for candidate in found],
                "notices": list(registries.notices),
            }
        )
        return
    click.echo(described)
    tokens = f"{DEFAULT_CONTEXT:,} tokens (or all a model has)" if context is None else f"{context:,} tokens"
    click.echo(f"Memory needed, in MiB: weights + KV cache of {tokens} + runtime.\n")
    fitting = [c for c in found if c.verdict == "fits"]
    others = [c for c in found if c.verdict != "fits"]
    shown = others if everything else others[:_NEAR]
    installed = {e.manifest.id for e in model_zoo.list_packages() if e.manifest is not None}
    columns = ("model", "scheme", "weights", "KV", "runtime", "memory", "tokens/s", "verdict")
    output.print_table(columns, [_row(c, installed, min_speed) for c in (*fitting, *shown)])
    if len(shown) < len(others):
        click.echo(f"({len(others) - len(shown)} more that do not fit: --all lists them)")
    click.echo()
    click.echo(_advice(chosen, fitting, resources, installed, min_speed))
    for notice in registries.notices:
        output.status(notice)


# --- the device ---------------------------------------------------------------------------------------------


def _resources(board: str | None, memory: int | None) -> tuple[str, Resources, DeviceProfile | None]:
    """A line about the device, what it offers, and its profile (`None` for a board that is not here)."""
    from edge_runtime.device import probe
    from model_zoo.boards import board_named, usual_memory
    from model_zoo.recommend import Resources

    if board is not None:
        kind, size = board_named(board)
        least = " (the least it is sold with)" if len(kind.memory_gib) > 1 and board == kind.name else ""
        if memory is None:
            free = usual_memory(size)
            text = f"about {fs.human_size(free)} of memory for programs when no desktop runs"
        else:
            free, text = memory, f"{fs.human_size(memory)} of memory, as given"
        return f"{kind.title} with {size:g} GB{least}: {text}", Resources(free, None, kind.bandwidth), None
    profile = probe(disk=model_zoo.models_dir())
    usable = profile.memory_available if memory is None else memory
    if usable is None:
        raise click.UsageError(
            "this system does not tell its free memory; give it with --memory, such as 4GB."
        )
    cores = f"{profile.cores} cores" + (f" ({profile.cpu})" if profile.cpu else "")
    parts = [profile.model or f"this device ({profile.machine})", cores]
    limit = profile.memory_limit
    tight = memory is None and limit is not None and limit < (profile.memory_total or limit + 1)
    parts.append(
        f"{fs.human_size(usable)} of memory "
        + ("as given" if memory is not None else "available")
        + (f" (a control group allows {fs.human_size(limit)} in all)" if tight and limit is not None else "")
    )
    if profile.disk_free is not None:
        parts.append(f"{fs.human_size(profile.disk_free)} of disk free at {profile.disk_path}")
    if profile.bits == 32:
        output.status("this program is 32-bit: onnxruntime has no 32-bit builds; install a 64-bit system.")
    kind_here = profile.kind
    bandwidth = None if kind_here is None else kind_here.bandwidth
    return " · ".join(parts), Resources(usable, profile.disk_free, bandwidth), profile


# --- the table ----------------------------------------------------------------------------------------------


def _row(candidate: Candidate, installed: set[str], min_speed: float) -> tuple[str, ...]:
    parts = (candidate.weights, candidate.kv, candidate.runtime, candidate.memory)
    speed = "-" if candidate.max_speed is None else f"≤ {_significant(candidate.max_speed)}"
    return (
        candidate.entry.id,
        candidate.scheme,
        *(f"{_mib(count):,}" for count in parts),
        speed,
        _verdict(candidate, installed, min_speed),
    )


def _verdict(candidate: Candidate, installed: set[str], min_speed: float) -> str:
    from model_zoo.recommend import longest_context

    entry = candidate.entry
    if candidate.verdict == "context":
        return f"no: {longest_context(entry):,} tokens of context"
    if candidate.verdict == "memory":
        return f"no: {_mib(-candidate.spare_memory):,} short"
    if candidate.verdict == "disk":
        return f"no: {_mib(-(candidate.spare_disk or 0)):,} of disk short"
    if candidate.verdict == "slow":
        return f"slow: below {min_speed:g} tokens/s"
    notes = [f"{candidate.verdict}, {_mib(candidate.spare_memory):,} left"]
    if entry.id in installed:
        notes.append("shipped" if entry.shipped else "installed")
    if entry.gated:
        notes.append("gated")
    if "chat" not in entry.tasks:
        notes.append("own tasks")
    return ", ".join(notes)


def _mib(count: int) -> int:
    return round(count / (1 << 20))


def _significant(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


# --- the advice ---------------------------------------------------------------------------------------------


def _advice(
    chosen: Candidate | None,
    fitting: list[Candidate],
    resources: Resources,
    installed: set[str],
    min_speed: float,
) -> str:
    if chosen is None:
        own = [c.entry.id for c in fitting if c.entry.shipped]
        rest = f" What is shipped fits, for its own tasks: edge-runtime run --model {own[0]}" if own else ""
        return f"No chat model fits with room to spare. A shorter --context needs less memory.{rest}"
    speed = (
        "" if chosen.max_speed is None else f" and whose bound on the speed is {min_speed:g} tokens/s or more"
    )
    why = f"Recommended: {chosen.entry.id} at {chosen.scheme}, the largest chat model that fits{speed}."
    if chosen.scheme == "int8" and 2 * chosen.memory <= resources.memory:
        why += " At 8 bits it still leaves half of the memory free, and 8 bits change its answers least."
    gated = [
        c.entry.id
        for c in fitting
        if c.entry.gated and c.entry.parameters > chosen.entry.parameters and "chat" in c.entry.tasks
    ]
    if gated and not chosen.entry.gated:
        why += f" Larger ones fit as well, but their licence has to be accepted first: {', '.join(gated)}."
    if chosen.entry.gated:
        why += f" Its licence ({chosen.entry.licence}) has to be accepted on the hub first."
    if chosen.entry.id in installed:
        return f"{why} It is installed.\n\n  edge-runtime run --model {chosen.entry.id}"
    if chosen.disk:
        download, disk = fs.human_size(chosen.download), fs.human_size(chosen.disk)
        why += f" Pulling it downloads {download} and takes {disk} of disk on the way."
    return f"{why}\n\n  {_command(chosen)}"


def _command(candidate: Candidate) -> str:
    entry = candidate.entry
    if entry.shipped is not None:
        return f"edge-runtime run --model {entry.id}"
    longer = f" --context {candidate.context}" if candidate.longer else ""
    return f"edge-runtime models pull {entry.id} --scheme {candidate.scheme}{longer}"
