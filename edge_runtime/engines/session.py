"""What the ONNX Runtime engines share: how a session is made, held and given back, and what a sequence
of tokens may be asked.

Knows onnxruntime's sessions. Does not know what a graph takes and gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime import ort
from edge_runtime.engines.base import EngineInfo
from edge_runtime.engines.tuning import SessionTuning
from edge_runtime.errors import ContextOverflowError, EngineError, first_line

__all__ = ["SessionEngine", "SessionSequence", "create_session"]


class SessionEngine:
    """An onnxruntime session with its facts; an engine adds the sequences."""

    def __init__(self, session: Any, info: EngineInfo, tuning: SessionTuning) -> None:
        self._session: Any = session
        self._info, self.tuning = info, tuning

    @property
    def info(self) -> EngineInfo:
        """Static facts."""
        return self._info

    @property
    def session(self) -> Any:
        """The onnxruntime session.

        Raises:
            EngineError: the engine has been closed.
        """
        if self._session is None:
            raise EngineError(
                f"the engine of model '{self._info.model_id}' has been closed: open the model again"
            )
        return self._session

    def close(self) -> None:
        """Give the weights back (once the last sequence is gone)."""
        self._session = None


class SessionSequence:
    """The tokens of one sequence and what may be asked of them; a kind of graph adds the cache."""

    def __init__(self, info: EngineInfo) -> None:
        self._info = info
        self._tokens: list[int] = []

    @property
    def tokens(self) -> list[int]:
        """The tokens whose keys and values are in the cache (a copy)."""
        return self._tokens.copy()

    @property
    def length(self) -> int:
        """Number of cached tokens."""
        return len(self._tokens)

    def _check_input(self, tokens: Sequence[int], num_logits: int) -> None:
        """Refuse what `forward` cannot take.

        Raises:
            ContextOverflowError: the cache would exceed the context length; names both numbers.
            EngineError: `num_logits` or a token is out of range.
        """
        info, count, cached = self._info, len(tokens), len(self._tokens)
        if not 1 <= num_logits <= count:
            raise EngineError(f"num_logits={num_logits} must be between 1 and the number of tokens ({count})")
        if min(tokens) < 0 or max(tokens) >= info.vocab_size:
            wrong = min(tokens) if min(tokens) < 0 else max(tokens)
            raise EngineError(f"token {wrong} is not in the vocabulary of {info.vocab_size} tokens")
        if cached + count > info.context_length:
            raise ContextOverflowError(
                f"the sequence would hold {cached + count} tokens ({cached} cached and {count} new), but the "
                f"context of model '{info.model_id}' is {info.context_length} tokens: shorten the input, or "
                "ask for overflow='slide'"
            )

    def _check_length(self, length: int, what: str) -> None:
        if not 0 <= length <= len(self._tokens):
            raise EngineError(f"cannot {what} {length} tokens: the sequence holds {len(self._tokens)}")


def create_session(path: Path, tuning: SessionTuning) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, set up as `tuning` says; weights are mapped, not read.

    Raises:
        EngineError: onnxruntime refuses the file; names it and the reason.
    """
    onnxruntime = ort.load()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = tuning.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = tuning.arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if tuning.spin else "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if tuning.spin_us is not None:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(tuning.spin_us))
    if tuning.dynamic_block:
        options.add_session_config_entry("session.dynamic_block_base", str(tuning.dynamic_block))
    if not path.is_file():
        raise EngineError(
            f"the model file {path} is missing: verify the package with 'edge-runtime models verify'"
        )
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(
            f"onnxruntime {onnxruntime.__version__} cannot load {path}: {first_line(error)}"
        ) from error
