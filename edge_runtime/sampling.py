"""From raw scores to the next token: greedy, temperature, top-k, top-p, min-p, penalties, bias, mask, seed.

The order is that of transformers' logits processors: repetition penalty, presence and frequency penalties,
bias, grammar mask, temperature, top-k, top-p, min-p. Where the k best tokens of the engine decide (greedy, a
small top_k, a nucleus that they cover) the whole row is not looked at; the result is the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.engines.base import Scores
from edge_runtime.errors import EngineError, GrammarError, SamplingError

__all__ = ["Mask", "Sampler", "SamplingParams"]

_MAX_BIAS = 100.0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop. `temperature=0` is greedy.

    `top_k=0`, `top_p=1`, `min_p=0` and penalties of 1 (repetition) or 0 (presence, frequency) are off.
    `seed=None` draws a fresh seed. `max_tokens=None` goes on to the end of the context. `logit_bias` adds
    nats to the logits of token ids. `ignore_eos` keeps generating past the end token (for measurements).

    Raises:
        SamplingError: a value out of range; names the field, the value and the range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, 100.0)
        _whole("top_k", self.top_k, 0)
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.0, 10.0, open_low=True)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            _whole("seed", self.seed, 0)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if not all(isinstance(s, str) and s for s in stop):
            raise SamplingError(
                f"stop={self.stop!r} is wrong: it must be one or more strings that are not empty"
            )
        object.__setattr__(self, "stop", stop)
        bias = {}
        for token, value in dict(self.logit_bias).items():
            # JSON has string keys only, and OpenAI's clients send the ids that way.
            if not str(token).isdigit():
                raise SamplingError(
                    f"logit_bias has the key {token!r}: keys must be token ids (whole numbers, 0 or more)"
                )
            _number(f"logit_bias[{token}]", value, -_MAX_BIAS, _MAX_BIAS)
            bias[int(token)] = float(value)
        object.__setattr__(self, "logit_bias", bias)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SamplingParams:
        """Parameters by name (of a query, a manifest's defaults, a configuration); `None` means the default.

        Raises:
            SamplingError: an unknown name or a value out of range.
        """
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise SamplingError(
                    f"unknown sampling parameter '{name}'; known ones: {', '.join(sorted(known))}"
                )
        return cls(**{name: value for name, value in values.items() if value is not None})

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def reshapes(self) -> bool:
        """Whether penalties or biases change the order of the raw distribution."""
        return bool(
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.logit_bias
        )


class Mask:
    """Which tokens a grammar allows: one bit per token, least significant bit first, int32 words."""

    __slots__ = ("_allowed", "words")

    def __init__(self, words: npt.NDArray[np.int32]) -> None:
        self.words = words
        self._allowed: npt.NDArray[np.bool_] | None = None

    def __contains__(self, token_id: int) -> bool:
        return bool((int(self.words[token_id >> 5]) >> (token_id & 31)) & 1)

    def allowed(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """bool [V]; tokens behind the last word are not allowed."""
        if self._allowed is None:
            bits = np.unpackbits(self.words.view(np.uint8), bitorder="little")[:vocab_size].astype(np.bool_)
            self._allowed = np.pad(bits, (0, vocab_size - bits.size))
        return self._allowed


class Sampler:
    """Chooses tokens for one generation; holds the random state and the counts for penalties.

    Args:
        params: how to choose.
        prompt: the prompt's tokens, which the repetition penalty counts too (as transformers does); presence
            and frequency penalties count generated tokens alone (as OpenAI's API does).
        entropy: the seed to use when `params.seed` is `None`; `None` takes one from the system.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int] = (), *, entropy: int | None = None
    ) -> None:
        self.params = params
        self._seed = params.seed if params.seed is not None else entropy
        self._random: np.random.Generator | None = None
        self._seen = set(prompt) if params.repetition_penalty != 1 else set()
        self._generated: Counter[int] = Counter()

    def wants_row(self, topk: int, *, masked: bool) -> bool:
        """Whether a step must make the whole row of logits available, given the engine's top-k."""
        params = self.params
        if masked or params.reshapes:
            return True
        return not (params.greedy or 0 < params.top_k <= topk)

    def commit(self, token_id: int) -> None:
        """Count a token that became part of the text (chosen or forced)."""
        params = self.params
        if params.repetition_penalty != 1:
            self._seen.add(token_id)
        if params.presence_penalty or params.frequency_penalty:
            self._generated[token_id] += 1

    def choose(self, scores: Scores, row: int = 0, mask: Mask | None = None) -> int:
        """The next token for row `row` of `scores`.

        Raises:
            GrammarError: the mask allows no token.
            EngineError: the row is not a number (a damaged model), or the whole row is needed but absent.
        """
        if not math.isfinite(scores.lse[row]):
            raise EngineError(
                f"the model's scores are not finite (log-sum-exp {scores.lse[row]}): its weights are damaged"
            )
        params = self.params
        if not params.reshapes:
            ids, logits = scores.topk_ids[row], scores.topk_logits[row]
            if mask is None and params.greedy:
                return int(ids[0])
            if mask is not None:
                keep = [i for i, token in enumerate(ids.tolist()) if token in mask]
                if params.greedy and keep:
                    return int(
                        ids[keep[0]]
                    )  # the k best are in order: the first allowed one is the masked best
                ids, logits = ids[keep], logits[keep]
            found = (
                None if params.greedy else self._from_best(ids, logits, float(scores.lse[row]), mask is None)
            )
            if found is not None:
                return self._draw(*found)
        if scores.logits is None:
            raise EngineError("the sampling parameters need the whole row of logits, which was not asked for")
        return self._from_row(scores.logits[row], mask)

    def _from_best(
        self, ids: npt.NDArray[np.int64], logits: npt.NDArray[np.float32], lse: float, unmasked: bool
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
        """Candidates and weights when the k best decide, else `None`; `ids` descend in their logits."""
        params = self.params
        if not len(ids):
            return None
        scaled = logits.astype(np.float64) / params.temperature
        if 0 < params.top_k <= len(ids):
            return _filter(ids[: params.top_k], scaled[: params.top_k], params, None)
        if params.top_k or not unmasked:
            return None
        if params.temperature == 1 and params.top_p < 1:
            # log-sum-exp gives the exact share of the k best, so a nucleus they cover needs nothing else.
            if float(np.exp(scaled - lse).sum()) >= params.top_p:
                return _filter(ids, scaled, params, lse)
            return None
        if params.min_p > 0 and params.top_p == 1 and scaled[-1] - scaled[0] < math.log(params.min_p):
            return _filter(ids, scaled, params, None)
        return None

    def _from_row(self, raw: npt.NDArray[np.float32], mask: Mask | None) -> int:
        params = self.params
        logits = raw.astype(np.float64)
        if params.reshapes:
            self._reshape(logits)
        if mask is not None:
            logits[~mask.allowed(len(logits))] = -np.inf
        best = int(np.argmax(logits))
        if not math.isfinite(logits[best]):
            raise GrammarError("the grammar allows no token here: it cannot be followed with this vocabulary")
        if params.greedy:
            return best
        scaled = logits / params.temperature
        lse: float | None = None
        if params.top_k:
            ids = _largest(scaled, params.top_k)
        elif params.top_p < 1:
            lse = float(scaled[best] + np.log(np.exp(scaled - scaled[best]).sum()))
            ids = _nucleus(scaled, params.top_p, lse)
        elif params.min_p > 0:
            ids = np.flatnonzero(scaled >= scaled[best] + math.log(params.min_p))
        else:
            return self._draw(np.arange(len(scaled)), np.exp(scaled - scaled[best]))
        ids = ids[np.lexsort((ids, -scaled[ids]))]
        return self._draw(*_filter(ids, scaled[ids], params, lse))

    def _reshape(self, logits: npt.NDArray[np.float64]) -> None:
        params = self.params
        if params.repetition_penalty != 1 and self._seen:
            # Keskar et al., CTRL (arXiv 1909.05858): divide positive logits, multiply negative ones.
            seen = np.fromiter(self._seen, np.int64)
            values = logits[seen]
            logits[seen] = np.where(
                values > 0, values / params.repetition_penalty, values * params.repetition_penalty
            )
        for token, count in self._generated.items():
            logits[token] -= params.presence_penalty + params.frequency_penalty * count
        for token, value in params.logit_bias.items():
            if token >= len(logits):
                raise SamplingError(
                    f"logit_bias names token {token}, but the vocabulary has {len(logits)} tokens"
                )
            logits[token] += value

    def _draw(self, ids: npt.NDArray[Any], weights: npt.NDArray[np.float64]) -> int:
        """One uniform number per token, whichever path led here, so that a seed means one text."""
        if (
            self._random is None
        ):  # seeding costs more than a step of a small model, and greedy texts need none
            self._random = np.random.Generator(np.random.PCG64(self._seed))
        cumulative = np.cumsum(weights)
        at = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        return int(ids[min(at, len(ids) - 1)])


def _filter(
    ids: npt.NDArray[Any], scaled: npt.NDArray[np.float64], params: SamplingParams, lse: float | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Apply top-p, then min-p, to descending candidates; `lse` normalises where they are not everything."""
    weights = np.exp(scaled - scaled[0])
    if params.top_p < 1:
        shares = np.exp(scaled - lse) if lse is not None else weights / weights.sum()
        # The smallest set whose share reaches top_p: a token stays while the share before it is below.
        kept = int(np.count_nonzero(np.cumsum(shares) - shares < params.top_p))
        ids, weights = ids[: max(1, kept)], weights[: max(1, kept)]
    if params.min_p > 0:
        keep = weights >= params.min_p
        ids, weights = ids[keep], weights[keep]
    return ids, weights


def _largest(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Ids of the `count` largest finite values, in no order; ties at the edge go to the smaller id."""
    count = min(count, int(np.count_nonzero(np.isfinite(values))))
    if count >= len(values):
        return np.arange(len(values))
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)[: count - len(above)]
    return np.concatenate([above, equal])


def _nucleus(scaled: npt.NDArray[np.float64], top_p: float, lse: float) -> npt.NDArray[np.int64]:
    """Enough of the largest values to hold a share of `top_p`; sorting everything would cost milliseconds."""
    count = 64
    while True:
        ids = _largest(scaled, count)
        if len(ids) < count or float(np.exp(scaled[ids] - lse).sum()) >= top_p:
            return ids
        count *= 8


def _number(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= float(value) <= high or (open_low and value == low):  # type: ignore[arg-type]
        raise SamplingError(
            f"{name}={value!r} is out of range: it must be a number {'above' if open_low else 'from'} "
            f"{low:g} {'and at most' if open_low else 'to'} {high:g}"
        )


def _whole(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise SamplingError(f"{name}={value!r} is out of range: it must be a whole number, {low} or more")
