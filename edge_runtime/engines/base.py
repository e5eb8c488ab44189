"""The seam that every engine fills (ONNX Runtime today; MLC is the second)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Engine", "EngineInfo", "Scores", "SequenceState"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a caller may need to know of a loaded engine."""

    name: str
    model_id: str
    vocab_size: int
    context_length: int
    topk: int
    threads: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw next-token scores for the last M positions of a forward pass (one row each).

    `topk_ids` int64 [M, K] and `topk_logits` float32 [M, K], descending; `lse` (log-sum-exp) and `entropy`
    float32 [M], nats, both over the whole vocabulary; `logits` float32 [M, V], or `None` unless asked for.
    All are of the raw model distribution: nothing has been scaled, penalised or masked. `logits` may be
    memory that the sequence's next forward pass writes over (copy it to keep it); the small arrays are the
    caller's.
    """

    topk_ids: npt.NDArray[np.int64]
    topk_logits: npt.NDArray[np.float32]
    lse: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32] | None = None


class SequenceState(Protocol):
    """The KV state of one token sequence. Not thread-safe; several states share one engine's weights."""

    @property
    def tokens(self) -> list[int]:
        """The tokens whose keys and values are in the cache (a copy)."""
        ...

    @property
    def length(self) -> int:
        """Number of cached tokens."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of KV memory set aside for this sequence."""
        ...

    def forward(self, tokens: Sequence[int], *, num_logits: int = 1, want_logits: bool = False) -> Scores:
        """Append `tokens` to the cache and score what follows the last `num_logits` of them.

        Long inputs are split into chunks by the engine.

        Raises:
            ContextOverflowError: the cache would exceed the context length (names both numbers).
            EngineError: the backend failed.
        """
        ...

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens.

        Raises:
            EngineError: `length` is negative or more than is cached.
        """
        ...

    def fork(self, length: int) -> SequenceState:
        """Another sequence that starts with a copy of the first `length` tokens of this one."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Engine(Protocol):
    """A loaded model."""

    @property
    def info(self) -> EngineInfo:
        """Static facts."""
        ...

    def new_sequence(self) -> SequenceState:
        """An empty KV state over these weights."""
        ...

    def close(self) -> None:
        """Give the weights back."""
        ...
