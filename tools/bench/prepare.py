"""What a benchmark needs on disk: random checkpoints, our packages, the peers' files.

Made once, kept in a folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Variant", "Workspace", "variant"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Variant:
    """One of our quantization settings: a scheme's name and the fields that differ from its defaults."""

    label: str
    scheme: str
    changes: dict[str, Any]

    @property
    def title(self) -> str:
        """For tables: `int4, block 128, padded, head 4 bits in blocks of 64`."""
        words = {
            "block_size": "block {}",
            "pad_blocks": "padded",
            "method": "{}",
            "head_bits": "head {} bits",
            "head_block_size": "head block {}",
        }
        return ", ".join([self.scheme, *(words.get(k, k + " {}").format(v) for k, v in self.changes.items())])


def variant(text: str) -> Variant:
    """`int4`, or `int4:block_size=128,head_bits=4` → Variant.

    Raises:
        ValueError: the text has another form.
    """
    scheme, _, rest = text.partition(":")
    changes: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"variant {text!r}: expected SCHEME or SCHEME:FIELD=VALUE,…, but found {part!r}")
        changes[key] = int(value) if value.lstrip("-").isdigit() else value
    return Variant(text, scheme, changes)


class Workspace:
    """The folder of everything that is made once. A half-made part is removed when it is asked for again."""

    def __init__(self, folder: Path, peer_python: Path | None) -> None:
        self.folder = folder
        self.peer_python = peer_python
        folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, shape: str) -> Path:
        """A random checkpoint of a real model's shape (`tools/make_checkpoint.py`)."""
        target = self.folder / f"{shape}-checkpoint"
        self._once(target, [sys.executable, str(ROOT / "tools/make_checkpoint.py"), shape, str(target)])
        return target

    def package(self, shape: str, what: Variant) -> Path:
        """Our package of that checkpoint."""
        target = self.folder / f"{shape}-{what.label.replace(':', '-').replace(',', '-').replace('=', '')}"
        code = (
            "import sys, json; from pathlib import Path; import quantize\n"
            "source, out, scheme, changes = sys.argv[1:]\n"
            "scheme = quantize.Scheme.named(scheme, **json.loads(changes))\n"
            "quantize.quantize_checkpoint(Path(source), Path(out), scheme=scheme)\n"
        )
        arguments = [str(self.checkpoint(shape)), str(target), what.scheme, json.dumps(what.changes)]
        self._once(target, [sys.executable, "-c", code, *arguments])
        return target

    def genai(self, shape: str) -> Path:
        """onnxruntime-genai's own int4 model, from its own builder, with its defaults and the pruned head.

        Without the pruned head it computes logits for every prompt token: slower prefill, twice the memory.
        """
        target = self.folder / f"{shape}-genai"
        builder = [
            str(self._peers()),
            "-m",
            "onnxruntime_genai.models.builder",
            "-m",
            str(self.checkpoint(shape)),
        ]
        cache = str(self.folder / "genai-cache")
        options = [
            "-o",
            str(target),
            "-p",
            "int4",
            "-e",
            "cpu",
            "-c",
            cache,
            "--extra_options",
            "prune_lm_head=true",
        ]
        self._once(target, builder + options)
        return target

    def gguf(self, shape: str, kind: str) -> Path:
        """A GGUF of that checkpoint, quantized by llama.cpp."""
        target = self.folder / f"{shape}-gguf"
        script = str(ROOT / "tools/bench/gguf_export.py")
        self._once(target, [str(self._peers()), script, str(self.checkpoint(shape)), str(target)])
        return target / f"model-{kind}.gguf"

    def gguf_facts(self, shape: str) -> dict[str, Any]:
        """Per kind: file bytes, bytes read per token, number of tensors of each type."""
        facts: dict[str, Any] = json.loads((self.folder / f"{shape}-gguf" / "facts.json").read_text())
        return facts

    def _peers(self) -> Path:
        if self.peer_python is None:
            raise RuntimeError("no --peer-python given: make one with tools/bench/setup_env.sh FOLDER")
        return self.peer_python

    def _once(self, target: Path, command: Sequence[str]) -> None:
        done = target.with_name(target.name + ".done")
        if done.exists() and target.exists():
            return
        shutil.rmtree(target, ignore_errors=True)
        environment = {
            **os.environ,
            "ORT_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        }
        log = target.with_name(target.name + ".log")
        with log.open("wb") as sink:
            status = subprocess.run(
                command, stdout=sink, stderr=sink, env=environment, check=False
            ).returncode
        if status != 0:
            raise RuntimeError(f"making {target} failed with status {status}; see {log}")
        done.touch()


def bytes_per_token(package: Path) -> int:
    """Weight bytes that one decode step of a fused graph reads: all initializers of matrix products, once.

    The embedding shares the head's bytes when the two are tied and is read one row at a time otherwise;
    rotary tables are read one row at a time.
    """
    import onnx

    model = onnx.load(str(package / "model.onnx"), load_external_data=False)
    sizes = {t.name: _nbytes(t) for t in model.graph.initializer}
    read: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ("MatMulNBits", "MatMul", "Gemm"):
            read.update({name: sizes[name] for name in node.input if name in sizes})
    return sum(read.values())


def _nbytes(tensor: Any) -> int:
    from onnx import helper

    count = 1
    for dim in tensor.dims:
        count *= dim
    return int(count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
