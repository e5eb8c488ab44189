"""`edge-runtime bench`: how fast a package runs on this machine, and how much memory it takes."""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.options import model_options, open_model
from edge_runtime.cli.output import emit_json, json_option, print_table, progress
from edge_runtime.memory import read_memory

if TYPE_CHECKING:
    from edge_runtime.engines.base import Engine

__all__ = ["Speed", "command", "machine", "measure", "steps_of"]

PROMPT_SIZES = (256, 1024)
DECODE_PROMPT = 32
"""Tokens of prompt before the measured decoding."""


@dataclass(frozen=True)
class Speed:
    """Medians over the runs. Speeds are tokens/s, `ttft_s` seconds from the prompt to the first token.

    `prefill` and `ttft_s` are by the number of prompt tokens. `decode_runs` holds the single runs. Every
    figure includes computing the evidence of each token.
    """

    decode: float
    decode_runs: tuple[float, ...]
    decode_tokens: int
    prefill: Mapping[int, float] = field(default_factory=dict)
    ttft_s: Mapping[int, float] = field(default_factory=dict)


def measure(
    engine: Engine,
    *,
    runs: int = 5,
    tokens: int = 64,
    prompt_sizes: Sequence[int] = PROMPT_SIZES,
    clock: Callable[[], float] = time.perf_counter,
    step: Callable[[str], None] = lambda label: None,
    seed: int = 0,
) -> Speed:
    """Measure decoding and prefill at batch 1 (docs/benchmarks.md defines them), after a warm-up run of each.

    Args:
        engine: a loaded model.
        runs, tokens: measured runs, and tokens decoded in each; fewer tokens when the context is shorter.
        prompt_sizes: tokens per prompt; those that exceed the context are left out.
        clock: seconds.
        step: told what was just measured, once per run.
        seed: of the random prompt tokens.
    """
    from edge_runtime.sampling import SamplingParams
    from edge_runtime.tokens import generate_tokens

    info, rng = engine.info, random.Random(seed)

    def once(prompt_size: int, count: int) -> tuple[float, float, float]:
        """(prefill seconds, seconds to the first token, decode tokens/s)"""
        prompt = [rng.randrange(info.vocab_size) for _ in range(prompt_size)]
        params = SamplingParams(max_tokens=count, ignore_eos=True)
        sequence = engine.new_sequence()
        try:
            stream = generate_tokens(sequence, prompt, params, info=info, clock=clock)
            start = clock()
            next(stream)
            first = clock()
            made = sum(1 for _ in stream)
            rate = made / (clock() - first) if made else 0.0
            return stream.prefill_s or first - start, first - start, rate
        finally:
            sequence.close()

    # 1 decode
    prompt_size = min(DECODE_PROMPT, info.context_length // 2)
    count = min(tokens, info.context_length - prompt_size - 1)
    rates = []
    for run in range(runs + 1):
        rate = once(prompt_size, count + 1)[2]
        step("decode")
        if run:
            rates.append(rate)
    # 2 prefill
    prefill, ttft = {}, {}
    for size in [size for size in prompt_sizes if size < info.context_length] or [info.context_length - 1]:
        times = []
        for _ in range(runs + 1):
            times.append(once(size, 1)[:2])
            step(f"prefill {size}")
        prefill[size] = size / statistics.median(seconds for seconds, _ in times[1:])
        ttft[size] = statistics.median(seconds for _, seconds in times[1:])
    return Speed(statistics.median(rates), tuple(rates), count, prefill, ttft)


def steps_of(context_length: int, runs: int, prompt_sizes: Sequence[int] = PROMPT_SIZES) -> int:
    """How often `measure` calls `step`."""
    return (runs + 1) * (1 + (sum(size < context_length for size in prompt_sizes) or 1))


def _warm(folder: Path) -> None:
    """Read the package's files once, so that the load that is timed finds them in the file cache."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass


def machine(proc: Path = Path("/proc")) -> dict[str, Any]:
    """What was measured on: the board's own name (Raspberry Pi, Jetson) where it has one, the processor's.

    Args:
        proc: the process file system; without one, as outside Linux, Python's own knowledge has to do.
    """
    named = [line for line in _text(proc / "cpuinfo").splitlines() if line.startswith("model name")]
    processor = named[0].partition(":")[2].strip() if named else platform.processor() or platform.machine()
    return {
        "board": _text(proc / "device-tree" / "model").strip("\0\n ") or None,
        "processor": processor,
        "architecture": platform.machine(),
        "logical_cpus": os.cpu_count(),
    }


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


@click.command("bench")
@model_options
@click.option(
    "--runs", type=click.IntRange(1), default=5, help="Measured runs of each kind; their median is reported."
)
@click.option("--tokens", type=click.IntRange(2), default=64, help="Tokens decoded per run.")
@json_option
def command(model: str, threads: int | None, runs: int, tokens: int, as_json: bool) -> None:
    """Measure a model's speed and memory on this machine.

    Decode and prefill at batch 1, each the median of several runs after a warm-up; every figure includes
    computing the evidence. Loading is timed with the files in the file cache and includes verifying them.
    """
    from model_zoo import open_package

    _warm(open_package(model).path)
    start = time.perf_counter()
    loaded = open_model(model, threads)
    load_s = time.perf_counter() - start
    try:
        engine = loaded.engine
        with progress("warm-up", total=steps_of(engine.info.context_length, runs)) as advance:
            speed = measure(engine, runs=runs, tokens=tokens, step=lambda label: advance(1, label=label))
        memory, info = read_memory(), engine.info
    finally:
        loaded.close()
    if as_json:
        facts = {"engine": info.name, "model_id": info.model_id, "threads": info.threads}
        emit_json(
            {**facts, "load_s": load_s, **asdict(speed), "memory_mib": asdict(memory), "machine": machine()}
        )
        return
    rows: list[tuple[str, str]] = [
        ("decode", f"{speed.decode:,.1f} tokens/s (median of {runs} runs of {speed.decode_tokens} tokens)"),
        *((f"prefill, {size} tokens", f"{rate:,.1f} tokens/s") for size, rate in speed.prefill.items()),
        *((f"first token after {size}", f"{1000 * s:,.1f} ms") for size, s in speed.ttft_s.items()),
        ("load", f"{1000 * load_s:,.0f} ms"),
        ("memory, peak", _mib(memory.peak)),
        ("memory, anonymous now", _mib(memory.anonymous)),
        ("memory, file-backed now", _mib(memory.file)),
    ]
    print_table(("measure", "value"), rows, title=f"{info.model_id}: {info.name}, {info.threads} thread(s)")


def _mib(value: float | None) -> str:
    return "not told by this system" if value is None else f"{value:,.1f} MiB"
