"""The sentences of the stories: `templates.txt`, by move and family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

__all__ = ["SPLITS", "Split", "Templates", "load_templates"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
FILE = Path(__file__).with_name("templates.txt")


@dataclass(frozen=True)
class Templates:
    """Sentences by move and family, and the words to fill them."""

    sentences: Mapping[str, Mapping[str, tuple[str, ...]]]
    words: Mapping[str, tuple[str, ...]]


@lru_cache(maxsize=1)
def load_templates(path: Path = FILE) -> Templates:
    """The sentences of `templates.txt`.

    Raises:
        ValueError: a line that no family has, or a line that two families share; names it.
    """
    sentences: dict[str, dict[str, list[str]]] = {}
    words: dict[str, tuple[str, ...]] = {}
    section = ""
    owner: dict[tuple[str, str], str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
        elif section in ("names", "things", "containers"):
            words[section] = tuple(line.split("|"))
        else:
            family, _, sentence = line.partition(": ")
            if family not in SPLITS or not sentence:
                raise ValueError(f"{path}: [{section}] has no family in the line {line!r}")
            if owner.setdefault((section, sentence), family) != family:
                raise ValueError(f"{path}: [{section}] has {sentence!r} in two families")
            sentences.setdefault(section, {}).setdefault(family, []).append(sentence)
    fixed = {move: {f: tuple(s) for f, s in families.items()} for move, families in sentences.items()}
    return Templates(fixed, words)
