"""Text for calibration and reports: a file → rows of token ids.

A `.jsonl` file has one JSON object per line; its `text` is one row, so that a conversation or a frame is
never cut in two. Any other file is plain UTF-8, tokenized as a whole and cut into windows. This module
knows files and tokens; it does not know models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from quantize.errors import CheckpointError

__all__ = ["WINDOW", "Encode", "read_rows"]

WINDOW = 512
"""Tokens of a row at most: enough context to be in the model's usual state, small enough for a device."""

Encode = Callable[[str], Sequence[int]]


def read_rows(
    path: Path, encode: Encode, *, window: int = WINDOW, limit: int | None = None, start: Sequence[int] = ()
) -> list[list[int]]:
    """Rows of 2 … `window` token ids.

    Args:
        path: the text, plain or `.jsonl`.
        encode: text → token ids.
        window: longest row, tokens; `start` included.
        limit: stop after about this many tokens; default: the whole file.
        start: tokens that begin every row (the start-of-text token of models that want one).

    Raises:
        CheckpointError: the file is missing, not UTF-8, not JSON lines with `text`, or too short.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"the text file {path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the text file {path} cannot be read as UTF-8 text: {error}") from error
    texts = _json_lines(path, content) if path.suffix == ".jsonl" else [content]
    room = window - len(start)
    rows: list[list[int]] = []
    taken = 0
    for text in texts:
        ids = list(encode(text))
        if tuple(ids[: len(start)]) == tuple(start):
            ids = ids[len(start) :]
        for at in range(0, len(ids), room):
            row = [*start, *ids[at : at + room]]
            if len(row) < 2:
                continue
            rows.append(row)
            taken += len(row)
            if limit is not None and taken >= limit:
                return rows
    if not rows:
        raise CheckpointError(f"the text file {path} has too little text: at least two tokens are needed")
    return rows


def _json_lines(path: Path, content: str) -> list[str]:
    texts = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            text = value["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise CheckpointError(
                f'{path}, line {number}: expected a JSON object like {{"text": "..."}}, got {line[:60]!r}'
            )
        texts.append(text)
    return texts
