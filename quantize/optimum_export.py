"""Architectures without a description here: the generic graph of optimum, checked and packed.

The graph has optimum's own inputs and outputs (`docs/onnx-graph.md`: generic); it is larger and slower than
ours, but the same engine runs it. optimum (an extra) loads the whole model in torch. What comes out is
checked before it becomes a package: no weight missing or left over, rotary settings taken over, and the
graph's logits equal to torch's with and without a KV cache.

This module knows optimum; what transformers 4 misreads is in `quantize.optimum_config`.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edge_runtime import ort
from edge_runtime.errors import MissingExtraError
from model_zoo.manifest import Generation, Licence, Manifest, Memory, Source
from model_zoo.writer import PackageWriter
from quantize.checkpoint import Checkpoint, read_json
from quantize.companions import chat_template, generation_settings, licence_of, tokenizer_file
from quantize.errors import ExporterError, UnsupportedArchitectureError
from quantize.export import DEFAULT_CONTEXT_LENGTH, package_id, quantization_fields
from quantize.generic_graph import quantize_generic
from quantize.optimum_config import check_loaded, is_transformers_5, translate
from quantize.schemes import Scheme

__all__ = ["export_with_optimum"]

TOLERANCE = 2e-3
"""Largest difference between torch's and the graph's logits, as a share of the largest logit."""

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "generation_config.json")
_RUNTIME_BYTES = 160 << 20
"""Interpreter, onnxruntime and its arena with a generic graph; bytes."""


def export_with_optimum(
    source: Path,
    out: Path,
    *,
    scheme: Scheme,
    name: str | None = None,
    context_length: int | None = None,
    topk: int = 8,
    overwrite: bool = False,
    repository: str | None = None,
    revision: str | None = None,
) -> Manifest:
    """Write a package with a generic graph at `out` from the checkpoint folder `source`.

    The float32 graph is checked first; `scheme` (fp32, int8 or int4 with a data-free method) then applies
    to its matrices.

    Raises:
        MissingExtraError: optimum is not installed.
        CheckpointError: the checkpoint is incomplete or damaged.
        UnsupportedArchitectureError: optimum cannot export it either.
        SchemeError: a weight is not finite.
        ExporterError: the export failed, or would give a damaged model.
        model_zoo.StoreError: the package cannot be written.
    """
    for module in ("torch", "transformers", "optimum.exporters.onnx"):
        _import(module)
    out = Path(out)
    with Checkpoint.open(Path(source)) as checkpoint:
        # 1. a folder that transformers 4 reads correctly
        tokenizer = tokenizer_file(checkpoint.folder)
        config = _old_config(checkpoint)
        with tempfile.TemporaryDirectory(dir=_existing(out), prefix=".optimum-") as temporary:
            work = Path(temporary)
            staged = _stage(checkpoint.folder, config, work / "checkpoint")
            # 2. export, then compare with torch before anything is kept
            exported = _export(staged, work / "onnx", checkpoint.folder)
            vocab_size = _verify(staged, exported, config, checkpoint.folder)
            if scheme.quantized:
                quantize_generic(exported, scheme, vocab_size)
            # 3. pack
            template = chat_template(checkpoint.folder)
            licence = licence_of(checkpoint.folder)
            trained = int(
                _text(config).get("max_position_embeddings") or _text(config).get("n_positions") or 2048
            )
            generation, defaults = generation_settings(checkpoint)
            graph = onnx.load(str(exported), load_external_data=False)
            with PackageWriter(out, overwrite=overwrite) as writer:
                for path in sorted(exported.parent.glob("model.onnx*")):
                    writer.copy(path.name, path)
                writer.copy("tokenizer.json", tokenizer)
                if template is not None:
                    writer.add("chat_template.jinja", template)
                for target, found in licence.files.items():
                    writer.copy(target, found)
                return writer.commit(
                    Manifest(
                        id=name or package_id(out.name),
                        architecture=str((config.get("architectures") or [config.get("model_type")])[0]),
                        quantization=quantization_fields(scheme),
                        context_length=_context_length(trained, context_length),
                        vocab_size=vocab_size,
                        parameters=sum(int(np.prod(info.shape)) for info in checkpoint.tensors.values()),
                        engine="onnx",
                        engine_options={"graph": "generic", "topk": topk},
                        memory=Memory(_size(exported), _kv_bytes(graph), _RUNTIME_BYTES),
                        licence=Licence(licence.id, licence.name, licence.url),
                        source=Source(
                            repository=repository or checkpoint.folder.resolve().name,
                            revision=revision,
                            sha256=checkpoint.digest,
                            exporter="optimum",
                            exporter_version=_version("optimum-onnx"),
                            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                        ),
                        generation=Generation(
                            eos_token_ids=tuple(generation["eos"]),
                            bos_token_id=next(iter(generation["bos"]), None),
                            pad_token_id=next(iter(generation["pad"]), None),
                            defaults=defaults,
                        ),
                    )
                )


# --- before the export ----------------------------------------------------------------------------


def _old_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json in words that the installed transformers understands."""
    path = checkpoint.folder / "tokenizer_config.json"
    tokenizer_config = read_json(path) if path.is_file() else None
    major = int(_import("transformers").__version__.split(".")[0])
    if major >= 5 or not is_transformers_5(checkpoint.config, tokenizer_config):
        return dict(checkpoint.config)
    return translate(checkpoint.config, str(checkpoint.folder / "config.json"))


def _stage(folder: Path, config: Mapping[str, Any], target: Path) -> Path:
    """A checkpoint folder of links to the weights, with another config.json.

    The tokenizer stays behind: transformers 4 cannot load one saved by 5, and the package gets the original.
    """
    target.mkdir()
    for pattern in _WEIGHTS:
        for path in folder.glob(pattern):
            (target / path.name).symlink_to(path.resolve())
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


def _export(staged: Path, target: Path, origin: Path) -> Path:
    ort.load()  # switches onnxruntime's usage upload off before optimum imports it
    exporter = _import("optimum.exporters.onnx")
    with _offline_and_quiet():
        try:
            exporter.main_export(
                str(staged),
                str(target),
                task="text-generation-with-past",
                do_validation=False,
                local_files_only=True,
            )
        except Exception as error:
            text = str(error).strip()
            kind = json.loads((staged / "config.json").read_text(encoding="utf-8")).get("model_type")
            if "custom or unsupported architecture" in text or "does not recognize this architecture" in text:
                raise UnsupportedArchitectureError(
                    f"{origin}: optimum {_version('optimum-onnx')} cannot export model type '{kind}' "
                    "either, and there "
                    "is no description for it here (CONTRIBUTING says how to add one)"
                ) from error
            raise ExporterError(
                f"{origin}: optimum failed to export model type '{kind}': {text[:500]}"
            ) from error
    path = target / "model.onnx"
    if not path.is_file():
        raise ExporterError(
            f"{origin}: optimum wrote no model.onnx, but {sorted(p.name for p in target.iterdir())}"
        )
    return path


# --- after the export -----------------------------------------------------------------------------


def _verify(staged: Path, exported: Path, config: Mapping[str, Any], origin: Path) -> int:
    """Compare the graph with torch on a few tokens; returns the width of the logits.

    Raises:
        ExporterError: weights or settings got lost, or the logits differ.
    """
    torch, transformers = _import("torch"), _import("transformers")
    with _offline_and_quiet():
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(staged), torch_dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    for key, what in (
        ("missing_keys", "it has no"),
        ("unexpected_keys", "transformers 4 has no place for its"),
        ("mismatched_keys", "there are other shapes for"),
    ):
        if info.get(key):
            names = ", ".join(map(str, sorted(info[key], key=str)[:3]))
            raise ExporterError(
                f"{origin}: the exported model would be damaged: {what} {names}"
                f"{f' and {len(info[key]) - 3} more' if len(info[key]) > 3 else ''}. Nothing was written"
            )
    check_loaded(_text(config), _text(model.config.to_dict()), str(origin))
    model = model.eval()
    vocabulary = int(_text(config)["vocab_size"])
    ids = np.random.default_rng(0).integers(0, vocabulary, (1, 24))
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    del model
    found = _run_graph(exported, ids, split=15)
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not difference <= TOLERANCE:
        raise ExporterError(
            f"{origin}: the graph that optimum made does not compute what the checkpoint does (logits "
            "differ by "
            f"{difference:.2g} of the largest; {TOLERANCE:g} is allowed). Nothing was written"
        )
    return int(wanted.shape[-1])


def _run_graph(path: Path, ids: np.ndarray[Any, Any], split: int) -> np.ndarray[Any, Any]:
    """Logits [1, S, V] of a generic graph, fed in two pieces so that the KV cache is tested too."""
    options = ort.load().SessionOptions()
    options.log_severity_level = 3
    session = ort.load().InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    past = {
        name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        for name, value in inputs.items()
        if name.startswith("past_key_values.")
    }
    pieces, start = [], 0
    for stop in (split, ids.shape[1]):
        feeds = {"input_ids": ids[:, start:stop], "attention_mask": np.ones((1, stop), np.int64), **past}
        if "position_ids" in inputs:
            feeds["position_ids"] = np.arange(start, stop)[None]
        found = dict(zip(outputs, session.run(None, feeds), strict=True))
        pieces.append(found["logits"])
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        start = stop
    return np.concatenate(pieces, axis=1)


def _kv_bytes(graph: onnx.ModelProto) -> int:
    """Bytes of keys and values per token."""
    total = 0
    for value in graph.graph.input:
        if value.name.startswith("past_key_values."):
            dims = value.type.tensor_type.shape.dim
            total += int(dims[1].dim_value) * int(dims[3].dim_value) * 4
    return total


def _size(exported: Path) -> int:
    return sum(path.stat().st_size for path in exported.parent.glob("model.onnx*"))


def _context_length(trained: int, wanted: int | None) -> int:
    if wanted is not None and not 1 <= wanted <= trained:
        raise ExporterError(
            f"context length {wanted} is not possible; the checkpoint was trained for up to {trained} tokens"
        )
    return wanted or min(trained, DEFAULT_CONTEXT_LENGTH)


def _trained_context(config: Mapping[str, Any]) -> int:
    """Tokens of context that the checkpoint was trained for, by the names that architectures give it."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if config.get(key):
            return int(config[key])
    return 2048


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


# --- surroundings ---------------------------------------------------------------------------------


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            module.split(".")[0],
            "optimum",
            "Exporting with --exporter optimum (in an environment of its own)",
        ) from error


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(unknown version)"


def _existing(out: Path) -> Path:
    folder = out.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _offline_and_quiet() -> Iterator[None]:
    """Everything is local, and tracing warns about every branch it takes."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
