"""Measure this runtime and its peers side by side, and write docs/benchmarks.md's tables and picture.

    tools/bench/setup_env.sh ENV --llama-bench
    python tools/bench_engines.py --peer-python ENV/bin/python --llama-bench ENV/bin/llama-bench --out docs

Random checkpoints of the real shapes; every engine in a process of its own, stopped while another is
measured; blocks of one prefill and 64 decode steps in alternation; blocks during which other processes
worked are measured again; medians, and ratios within rounds. The method is described in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.bench import machine, report, stats
from tools.bench.engines import Bench, specs
from tools.bench.prepare import Workspace, bytes_per_token, variant

OURS = (
    "int4:block_size=128,pad_blocks=1",
    "int4:block_size=128,pad_blocks=1,head_bits=4,head_block_size=64",
    "int4",
)
"""Ours that stay below a peer's divergence (`quality.py`): the first, with gptq, below both of llama.cpp's,
the
second, with gptq, below onnxruntime-genai's; and the default. The method does not change the speed."""
SHAPES = ("smollm2-135m", "qwen2.5-0.5b")
PICTURE = "![Decode and prefill rates beside the peers](images/bench_engines.png)\n\n"
PEERS = ("genai", "llama", "transformers")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes", nargs="+", default=list(SHAPES), metavar="SHAPE", help="of tools/make_checkpoint.py"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument(
        "--prompts", nargs="+", type=int, default=[128, 256, 1024], help="prompt lengths in tokens"
    )
    parser.add_argument("--decode", type=int, default=64, help="counted decode steps per block")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--variants",
        nargs="+",
        type=variant,
        default=[variant(v) for v in OURS],
        metavar="SCHEME[:FIELD=VALUE,…]",
    )
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument(
        "--peer-python", type=Path, help="python of the environment made by tools/bench/setup_env.sh"
    )
    parser.add_argument("--llama-bench", type=Path, help="llama.cpp's own benchmark program")
    parser.add_argument(
        "--work", type=Path, default=Path("build/bench"), help="checkpoints, packages and logs (kept)"
    )
    parser.add_argument(
        "--max-others",
        type=float,
        default=0.06,
        metavar="SHARE",
        help="CPU of other processes, as a share of one core, above which a block is measured again; "
        "negative accepts every block",
    )
    parser.add_argument("--attempts", type=int, default=5, help="measurements of one block at most")
    parser.add_argument("--nice", type=int, default=0, help="niceness of the engines")
    parser.add_argument("--no-memory", action="store_true", help="leave out load time and memory")
    parser.add_argument(
        "--reuse", action="store_true", help="take figures from WORK/runs where they are there"
    )
    parser.add_argument(
        "--out", type=Path, help="folder with benchmarks.md; its tables, JSON and picture are replaced"
    )
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace, workspace: Workspace, shape: str, threads: int) -> dict[str, Any]:
    """All figures of one shape at one number of threads."""
    longest = max(args.prompts) + args.decode + 16
    chosen = specs(
        workspace,
        shape,
        threads,
        variants=args.variants,
        peers=args.peers,
        longest=longest,
        llama_bench=args.llama_bench,
        weight_bytes=bytes_per_token,
    )
    names = [s.name for s in chosen]
    vocab = json.loads((workspace.checkpoint(shape) / "config.json").read_text())["vocab_size"]
    # 1. memory and load time, in fresh processes, before anything else is loaded
    bench = Bench(chosen, args.decode, vocab, workspace.folder / "logs", nice=args.nice)
    memory = {} if args.no_memory else {s.name: bench.memory(s, max(args.prompts)) for s in chosen}
    bandwidth = machine.read_bandwidth(threads)
    # 2. speed, in alternation
    with contextlib.closing(bench):
        bench.open()
        for name in names:  # the first pass of an engine pages weights in and grows its buffers
            bench.block(name, 0, args.prompts[0])
        collected = stats.measure(
            names,
            args.prompts,
            args.rounds,
            bench.block,
            max_others=None if args.max_others < 0 else args.max_others,
            attempts=args.attempts,
            on_block=lambda b: print(_progress(shape, threads, b), file=sys.stderr, flush=True),
        )
        facts = {name: fact.get("info", {}) for name, fact in bench.facts.items()}
    # 3. medians and ratios
    prompts = [p for p in args.prompts if collected.of(names[0], p)]
    ours = [s.name for s in chosen if s.group == "ours"]
    peers = [s.name for s in chosen if s.group != "ours"]

    def ratio(mine: str, name: str, what: str) -> dict[str, float | None]:
        return {
            str(p): stats.paired_ratio(collected.of(mine, p), collected.of(name, p), what) for p in prompts
        }

    return {
        "shape": shape,
        "threads": threads,
        "prompts": prompts,
        "decode": args.decode,
        "rounds": args.rounds,
        "order": names,
        "engines": {
            s.name: {
                "group": s.group,
                "evidence": s.evidence,
                "weight_bytes": s.weight_bytes,
                **facts[s.name],
            }
            for s in chosen
        },
        "read_bandwidth": bandwidth,
        "limits": {
            s.name: bandwidth / s.weight_bytes for s in chosen if s.group == "ours" and s.weight_bytes
        },
        "summaries": {
            n: {str(p): asdict(stats.summarise(collected.of(n, p))) for p in prompts} for n in names
        },
        "ratios": {
            mine: {n: {what: ratio(mine, n, what) for what in ("decode", "prefill")} for n in peers}
            for mine in ours
        },
        "memory": memory,
        "blocks": [asdict(b) for b in collected.blocks],
    }


def text_of(run: dict[str, Any]) -> str:
    """One run as Markdown."""
    rejected = sum(not b["accepted"] for b in run["blocks"])
    title = f"### {run['shape']}, {run['threads']} thread{'s' if run['threads'] > 1 else ''}"
    intro = (
        f"Tokens per second; {run['rounds']} rounds of {run['decode']} decode steps; {rejected} of "
        f"{len(run['blocks'])} blocks rejected; memory read bandwidth {run['read_bandwidth'] / 1e9:.1f} GB/s."
    )
    parts = [title, "", intro, "", report.speed_table(run)]
    for mine, ratios in run["ratios"].items():
        if ratios:
            parts += [f"Speed of {mine} divided by that of", "", report.ratio_table(ratios, run["prompts"])]
    if run["memory"]:
        parts += [f"Fresh process, prompt of {max(run['prompts'])} tokens:", "", report.memory_table(run)]
    return "\n".join(parts)


def _progress(shape: str, threads: int, b: stats.Block) -> str:
    others = "" if b.others_cpu is None else f", others {b.others_cpu:.0%}"
    state = "" if b.accepted else " REJECTED"
    rate = len(b.decode_s) / sum(b.decode_s) if b.decode_s else 0.0
    return (
        f"{shape} t{threads} p{b.prompt} round {b.round} {b.engine}: "
        f"prefill {b.prompt / b.prefill_s:.0f} tok/s, decode {rate:.1f} tok/s{others}{state}"
    )


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    workspace = Workspace(args.work, args.peer_python)
    runs = []
    for shape in args.shapes:
        for threads in args.threads:
            saved = args.work / "runs" / f"{shape}-{threads}.json"
            if not (args.reuse and saved.exists()):
                report.save(saved, [measure(args, workspace, shape, threads)], machine.describe())
            runs += json.loads(saved.read_text())["runs"]
    described = machine.describe()
    text = report.machine_line(described) + ".\n\n" + "\n".join(text_of(run) for run in runs)
    print(text)
    if args.out is not None:
        report.save(
            args.out / "benchmarks.json",
            [{k: v for k, v in r.items() if k != "blocks"} for r in runs],
            described,
        )
        report.picture(runs, args.out / "images" / "bench_engines.png")
        report.put_section(args.out / "benchmarks.md", "engines", PICTURE + text)


if __name__ == "__main__":
    main()
