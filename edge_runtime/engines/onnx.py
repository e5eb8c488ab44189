"""The ONNX Runtime engine for the fused graph (`docs/onnx-graph.md`).

Knows: how to bind one set of weights to the static KV buffers of many sequences. A decode step writes three
numbers into arrays that were bound once, runs, and reads a few numbers back: the evidence is computed in the
graph, and the 150,000-float row of logits leaves it only when asked for. Does not know: text, sampling, or
when to stop.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.engines.base import EngineInfo, Scores
from edge_runtime.engines.session import SessionEngine, SessionSequence, create_session
from edge_runtime.engines.tuning import SessionTuning
from edge_runtime.errors import EngineError, first_line

__all__ = ["FusedGraph", "OnnxEngine", "OnnxSequence"]

GRAPH_VERSION = 1
_KV_DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16}
_MAX_BINDINGS = 12
"""Step shapes whose bindings a sequence keeps (one token; a prompt chunk; draft lengths)."""


@dataclass(frozen=True, slots=True)
class FusedGraph:
    """The facts of `engine_options` that the engine needs; `kv_shapes` is [(G, D)] per layer.

    `rope_switch`: longer sequences use other rotary frequencies (longrope); `None`: one set for all.
    """

    kv_shapes: tuple[tuple[int, int], ...]
    kv_dtype: str
    topk: int
    rope_switch: int | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> FusedGraph:
        """Read the manifest's `engine_options`.

        Raises:
            EngineError: an unknown graph version or a missing or impossible key; names it.
        """
        version = options.get("version")
        if version != GRAPH_VERSION:
            raise EngineError(
                f"the package's graph has version {version!r}, this release runs version {GRAPH_VERSION}: "
                "quantize the model again, or install the release that made it"
            )
        try:
            shapes = options.get("kv_shapes") or [(options["kv_heads"], options["head_dim"])] * int(
                options["layers"]
            )
            graph = cls(
                kv_shapes=tuple((int(heads), int(dim)) for heads, dim in shapes),
                kv_dtype=str(options.get("kv_dtype", "float32")),
                topk=int(options["topk"]),
                rope_switch=None if (switch := options.get("rope_switch")) is None else int(switch),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"the package's engine_options are incomplete or wrong: {error!r}. Quantize the model again"
            ) from error
        if graph.kv_dtype not in _KV_DTYPES:
            raise EngineError(
                f"kv_dtype {graph.kv_dtype!r} is not supported: use one of {', '.join(_KV_DTYPES)}"
            )
        if graph.topk < 2:
            raise EngineError(
                f"engine_options.topk is {graph.topk}: the margin needs the two largest logits at least"
            )
        return graph


class OnnxEngine(SessionEngine):
    """A loaded fused graph. Threads may share it, each with sequences of its own."""

    def __init__(self, session: Any, graph: FusedGraph, info: EngineInfo, tuning: SessionTuning) -> None:
        super().__init__(session, info, tuning)
        self.graph = graph
        names = {value.name for value in session.get_inputs()} | {
            value.name for value in session.get_outputs()
        }
        layers = range(len(graph.kv_shapes))
        wanted = {"input_ids", "seqlens_k", "total_sequence_length", "num_logits"}
        wanted |= {"logits", "topk_logits", "topk_ids", "lse", "entropy"}
        if graph.rope_switch is not None:
            wanted.add("rope_length")
        wanted |= {
            f"{side}.{i}.{part}"
            for side in ("past_key_values", "present")
            for i in layers
            for part in ("key", "value")
        }
        if missing := sorted(wanted - names):
            raise EngineError(
                f"the graph of model '{info.model_id}' lacks {', '.join(missing[:4])}"
                f"{f' and {len(missing) - 4} more' if len(missing) > 4 else ''}: quantize the model again"
            )

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        model_id: str,
        vocab_size: int,
        context_length: int,
        options: Mapping[str, Any],
        tuning: SessionTuning,
    ) -> OnnxEngine:
        """Load `model.onnx`; `options` are the manifest's `engine_options`.

        Raises:
            EngineError: the file or the options cannot be used.
        """
        graph = FusedGraph.from_options(options)
        info = EngineInfo("onnx", model_id, vocab_size, context_length, graph.topk, tuning.threads)
        return cls(create_session(path, tuning), graph, info, tuning)

    def new_sequence(self) -> OnnxSequence:
        """An empty KV state over these weights."""
        return OnnxSequence(self)


class OnnxSequence(SessionSequence):
    """The KV buffers of one sequence. The room grows in steps, so that memory follows use."""

    def __init__(self, engine: OnnxEngine) -> None:
        super().__init__(engine.info)
        self._engine = engine
        self._capacity = 0
        self._kv: list[tuple[str, npt.NDArray[Any]]] = []
        self._bindings: OrderedDict[tuple[int, int, bool], _Binding] = OrderedDict()
        self._long = False  # the cached keys were rotated for a sequence beyond `rope_switch`

    @property
    def nbytes(self) -> int:
        """Bytes of KV memory set aside for this sequence."""
        return sum(array.nbytes for _, array in self._kv)

    def forward(self, tokens: Sequence[int], *, num_logits: int = 1, want_logits: bool = False) -> Scores:
        """Append `tokens` and score what follows the last `num_logits` of them (see `SequenceState.forward`).

        Raises:
            ContextOverflowError: the cache would exceed the context length.
            EngineError: wrong arguments, or onnxruntime failed; the sequence is then as it was (or empty,
                where a longrope model had to compute the cached tokens again).
        """
        engine, count, start = self._engine, len(tokens), len(self._tokens)
        self._check_input(tokens, num_logits)
        switch = engine.graph.rope_switch
        if switch is not None and self._long != (start + count > switch):
            # Keys cached under the other frequencies do not fit: all tokens are fed again, as if for
            # the first time (which is what transformers does at this point, too).
            tokens, self._tokens = [*self._tokens, *tokens], []
            count, start, self._long = len(tokens), 0, not self._long
        self._reserve(start + count)
        # The head is computed for the last positions alone; earlier chunks ask for the least there is.
        chunk, done = engine.tuning.prefill_chunk, 0
        while count - done > chunk and count - done - chunk >= num_logits:
            self._binding(chunk, 1, False).run(
                tokens[done : done + chunk], start + done + chunk, start + count
            )
            done += chunk
        binding = self._binding(count - done, num_logits, want_logits)
        binding.run(tokens[done:] if done else tokens, start + count, start + count)
        self._tokens.extend(tokens)
        return binding.scores()

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens; what lies behind is never read.

        Raises:
            EngineError: `length` is negative or more than is cached.
        """
        self._check_length(length, "rewind to")
        del self._tokens[length:]

    def fork(self, length: int) -> OnnxSequence:
        """Another sequence with a copy of the first `length` tokens.

        Raises:
            EngineError: `length` is negative or more than is cached.
        """
        self._check_length(length, "fork")
        other = OnnxSequence(self._engine)
        if length:
            other._reserve(length + 1)
            for (_, target), (_, source) in zip(other._kv, self._kv, strict=True):
                target[:, :, :length] = source[:, :, :length]
            other._tokens, other._long = self._tokens[:length], self._long
        return other

    def close(self) -> None:
        """Give the memory back; the sequence is empty afterwards."""
        self._bindings.clear()
        self._kv, self._tokens, self._capacity = [], [], 0

    def _reserve(self, total: int) -> None:
        """Make room for `total` tokens: doubling steps, copying what is cached."""
        if total <= self._capacity:
            return
        engine = self._engine
        capacity = self._capacity or engine.tuning.kv_step
        while capacity < total:
            capacity *= 2
        capacity = min(capacity, engine.info.context_length)
        self._bindings.clear()  # they point at the old buffers
        kept, self._capacity = len(self._tokens), capacity
        # Buffer by buffer: at most one exists twice while the room grows.
        try:
            for at, (name, shape) in enumerate(_kv_names(engine.graph)):
                grown = _pages((1, shape[0], capacity, shape[1]), engine.graph.kv_dtype)
                if at == len(self._kv):
                    self._kv.append((name, grown))
                else:
                    grown[:, :, :kept] = self._kv[at][1][:, :, :kept]
                    self._kv[at] = (name, grown)
        except (OSError, MemoryError) as error:
            self.close()
            raise EngineError(
                f"there is no memory for the KV cache of {capacity} tokens ({error}): close other "
                "sequences, or choose a smaller model"
            ) from error

    def _binding(self, tokens: int, num_logits: int, want_logits: bool) -> _Binding:
        key = (tokens, num_logits, want_logits)
        binding = self._bindings.get(key)
        if binding is None:
            binding = _Binding(self._engine, self._kv, *key)
            self._bindings[key] = binding
            if len(self._bindings) > _MAX_BINDINGS:
                self._bindings.popitem(last=False)
        elif len(self._bindings) > 1:
            self._bindings.move_to_end(key)
        return binding


class _Binding:
    """One step shape of one sequence: every input and output is bound once, to memory that stays."""

    __slots__ = (
        "_arrays",
        "_entropy",
        "_ids",
        "_io",
        "_kv",
        "_logits",
        "_lse",
        "_rope_length",
        "_run",
        "_seqlens",
        "_topk_ids",
        "_topk_logits",
        "_total",
    )

    def __init__(
        self,
        engine: OnnxEngine,
        kv: list[tuple[str, npt.NDArray[Any]]],
        tokens: int,
        num_logits: int,
        want_logits: bool,
    ) -> None:
        session, topk, vocab = engine.session, engine.graph.topk, engine.info.vocab_size
        self._io = session.io_binding()
        self._run = session.run_with_iobinding
        self._kv = kv  # onnxruntime gets bare pointers: somebody must keep the memory alive
        self._ids = np.zeros((1, tokens), np.int64)
        self._seqlens = np.zeros(1, np.int32)
        self._total = np.zeros((), np.int32)
        count = np.array([num_logits], np.int64)
        self._topk_logits = np.zeros((1, num_logits, topk), np.float32)
        self._topk_ids = np.zeros((1, num_logits, topk), np.int64)
        self._lse = np.zeros((1, num_logits, 1), np.float32)
        self._entropy = np.zeros((1, num_logits, 1), np.float32)
        self._logits = np.empty((1, num_logits, vocab), np.float32) if want_logits else None
        self._arrays = [count]
        inputs: list[tuple[str, npt.NDArray[Any]]] = [
            ("input_ids", self._ids),
            ("seqlens_k", self._seqlens),
            ("total_sequence_length", self._total),
            ("num_logits", count),
            *((f"past_key_values.{name}", array) for name, array in kv),
        ]
        self._rope_length = np.zeros((), np.int64)
        if engine.graph.rope_switch is not None:
            inputs.append(("rope_length", self._rope_length))
        for name, array in inputs:
            self._io.bind_input(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        outputs: list[tuple[str, npt.NDArray[Any]]] = [
            ("topk_logits", self._topk_logits),
            ("topk_ids", self._topk_ids),
            ("lse", self._lse),
            ("entropy", self._entropy),
            *((f"present.{name}", array) for name, array in kv),
        ]
        if self._logits is not None:
            outputs.append(("logits", self._logits))
        for name, array in outputs:
            self._io.bind_output(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)

    def run(self, tokens: Sequence[int], total: int, whole: int) -> None:
        """Feed `tokens`; the cache then holds `total`, and `whole` once all of the input has been fed."""
        self._ids[0] = tokens
        self._seqlens[0] = total - 1
        self._total[()] = total
        self._rope_length[()] = whole
        try:
            self._run(self._io)
        except Exception as error:
            raise EngineError(
                f"onnxruntime failed at token {total} of the sequence: {first_line(error)}"
            ) from error

    def scores(self) -> Scores:
        return Scores(
            topk_ids=self._topk_ids[0].copy(),
            topk_logits=self._topk_logits[0].copy(),
            lse=self._lse[0, :, 0].copy(),
            entropy=self._entropy[0, :, 0].copy(),
            logits=None if self._logits is None else self._logits[0],
        )


def _kv_names(graph: FusedGraph) -> list[tuple[str, tuple[int, int]]]:
    """`0.key`, `0.value`, `1.key`, … with (heads, head size)."""
    return [(f"{layer}.{part}", s) for layer, s in enumerate(graph.kv_shapes) for part in ("key", "value")]


def _pages(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Zeros in pages of their own: committed when first written, given back with the last reference."""
    size = int(np.prod(shape)) * np.dtype(_KV_DTYPES[dtype]).itemsize
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return np.frombuffer(mmap.mmap(-1, size, **flags), _KV_DTYPES[dtype]).reshape(shape)
