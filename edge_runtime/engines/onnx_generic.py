"""The ONNX Runtime engine for optimum's generic graphs: KV tensors that grow, evidence computed in numpy.

Slower than the fused graph, but it runs architectures that `quantize` has no description for. Inputs:
`input_ids`, `attention_mask`, optional `position_ids`, `past_key_values.*`; outputs: `logits`, `present.*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.engines.base import EngineInfo, Scores
from edge_runtime.engines.session import SessionEngine, SessionSequence, create_session
from edge_runtime.engines.tuning import SessionTuning
from edge_runtime.errors import EngineError

__all__ = ["GenericOnnxEngine", "GenericOnnxSequence", "score_rows"]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_DEFAULT_TOPK = 8


def score_rows(logits: npt.NDArray[Any], topk: int) -> Scores:
    """Evidence of whole rows: `logits` [M, V] → k largest, log-sum-exp and entropy (nats)."""
    rows = np.ascontiguousarray(logits, dtype=np.float32)
    topk = min(topk, rows.shape[1])
    part = np.argpartition(-rows, topk - 1, axis=1)[:, :topk]
    values = np.take_along_axis(rows, part, axis=1)
    order = np.lexsort((part, -values), axis=1)  # descending logit, equal ones by ascending id
    ids = np.take_along_axis(part, order, axis=1).astype(np.int64)
    values = np.take_along_axis(values, order, axis=1)
    shifted = rows - values[:, :1]
    weights = np.exp(shifted)
    total = weights.sum(axis=1)
    # H = log Z - sum(w * x) / Z with x shifted by the maximum
    entropy = np.log(total) - (weights * shifted).sum(axis=1) / total
    return Scores(
        topk_ids=ids,
        topk_logits=values,
        lse=(values[:, 0] + np.log(total)).astype(np.float32),
        entropy=np.maximum(entropy, 0.0).astype(np.float32),
        logits=rows,
    )


class GenericOnnxEngine(SessionEngine):
    """A loaded generic graph."""

    def __init__(self, session: Any, info: EngineInfo, tuning: SessionTuning) -> None:
        super().__init__(session, info, tuning)
        inputs = {value.name: value for value in session.get_inputs()}
        self.output_names = [value.name for value in session.get_outputs()]
        self.input_names = frozenset(inputs)
        if missing := [name for name in ("input_ids", "attention_mask") if name not in inputs]:
            raise EngineError(
                f"the generic graph of model '{info.model_id}' lacks the input {missing[0]}: export it again"
            )
        self.past: dict[str, tuple[str, npt.NDArray[Any]]] = {}
        for name, value in inputs.items():
            if not name.startswith("past_key_values."):
                continue
            if value.type not in _DTYPES or len(value.shape) != 4:
                raise EngineError(
                    f"the KV input {name} has type {value.type} and shape {value.shape}: this layout is not "
                    "supported"
                )
            heads, dim = value.shape[1], value.shape[3]
            if not isinstance(heads, int) or not isinstance(dim, int):
                raise EngineError(
                    f"the KV input {name} does not fix its heads and head size ({value.shape}): export it "
                    "again"
                )
            present = name.replace("past_key_values", "present")
            if present not in self.output_names:
                raise EngineError(
                    f"the generic graph has the input {name} but not the output {present}: export it with "
                    "the KV cache"
                )
            self.past[name] = (present, np.zeros((1, heads, 0, dim), _DTYPES[value.type]))
        if not self.past:
            raise EngineError(
                f"the generic graph of model '{info.model_id}' has no KV cache: export it with --task "
                "text-generation-with-past"
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
    ) -> GenericOnnxEngine:
        """Load `model.onnx`.

        Raises:
            EngineError: the file cannot be used.
        """
        topk = int(options.get("topk", _DEFAULT_TOPK))
        info = EngineInfo(
            "onnx", model_id, vocab_size, context_length, max(2, min(topk, vocab_size)), tuning.threads
        )
        return cls(create_session(path, tuning), info, tuning)

    def new_sequence(self) -> GenericOnnxSequence:
        """An empty KV state over these weights."""
        return GenericOnnxSequence(self)


class GenericOnnxSequence(SessionSequence):
    """The growing KV tensors of one sequence."""

    def __init__(self, engine: GenericOnnxEngine) -> None:
        super().__init__(engine.info)
        self._engine = engine
        self._kv: dict[str, npt.NDArray[Any]] = {name: empty for name, (_, empty) in engine.past.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of KV memory set aside for this sequence."""
        return sum(array.nbytes for array in self._kv.values())

    def forward(self, tokens: Sequence[int], *, num_logits: int = 1, want_logits: bool = False) -> Scores:
        """Append `tokens` and score what follows the last `num_logits` of them (see `SequenceState.forward`).

        Raises:
            ContextOverflowError: the cache would exceed the context length.
            EngineError: wrong arguments, or onnxruntime failed; the sequence is then as it was.
        """
        info, count, start = self._engine.info, len(tokens), len(self._tokens)
        self._check_input(tokens, num_logits)
        kv, done, chunk = self._kv, 0, self._engine.tuning.prefill_chunk
        while count - done > chunk and count - done - chunk >= num_logits:
            _, kv = self._run(tokens[done : done + chunk], start + done, kv)
            done += chunk
        logits, kv = self._run(tokens[done:], start + done, kv)
        self._kv = kv
        self._tokens.extend(tokens)
        scores = score_rows(logits[0, -num_logits:], info.topk)
        if want_logits:
            return scores
        return Scores(scores.topk_ids, scores.topk_logits, scores.lse, scores.entropy)

    def _run(
        self, tokens: Sequence[int], start: int, kv: dict[str, npt.NDArray[Any]]
    ) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
        engine, total = self._engine, start + len(tokens)
        feeds: dict[str, npt.NDArray[Any]] = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            **kv,
        }
        if "position_ids" in engine.input_names:
            feeds["position_ids"] = np.arange(start, total, dtype=np.int64)[None]
        if "use_cache_branch" in engine.input_names:  # merged decoders of older optimum releases
            feeds["use_cache_branch"] = np.array([True])
        try:
            outputs = dict(zip(engine.output_names, engine.session.run(None, feeds), strict=True))
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"onnxruntime failed at token {total} of the sequence: {error}") from error
        return outputs["logits"], {name: outputs[present] for name, (present, _) in engine.past.items()}

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens.

        Raises:
            EngineError: `length` is negative or more than is cached.
        """
        self._kv = self._cut(length, "rewind to")
        del self._tokens[length:]

    def fork(self, length: int) -> GenericOnnxSequence:
        """Another sequence with the first `length` tokens.

        Raises:
            EngineError: `length` is negative or more than is cached.
        """
        other = GenericOnnxSequence(self._engine)
        other._kv = self._cut(length, "fork")
        other._tokens = self._tokens[:length]
        return other

    def _cut(self, length: int, what: str) -> dict[str, npt.NDArray[Any]]:
        self._check_length(length, what)
        return {name: np.ascontiguousarray(array[:, :, :length]) for name, array in self._kv.items()}

    def close(self) -> None:
        """Give the memory back; the sequence is empty afterwards."""
        self._kv = {name: empty for name, (_, empty) in self._engine.past.items()}
        self._tokens = []
