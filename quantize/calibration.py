"""Lightly calibrated quantization: what the model's own activations say about which weight errors matter.

The checkpoint is first exported as int8, whose activations are those of the float model for this purpose,
and needs a quarter of its memory. A calibration text runs through that graph, cut off below the head, with
the inputs of its matrices as outputs; per matrix we keep the mean square of every input channel (method
`weighted`) or the whole Σ x xᵀ (method `gptq`). The covariances of a large model exceed a small device's
memory, so they are collected for a few layers at a time, in the order in which the exporter then asks for
them: more passes over the text instead of more memory.

A model can also calibrate on itself: text that it samples freely stands in for a text that nobody has at
hand.

This module knows the exported graph's names; it does not know how scales are chosen (`quantize.methods`).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_runtime import ort
from edge_runtime.engines.base import Engine
from quantize.architectures import ModelDescription
from quantize.architectures.base import Linear
from quantize.errors import SchemeError
from quantize.export import describe_checkpoint, quantize_checkpoint
from quantize.methods import CALIBRATED, Codes, Triangle, factorize, gptq, search
from quantize.schemes import Quantizer, Scheme

__all__ = ["MEMORY_BYTES", "TOKENS", "Activations", "calibrated_quantizer", "sample_rows"]

TOKENS = 8192
"""Tokens of calibration text that are used by default: half as many left 11 % more divergence (pocket)."""

OWN_ROW = 256
"""Tokens of a row of the model's own text at most."""

MEMORY_BYTES = 512 << 20
"""Memory for covariances by default."""

Progress = Callable[[int, int, str], None]
"""(pieces done, pieces in total, what is being done)."""


@dataclass(frozen=True, slots=True)
class _Input:
    """An activation that feeds one or more matrices: its name in the graph, its channels, the checkpoint's
    tensors."""

    name: str
    channels: int
    tensors: tuple[str, ...]


class Activations:
    """Second moments of the inputs of a model's matrices, collected when they are first asked for.

    Args:
        graph: model.onnx of an int8 export, beside its data file.
        model: its description.
        rows: token ids of the calibration text.
        whole: keep covariances [K, K] instead of their diagonals.
        memory_bytes: for covariances; at least one is always kept.
        threads: of onnxruntime; default: its own choice.
    """

    def __init__(
        self,
        graph: Path,
        model: ModelDescription,
        rows: Sequence[Sequence[int]],
        *,
        whole: bool,
        memory_bytes: int = MEMORY_BYTES,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._graph, self._model, self._rows, self._whole = graph, model, rows, whole
        self._threads, self._progress = threads, progress
        self._proto = onnx.load(str(graph), load_external_data=False)
        self._groups = _grouped(_inputs(model, self._proto), whole, memory_bytes)
        self._place = {
            tensor: (number, item.name)
            for number, group in enumerate(self._groups)
            for item in group
            for tensor in item.tensors
        }
        self._held = -1
        self._moments: dict[str, NDArray[np.float32]] = {}

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._place

    @property
    def passes(self) -> int:
        """How often the text runs through the model."""
        return len(self._groups)

    def key(self, tensor: str) -> str:
        """The activation that feeds `tensor`; several tensors can share one."""
        return self._place[tensor][1]

    def moment(self, tensor: str) -> NDArray[np.float32]:
        """Mean of x xᵀ [K, K] (or of x² [K]) over the text, x being the input of `tensor`.

        Asking in the order of layers runs every pass once.
        """
        number, name = self._place[tensor]
        if number != self._held:
            self._moments = {}
            self._moments = self._collect(self._groups[number], f"calibration {number + 1} of {self.passes}")
            self._held = number
        return self._moments[name]

    def _collect(self, group: Sequence[_Input], label: str) -> dict[str, NDArray[np.float32]]:
        session = self._session([item.name for item in group])
        names = [item.name for item in group]
        wanted = {value.name for value in session.get_inputs()}
        shape = (lambda k: (k, k)) if self._whole else (lambda k: (k,))
        sums = {item.name: np.zeros(shape(item.channels), np.float32) for item in group}
        for done, row in enumerate(self._rows, 1):
            feeds = {name: value for name, value in self._feeds(row).items() if name in wanted}
            for name, found in zip(names, session.run(names, feeds), strict=True):
                flat = found.reshape(-1, found.shape[-1])
                sums[name] += flat.T @ flat if self._whole else np.einsum("tk,tk->k", flat, flat)
            if self._progress is not None:
                self._progress(done, len(self._rows), label)
        count = np.float32(sum(len(row) for row in self._rows))
        for total in sums.values():
            total /= count
            if not np.isfinite(total).all():
                raise SchemeError(
                    "the calibration text drives an activation to infinity: the checkpoint is damaged"
                )
        return sums

    def _session(self, names: Sequence[str]) -> Any:
        """A session over the part of the graph that computes `names`."""
        onnxruntime = ort.load()
        part = _below(self._proto, names)
        path = self._graph.with_name("calibration.onnx")
        onnx.save_model(part, str(path))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _feeds(self, row: Sequence[int]) -> dict[str, NDArray[Any]]:
        length = len(row)
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.array([row], np.int64),
            "seqlens_k": np.array([length - 1], np.int32),
            "total_sequence_length": np.array(length, np.int32),
            "num_logits": np.array([length], np.int64),
        }
        for index, layer in enumerate(self._model.layers):
            empty = np.zeros((1, layer.attention.kv_heads, 0, layer.attention.head_dim), np.float32)
            feeds[f"past_key_values.{index}.key"] = feeds[f"past_key_values.{index}.value"] = empty
        return feeds


def _inputs(model: ModelDescription, proto: onnx.ModelProto) -> list[_Input]:
    """Every activation that feeds matrices, in the order in which the exporter quantizes them."""
    feeding = {node.input[1]: node.input[0] for node in proto.graph.node if node.op_type == "MatMulNBits"}
    found: dict[str, tuple[int, list[str]]] = {}
    linears: list[tuple[str, Linear]] = []
    for index, layer in enumerate(model.layers):
        at = f"layers.{index}"
        linears += [
            (at + ".attention.qkv", layer.attention.qkv),
            (at + ".attention.out", layer.attention.out),
        ]
        if f"{at}.mlp.gate_up.codes" in feeding:
            linears += [(at + ".mlp.gate_up", layer.mlp.gate.stacked(layer.mlp.up))]
        else:
            linears += [(at + ".mlp.gate", layer.mlp.gate), (at + ".mlp.up", layer.mlp.up)]
        linears += [(at + ".mlp.down", layer.mlp.down)]
    for name, linear in linears:
        _, tensors = found.setdefault(feeding[name + ".codes"], (linear.in_features, []))
        tensors.extend(part.tensor for part in linear.parts)
    return [_Input(name, channels, tuple(tensors)) for name, (channels, tensors) in found.items()]


def _grouped(inputs: Sequence[_Input], whole: bool, memory_bytes: int) -> list[list[_Input]]:
    """Neighbours whose moments fit in memory together."""
    groups: list[list[_Input]] = []
    room = 0
    for item in inputs:
        nbytes = 4 * item.channels * (item.channels if whole else 1)
        if not groups or nbytes > room:
            groups.append([])
            room = memory_bytes
        groups[-1].append(item)
        room -= nbytes
    return groups


def _below(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The part of a graph that computes `names`, with them as its outputs."""
    needed, nodes = set(names), []
    for node in reversed(proto.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(name for name in node.input if name)
    graph = onnx.helper.make_graph(
        nodes[::-1],
        "calibration",
        [value for value in proto.graph.input if value.name in needed],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names],
        [tensor for tensor in proto.graph.initializer if tensor.name in needed],
    )
    return onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)


def sample_rows(
    engine: Engine,
    *,
    tokens: int = TOKENS,
    start: int | None = None,
    stop: Collection[int] = (),
    longest: int = OWN_ROW,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[int]]:
    """Text of the model's own making: sampled at temperature 1 until about `tokens` tokens are there.

    As data for calibration: LLM-QAT, arXiv 2305.17888. Every row begins with `start`, or with any token of
    the vocabulary where the model has no such token, and ends with one of `stop` or after `longest` tokens.
    """
    random = np.random.default_rng(seed)
    longest = min(longest, engine.info.context_length)
    rows: list[list[int]] = []
    made = 0
    while made < tokens:
        row = [int(random.integers(engine.info.vocab_size)) if start is None else start]
        state = engine.new_sequence()
        try:
            while len(row) < longest and (len(row) == 1 or row[-1] not in stop):
                logits = state.forward(row[-1:], want_logits=True).logits
                assert logits is not None
                # Gumbel's trick: the largest of logit + Gumbel noise is a draw from the softmax.
                noise = random.gumbel(size=logits.shape[-1])
                row.append(int((logits[-1] + noise).argmax()))
        finally:
            state.close()
        rows.append(row)
        made += len(row)
        if progress is not None:
            progress(min(made, tokens), tokens, "the model writes its own text")
    return rows


@contextmanager
def calibrated_quantizer(
    source: Path,
    rows: Sequence[Sequence[int]] | None,
    method: str,
    *,
    workspace: Path,
    tokens: int = TOKENS,
    memory_bytes: int = MEMORY_BYTES,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Quantizer]:
    """A `Quantizer` for `quantize_checkpoint` that knows the activations of `source` on `rows`.

    Embedding and head keep the data-free search: their rows are looked up as well as multiplied.

    Args:
        source: the checkpoint folder.
        rows: token ids of the calibration text; None: the model samples its own.
        method: one of `quantize.methods.CALIBRATED`.
        tokens: of the model's own text.
        workspace: where the intermediate int8 package may lie (about a byte per weight); removed at the end.

    Raises:
        SchemeError: another method, or activations that are not finite.
        QuantizeError, ModelZooError: as `quantize_checkpoint`.
    """
    if method not in CALIBRATED:
        raise SchemeError(
            f"method '{method}' does not use a calibration text; these do: {', '.join(CALIBRATED)}"
        )
    model, _ = describe_checkpoint(source)
    longest = min(OWN_ROW, model.context_length) if rows is None else max(len(row) for row in rows)
    workspace.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace, prefix=".calibration-") as folder:
        package = Path(folder) / "int8"
        scheme = Scheme.named("int8", block_size=32, head_block_size=32, method="rtn")
        quantize_checkpoint(source, package, scheme=scheme, context_length=_context(model, longest))
        if rows is None:
            rows = _own_rows(package, tokens, longest, progress)
        known = Activations(
            package / "model.onnx",
            model,
            rows,
            whole=method == "gptq",
            memory_bytes=memory_bytes,
            threads=threads,
            progress=progress,
        )
        triangles: dict[str, Triangle] = {}

        def quantize(
            tensor: str, weights: NDArray[np.float32], bits: int, block_size: int
        ) -> tuple[Codes, Any]:
            if tensor not in known:
                return search(weights, bits, block_size)
            if method == "weighted":
                return search(weights, bits, block_size, known.moment(tensor))
            key = known.key(tensor)
            if key not in triangles:
                triangles.clear()  # one is enough: neighbours share it, and nobody comes back
                triangles[key] = factorize(known.moment(tensor))
            return gptq(weights, bits, block_size, triangles[key])

        yield quantize


def _own_rows(package: Path, tokens: int, longest: int, progress: Progress | None) -> list[list[int]]:
    from edge_runtime.model import LoadedModel

    loaded = LoadedModel.open(package)
    try:
        return sample_rows(
            loaded.engine,
            tokens=tokens,
            start=loaded.tokenizer.bos_id,
            stop=loaded.tokenizer.eos_ids,
            longest=longest,
            progress=progress,
        )
    finally:
        loaded.engine.close()


def _context(model: ModelDescription, longest: int) -> int:
    """A context for the intermediate export: the rows fit, and the rotary tables stay small."""
    if longest > model.context_length:
        raise SchemeError(
            f"a row of the calibration text has {longest} tokens, but the model's context is "
            f"{model.context_length}"
        )
    return min(model.context_length, 1 << math.ceil(math.log2(max(2, longest))))
