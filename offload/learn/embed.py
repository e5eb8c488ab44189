"""Sentence embedders that a user names: further features of a prompt, beside those that need no download.

Knows: how one is found and checked. Does not know: any embedder; none is a dependency.

A router's file holds the name of its embedder and never makes it run: whoever applies the router names it
again, since importing what a file says would run code that came with a download.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from offload.errors import OffloadError
from offload.learn.features import Floats

__all__ = ["Embedder", "embedded", "named", "remembering"]

Embedder = Callable[[Sequence[str]], npt.ArrayLike]
"""Texts → vectors of one length, [texts, size]."""


def named(name: str) -> Embedder:
    """An embedder by name: `package.module:function`, or a model of the package sentence-transformers.

    Raises:
        OffloadError: the package, module or function is not there.
    """
    module, colon, function = name.partition(":")
    if not colon:
        module, function = "sentence_transformers", "SentenceTransformer"
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        hint = (
            ""
            if colon
            else " (pip install sentence-transformers), or name a function as package.module:function"
        )
        raise OffloadError(f"the embedder '{name}' needs the Python package '{error.name}'{hint}") from error
    except AttributeError as error:
        raise OffloadError(f"the embedder '{name}': {module} has no '{function}'") from error
    made: Embedder = found if colon else found(name).encode
    return made


def embedded(embedder: Embedder, texts: Sequence[str]) -> Floats:
    """The texts' vectors: float64 [texts, size].

    Raises:
        OffloadError: the embedder gave something else; says what.
    """
    vectors = np.asarray(embedder(texts), np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise OffloadError(
            f"the embedder gave an array of shape {vectors.shape} for {len(texts)} texts; it has to give one "
            "vector of finite numbers for each"
        )
    return vectors


def remembering(embedder: Embedder) -> Embedder:
    """The embedder, asked once for each text."""
    known: dict[str, Floats] = {}

    def embed(texts: Sequence[str]) -> Floats:
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if new:
            known.update(zip(new, embedded(embedder, new), strict=True))
        return np.stack([known[text] for text in texts]) if texts else np.zeros((0, 0))

    return embed
