"""A loaded model that is asked again: what `offload.probes` needs of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.errors import ChatTemplateError, ContextOverflowError
from edge_runtime.sampling import SamplingParams

if TYPE_CHECKING:
    from edge_runtime.model import LoadedModel

__all__ = ["ModelProber"]

DOES_NOT_FIT = (ContextOverflowError, ChatTemplateError)


class ModelProber:
    """`offload.probes.Prober` over a model; answers have at most `max_tokens` tokens."""

    def __init__(self, model: LoadedModel, max_tokens: int) -> None:
        self._model, self._max_tokens = model, max_tokens

    def sample(self, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int) -> str | None:
        """A whole answer; `None` where the conversation does not fit the model."""
        params = SamplingParams(temperature=temperature, seed=seed, max_tokens=self._max_tokens)
        try:
            return self._model.generate(self._model.prompt(messages), params).text
        except DOES_NOT_FIT:
            return None

    def choice(self, messages: Sequence[Mapping[str, str]], options: Sequence[str]) -> dict[str, float]:
        """Probability of each option's first token, with or without a space before it, out of all options'.

        A first token that several options share tells nothing and is left out. `{}` when an option has no
        other, or the conversation does not fit the model.
        """
        first: list[set[int]] = []
        for option in options:
            spelled = (self._model.tokenizer.encode(text) for text in (option, f" {option}"))
            first.append({tokens[0] for tokens in spelled if tokens})
        often = Counter(token for tokens in first for token in tokens)
        first = [{token for token in tokens if often[token] == 1} for tokens in first]
        if not all(first):
            return {}
        sequence = self._model.engine.new_sequence()
        try:
            row = sequence.forward(self._model.prompt(messages), want_logits=True).logits
            if row is None:
                return {}
            logits = np.asarray(row[-1], np.float64)
        except DOES_NOT_FIT:
            return {}
        finally:
            sequence.close()
        shares = np.array([np.logaddexp.reduce(logits[sorted(ids)]) for ids in first])
        shares = np.exp(shares - np.logaddexp.reduce(shares))
        return dict(zip(options, shares.tolist(), strict=True))
