"""Checkpoint folder → model package: the whole of `edge-runtime quantize` except its command line.

Nothing is kept between runs: the work takes seconds, so an interrupted run is simply started again. The
package appears whole or not at all (`model_zoo.PackageWriter`); what a killed run left behind is removed by
the next one.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from model_zoo.manifest import Generation, Licence, Manifest, Memory, Quantization, Source
from model_zoo.writer import PackageWriter
from quantize.architectures import ModelDescription, describe
from quantize.checkpoint import DEFAULT_SLICE_BYTES, Checkpoint, read_json
from quantize.companions import chat_template, generation_settings, licence_of, tokenizer_file
from quantize.errors import ExporterError, SchemeError, UnsupportedArchitectureError
from quantize.graph import GraphOptions, build_graph, engine_options
from quantize.methods import METHODS
from quantize.schemes import Quantizer, Scheme
from quantize.weights import Progress, WeightPlan

__all__ = ["DEFAULT_CONTEXT_LENGTH", "Progress", "plan_package", "quantize_checkpoint", "scheme_quantizer"]

DEFAULT_CONTEXT_LENGTH = 32768
"""Longest context that is exported unless a longer one is asked for: rotary tables take space per token, and
a small device cannot hold the KV cache of more."""

_RUNTIME_BYTES = 96 << 20
"""Interpreter, libraries and activations while answering, bytes. Peak memory less weights, KV cache and one
copy of the largest matrix was 45 MiB (135 M parameters), 69 MiB (0.1 M) and 90 MiB (494 M) with int4 weights
on Linux x86-64."""

_LOG = logging.getLogger("quantize")


def quantize_checkpoint(
    source: Path,
    out: Path,
    *,
    scheme: Scheme,
    name: str | None = None,
    context_length: int | None = None,
    topk: int = 8,
    progress: Progress | None = None,
    quantizer: Quantizer | None = None,
    options: GraphOptions | None = None,
    overwrite: bool = False,
    repository: str | None = None,
    revision: str | None = None,
    slice_bytes: int = DEFAULT_SLICE_BYTES,
    free_bytes: Callable[[Path], int] | None = None,
    now: Callable[[], datetime] | None = None,
) -> Manifest:
    """Write a model package at `out` from the Hugging Face checkpoint folder `source`.

    Args:
        scheme: how weights are stored.
        name: the package's id; by default the name of `out`.
        context_length: tokens; by default the checkpoint's, but at most `DEFAULT_CONTEXT_LENGTH` and, for
        longrope,
            at most the length up to which its short factors apply.
        topk: log-probabilities that the graph returns per position.
        progress: called after each tensor.
        quantizer: replaces `scheme.method` by something that knows more, e.g. calibration.
        options: choices of the graph that change speed only.
        overwrite: replace an existing package.
        repository, revision: where the checkpoint came from, for the manifest.
        slice_bytes: float32 bytes held at a time; peak memory is a small multiple.
        free_bytes: free disk space at a folder, bytes.
        now: the clock, for the manifest.

    Raises:
        CheckpointError: the checkpoint is incomplete or damaged.
        UnsupportedArchitectureError: there is no description for it.
        SchemeError: the scheme or a number cannot be carried out.
        ExporterError: there is too little disk space.
        model_zoo.StoreError: the package cannot be written.
    """
    out = Path(out)
    with Checkpoint.open(Path(source)) as checkpoint:
        # 1. describe, check every tensor, plan the files: all that can be refused is refused before writing
        model = describe(checkpoint.config, checkpoint.__contains__)
        _check(model, checkpoint)
        length = _context_length(model, context_length)
        tokenizer = tokenizer_file(checkpoint.folder)
        template = chat_template(checkpoint.folder)
        if template is None:
            _LOG.warning(
                "%s has no chat template: the package answers plain prompts only. "
                "Add chat_template.jinja to the checkpoint for conversations",
                checkpoint.folder,
            )
        plan = WeightPlan(checkpoint, quantizer or scheme_quantizer(scheme), slice_bytes=slice_bytes)
        graph = build_graph(model, plan, scheme, context_length=length, topk=topk, options=options)
        for note in plan.notes:
            _LOG.info(note)
        serialized = graph.SerializeToString()
        needed = plan.size + len(serialized) + tokenizer.stat().st_size
        _check_space(out, needed, free_bytes or _free_bytes)
        # 2. write
        with PackageWriter(out, overwrite=overwrite) as writer:
            plan.write(writer.path(plan.location), progress)
            writer.add("model.onnx", serialized)
            writer.copy("tokenizer.json", tokenizer)
            if template is not None:
                writer.add("chat_template.jinja", template)
            licence = licence_of(checkpoint.folder)
            for target, found in licence.files.items():
                writer.copy(target, found)
            generation, defaults = generation_settings(checkpoint)
            return writer.commit(
                Manifest(
                    id=name or package_id(out.name),
                    architecture=model.architecture,
                    quantization=quantization_fields(scheme),
                    context_length=length,
                    vocab_size=model.vocab_size,
                    parameters=model.parameters(),
                    engine="onnx",
                    engine_options=engine_options(model, length, topk),
                    memory=_memory(model, plan),
                    licence=Licence(licence.id, licence.name, licence.url),
                    source=Source(
                        repository=repository or checkpoint.folder.resolve().name,
                        revision=revision,
                        sha256=checkpoint.digest,
                        exporter="edge-runtime",
                        exporter_version=exporter_version(),
                        created=(now or _now)().astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    ),
                    generation=Generation(
                        eos_token_ids=tuple(generation["eos"]),
                        bos_token_id=next(iter(generation["bos"]), None),
                        pad_token_id=next(iter(generation["pad"]), None),
                        defaults=defaults,
                    ),
                )
            )


def plan_package(
    config: Mapping[str, Any], scheme: Scheme, context_length: int | None = None
) -> tuple[int, Memory]:
    """Size of graph and weights in bytes, and the memory needed, from config.json alone.

    Raises:
        CheckpointError, UnsupportedArchitectureError, SchemeError: as `quantize_checkpoint`.
    """
    model = describe(config, lambda tensor: tensor.startswith("model."))
    _check_shapes(model, "config.json")
    length = _context_length(model, context_length)
    plan = WeightPlan(None, scheme_quantizer(scheme))
    graph = build_graph(model, plan, scheme, context_length=length, topk=1)
    return plan.size + graph.ByteSize(), _memory(model, plan)


def scheme_quantizer(scheme: Scheme) -> Quantizer:
    """The scheme's own method, as the writer of weights wants it."""
    method = METHODS[scheme.method]
    return lambda _tensor, weights, bits, block_size: method(weights, bits, block_size)


def package_id(name: str) -> str:
    """A folder name as a package id: what an id cannot hold becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.removesuffix(".edge")).strip("-._")[:128] or "model"


def exporter_version() -> str:
    """This project's version; `0+source` when it runs from a source tree that is not installed."""
    try:
        return metadata.version("edge-runtime")
    except metadata.PackageNotFoundError:
        return "0+source"


def _check(model: ModelDescription, checkpoint: Checkpoint) -> None:
    for tensor, shape in model.tensors().items():
        checkpoint.expect(tensor, shape)
    _check_shapes(model, str(checkpoint.folder))


def _check_shapes(model: ModelDescription, where: str) -> None:
    for layer in model.layers:
        if layer.attention.head_dim % 16:
            raise UnsupportedArchitectureError(
                f"{where}: heads of {layer.attention.head_dim} channels are not supported; "
                "the attention operator needs a multiple of 16. "
                "It may work through optimum: edge-runtime quantize --exporter optimum"
            )
    for rope in model.ropes.values():
        if rope.half_dim % 8:
            raise UnsupportedArchitectureError(
                f"{where}: rotating {2 * rope.half_dim} channels of a head is not supported; "
                "the attention operator needs a multiple of 16. "
                "It may work through optimum: edge-runtime quantize --exporter optimum"
            )


def _context_length(model: ModelDescription, wanted: int | None) -> int:
    if wanted is None:
        # Beyond its switch a longrope model feeds everything again: a context that crosses it must be asked
        # for.
        switches = [rope.switch for rope in model.ropes.values() if rope.switch is not None]
        return min(model.context_length, DEFAULT_CONTEXT_LENGTH, *switches)
    if not 1 <= wanted <= model.context_length:
        raise SchemeError(
            f"context length {wanted} is not possible; "
            f"the checkpoint was trained for up to {model.context_length} tokens"
        )
    return wanted


def quantization_fields(scheme: Scheme) -> Quantization:
    """A scheme as the manifest tells it."""
    return Quantization(
        scheme=scheme.name,
        method=scheme.method if scheme.quantized else "none",
        bits=scheme.bits,
        block_size=scheme.block_size if scheme.quantized else None,
        head_bits=scheme.head_bits,
        head_block_size=scheme.head_block_size if scheme.head_bits <= 8 else None,
        accuracy_level=scheme.accuracy_level if scheme.quantized or scheme.head_bits <= 8 else None,
    )


def _memory(model: ModelDescription, plan: WeightPlan) -> Memory:
    per_token = sum(2 * layer.attention.kv_heads * layer.attention.head_dim * 4 for layer in model.layers)
    return Memory(
        weights_bytes=plan.resident,
        kv_bytes_per_token=per_token,
        runtime_bytes=_RUNTIME_BYTES + plan.largest,
    )


def _check_space(out: Path, needed: int, free_bytes: Callable[[Path], int]) -> None:
    folder = out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = free_bytes(folder)
    if free < needed:
        raise ExporterError(
            f"{out}: the package needs {needed / 2**20:.0f} MiB, "
            f"but {folder} has {free / 2**20:.0f} MiB free. "
            "Free some space or choose another folder"
        )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _now() -> datetime:
    return datetime.now(timezone.utc)


def describe_checkpoint(source: Path) -> tuple[ModelDescription, dict[str, Any]]:
    """The description and config.json of a checkpoint, its tensors checked; nothing is written.

    Raises:
        CheckpointError, UnsupportedArchitectureError: as `quantize_checkpoint`.
    """
    with Checkpoint.open(Path(source)) as checkpoint:
        model = describe(checkpoint.config, checkpoint.__contains__)
        _check(model, checkpoint)
        return model, read_json(checkpoint.folder / "config.json")
