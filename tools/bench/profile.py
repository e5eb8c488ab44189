"""Where a decode step and a prefill spend their time: onnxruntime's profile of a package, by kind of
operator.

    python -m tools.bench.profile PACKAGE [PACKAGE …] --threads 2 --out docs

The profiler itself costs a few microseconds per operator (a step of SmolLM2-135M takes twice as long under
it), so that small operators look dearer than they are: read the order, not the sum.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench import report


@dataclass(frozen=True, slots=True)
class Share:
    """All operators of one kind: how many, and the sum over them of the 10th percentile of their time,
    seconds.
    """

    kind: str
    nodes: int
    seconds: float


def shares(events: Iterable[Mapping[str, Any]], passes: int) -> list[Share]:
    """Sum up a profile over the last `passes` forward passes, the dearest kind first.

    `events` are those of onnxruntime's profile (Chrome trace format, durations in microseconds). The 10th
    percentile of each operator leaves out what other processes disturbed.
    """
    times: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times[name].append(event["dur"] / 1e6)
            kinds[name] = kind_of(name, event["args"]["op_name"])
    total: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for name, durations in times.items():
        total[kinds[name]] += float(np.percentile(durations[-passes:], 10))
        count[kinds[name]] += 1
    return sorted((Share(k, count[k], s) for k, s in total.items()), key=lambda share: -share.seconds)


def kind_of(name: str, operator: str) -> str:
    """Operators of the evidence are one kind; matrix products are told apart by their place in a layer."""
    if "tail" in name or name.strip("/") in ("topk_logits", "topk_ids", "lse", "entropy"):
        return "evidence"
    if operator.startswith("MatMul"):
        return f"{operator} {re.sub(r'^/?layers/[0-9]+/', '', name).strip('/').replace('/', '.')}"
    return operator


def profile(package: Path, threads: int, prompt: int, steps: int) -> tuple[list[Share], list[Share]]:
    """(of a decode step behind a prompt of that length, of a prefill of it)."""
    from edge_runtime import ort

    onnxruntime = ort.load()
    options = json.loads((package / "manifest.json").read_text())["engine_options"]
    kv = [
        (
            f"{layer}.{part}",
            np.zeros((1, options["kv_heads"], prompt + steps, options["head_dim"]), np.float32),
        )
        for layer in range(options["layers"])
        for part in ("key", "value")
    ]
    ids = [int(i) for i in np.random.default_rng(0).integers(3, 1000, prompt)]

    def run(passes: Sequence[tuple[list[int], int]]) -> list[Share]:
        with tempfile.TemporaryDirectory(prefix="edge-profile-") as folder:
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = threads
            settings.log_severity_level = 3
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / "profile")
            path = str(package / "model.onnx")
            session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
            for tokens, total in passes:
                _feed(session, kv, tokens, total)
            events = json.loads(Path(session.end_profiling()).read_text())
        return shares(events, steps)

    decode = run([(ids, prompt), *(([7], prompt + i + 1) for i in range(steps))])
    return decode, run([(ids, prompt)] * steps)


def _feed(session: Any, kv: Sequence[tuple[str, Any]], tokens: list[int], total: int) -> None:
    binding = session.io_binding()
    inputs = {
        "input_ids": np.array([tokens], np.int64),
        "seqlens_k": np.array([total - 1], np.int32),
        "total_sequence_length": np.array(total, np.int32),
        "num_logits": np.array([1], np.int64),
    }
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    for name, array in kv:
        where = ("cpu", 0, np.float32, list(array.shape), array.ctypes.data)
        binding.bind_input(f"past_key_values.{name}", *where)
        binding.bind_output(f"present.{name}", *where)
    for name in ("topk_logits", "topk_ids", "lse", "entropy"):
        binding.bind_output(name)
    session.run_with_iobinding(binding)


def text_of(title: str, found: Sequence[Share], smallest: float = 0.01) -> str:
    """One profile as Markdown; kinds below a share of `smallest` are summed up."""
    total = sum(share.seconds for share in found)
    rows = [
        (s.kind, str(s.nodes), f"{s.seconds / s.nodes * 1e6:.1f}", f"{s.seconds / total:.1%}")
        for s in found
        if s.seconds >= smallest * total
    ]
    rest = [s for s in found if s.seconds < smallest * total]
    if rest:
        nodes, seconds = sum(s.nodes for s in rest), sum(s.seconds for s in rest)
        rows.append(("all others", str(nodes), f"{seconds / nodes * 1e6:.1f}", f"{seconds / total:.1%}"))
    head = ["operator", "count", "µs each", "share"]
    return f"### {title}: {total * 1e3:.2f} ms\n\n{report.table(head, rows)}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--out", type=Path, help="folder with benchmarks.md, whose section is replaced")
    args = parser.parse_args(arguments)
    parts = []
    for package in args.packages:
        decode, prefill = profile(package, args.threads, args.prompt, args.steps)
        where = f"{package.name}, {args.threads} threads"
        parts.append(text_of(f"{where}, one decode step behind {args.prompt} tokens", decode))
        parts.append(text_of(f"{where}, prefill of {args.prompt} tokens", prefill))
    text = "\n".join(parts)
    print(text)
    if args.out is not None:
        report.put_section(args.out / "benchmarks.md", "profile", text)


if __name__ == "__main__":
    sys.exit(main())
