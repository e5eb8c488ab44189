"""What the schemes of this runtime and of llama.cpp cost on one trained checkpoint: KL against float32.

    python -m tools.bench.quality CHECKPOINT --text FILE --peer-python ENV/bin/python --out docs

Speed may only be compared at equal or lower KL, and random weights cannot rank schemes, so this takes a
checkpoint that was trained. Our packages run in the engine as they are, int8 arithmetic included. A GGUF is
made by llama.cpp's own quantizer, read back with the `gguf` package, and its weights run in float32: that
leaves out what llama.cpp loses by quantizing activations, and so favours it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.bench import report
from tools.bench.prepare import ROOT, Variant, variant

CALIBRATION = 8192
"""Tokens of the calibration text."""
GGUF_TYPES = ("Q4_0", "Q4_K_M", "Q8_0")
OURS = (
    "int4",
    "int4:block_size=32",
    "int4:block_size=128",
    "int4:method=gptq",
    "int4:block_size=128,method=gptq",
    "int4:block_size=128,method=gptq,head_bits=4,head_block_size=64",
    "int8",
)
GENAI = variant("int4:block_size=32,method=rtn,head_bits=4,head_block_size=32")
"""What onnxruntime-genai makes by default: the same scales, and codes that differ only where a weight
lies half-way between two (0.3 % of random weights)."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a trained Llama or Qwen2 checkpoint in HF's layout")
    parser.add_argument(
        "--text", type=Path, required=True, help="text like the model's own, one example per line"
    )
    parser.add_argument("--calibration-text", type=Path, help="for gptq; default: the model's own text")
    parser.add_argument("--tokens", type=int, default=16384, help="how much of it to score")
    parser.add_argument("--variants", nargs="+", type=variant, default=[variant(v) for v in OURS])
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder with benchmarks.md, whose section is replaced")
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Fidelity figures by label; every package and checkpoint is made in `folder`."""
    from edge_runtime.model import LoadedModel
    from edge_runtime.tokenizer import Tokenizer
    from quantize import Scheme, quantize_checkpoint
    from quantize.calibration import calibrated_quantizer
    from quantize.methods import CALIBRATED
    from quantize.report import compare
    from quantize.text import read_rows

    tokenizer = Tokenizer.from_file(args.checkpoint / "tokenizer.json")
    rows = read_rows(args.text, tokenizer.encode, limit=args.tokens)
    given = args.calibration_text and read_rows(args.calibration_text, tokenizer.encode, limit=CALIBRATION)

    def package(source: Path, name: str, scheme: Scheme) -> Path:
        with contextlib.ExitStack() as stack:
            quantizer = None
            if scheme.method in CALIBRATED:
                calibrated = calibrated_quantizer(source, given, scheme.method, workspace=folder)
                quantizer = stack.enter_context(calibrated)
            quantize_checkpoint(source, folder / name, scheme=scheme, name=name, quantizer=quantizer)
        return folder / name

    # 1. llama.cpp's quantizer, in the peers' environment; its weights come back as float32 checkpoints
    command = [str(args.peer_python), str(ROOT / "tools/bench/gguf_export.py"), str(args.checkpoint)]
    command += [str(folder / "gguf"), "--dequantize", "--types", *GGUF_TYPES]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    facts = json.loads((folder / "gguf" / "facts.json").read_text())
    # 2. everything against the float32 export of the checkpoint itself
    plain = Scheme.named("fp32")
    reference = LoadedModel.open(package(args.checkpoint, "reference", plain))
    candidates: list[tuple[str, Path, int | None]] = []
    for number, what in enumerate([*args.variants, GENAI]):
        scheme = Scheme.named(what.scheme, **what.changes)
        label = f"{'onnxruntime-genai' if what is GENAI else 'edge-runtime'} {_label(what, scheme)}"
        candidates.append((label, package(args.checkpoint, f"ours-{number}", scheme), None))
    for kind in GGUF_TYPES:
        label = f"llama.cpp {kind} ({_types(facts[kind]['types'])})"
        source = package(folder / "gguf" / kind, f"gguf-{kind.lower()}", plain)
        candidates.append((label, source, facts[kind]["file_bytes"]))
    out = {}
    for label, path, size in candidates:
        model = LoadedModel.open(path)
        found = compare(reference.engine, model.engine, rows)
        model.engine.close()
        weights = size or sum(f.stat().st_size for f in path.glob("model.onnx*"))
        out[label] = {**found.to_dict(), "weights_bytes": weights}
        out[label].pop("kl", None)
    return out


def text_of(found: dict[str, dict[str, Any]], checkpoint: str) -> str:
    """The figures as Markdown."""
    rows = [
        (
            label,
            f"{f['kl_mean']:.5f} ± {f['kl_error']:.5f}",
            f"{f['kl_p99']:.4f}",
            f"{f['top1_agreement']:.2%}",
            f"{f['perplexity_ratio']:.4f}",
            f"{f['weights_bytes'] / 2**20:.2f}",
        )
        for label, f in found.items()
    ]
    tokens = next(iter(found.values()))["tokens"]
    head = ["scheme", "KL mean, nats", "KL p99", "top-1 agreement", "perplexity ratio", "weights, MiB"]
    return f"Checkpoint `{checkpoint}`, {tokens} tokens.\n\n{report.table(head, rows)}"


def _label(what: Variant, scheme: Any) -> str:
    head = f"head int{scheme.head_bits}/{scheme.head_block_size}"
    return f"{what.scheme} (block {scheme.block_size}, {scheme.method}, {head})"


def _types(types: dict[str, int]) -> str:
    """`Q4_0 28, Q8_0 1`: the matrices of a GGUF by type, the most frequent first."""
    kept = sorted(((n, t) for t, n in types.items() if t != "F32"), reverse=True)
    return ", ".join(f"{t} {n}" for n, t in kept)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="edge-quality-") as folder:
        found = measure(args, Path(folder))
    text = text_of(found, args.checkpoint.name)
    print(text)
    if args.out is not None:
        (args.out / "benchmarks_quality.json").write_text(
            json.dumps(found, indent=1) + "\n", encoding="utf-8"
        )
        report.put_section(args.out / "benchmarks.md", "quality", text)


if __name__ == "__main__":
    sys.exit(main())
