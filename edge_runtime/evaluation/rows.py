"""Evaluation rows: JSON lines of the public sets' formats, as cases that can be asked and marked.

    hwu64       {"text", "intent", "entities": [{"start", "end", "value", "entity"}]}  as `frames: hwu64`
    ha_intents  {"text", "intent", "slots": {…}, "context": {"area"?}}                  as `frames: ha`
    clinc150    {"text", "intent"}                                                      without a dialect

A row of the last kind with the intent `oos` wants the frame `none`; any other is nobody's business to mark.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from edge_runtime.errors import DataError
from edge_runtime.evaluation.frames import (
    HOME_ASSISTANT,
    HWU64,
    NO_INTENT,
    Frame,
    home_frame,
    hwu_frame,
    messages,
    pairs,
)

__all__ = ["FrameCase", "Kind", "data_folder", "find", "read", "read_rows", "to_case"]

Kind = Literal["hwu64", "ha_intents", "oos", "clinc150"]
OUT_OF_SCOPE = "oos"

T = TypeVar("T")


@dataclass(frozen=True)
class FrameCase:
    """An utterance to ask, and the right frame (None where there is none to compare with)."""

    kind: Kind
    text: str
    reference: Frame | None
    area: str | None = None

    def messages(self, *, tagged: bool = True) -> list[dict[str, str]]:
        """The conversation; `tagged=False` leaves the dialect to the model."""
        dialect = {"hwu64": HWU64, "ha_intents": HOME_ASSISTANT}.get(self.kind) if tagged else None
        return messages(self.text, dialect, self.area)


def to_case(row: Mapping[str, Any]) -> FrameCase:
    """A row of one of the formats.

    Raises:
        ValueError: something is missing or of the wrong type; the message says what.
    """
    text, intent = row.get("text"), row.get("intent")
    if not isinstance(text, str) or not isinstance(intent, str):
        raise ValueError("needs 'text' and 'intent', both text")  # noqa: TRY004 - a wrong row, not a wrong call
    if "entities" in row:
        entities = row["entities"]
        keys = ("start", "end", "value", "entity")
        if not isinstance(entities, list) or not all(
            isinstance(e, dict) and all(k in e for k in keys) for e in entities
        ):
            raise ValueError("needs 'entities' to be a list of objects with start, end, value and entity")
        return FrameCase("hwu64", text, hwu_frame(intent, entities))
    if "slots" in row:
        slots, context = row["slots"], row.get("context") or {}
        if not isinstance(slots, dict) or not isinstance(context, dict):
            raise ValueError("needs 'slots' and 'context' to be objects")
        pairs(slots)
        area = context.get("area")
        return FrameCase(
            "ha_intents", text, home_frame(intent, slots), area if isinstance(area, str) else None
        )
    if intent == OUT_OF_SCOPE:
        return FrameCase("oos", text, Frame(NO_INTENT, {}))
    return FrameCase("clinc150", text, None)


def read(path: Path, limit: int | None = None) -> list[FrameCase]:
    """Cases of a JSON-lines file of utterances; see `read_rows`."""
    return read_rows(path, to_case, "a row is an object as in hwu64, ha_intents or clinc150", limit)


def read_rows(
    path: Path, convert: Callable[[Mapping[str, Any]], T], form: str, limit: int | None = None
) -> list[T]:
    """Cases of a JSON-lines file, made by `convert`; empty lines are skipped.

    Args:
        form: what a row is, for the error.
        limit: rows taken at most.

    Raises:
        DataError: the file cannot be read, or `convert` refuses a line (ValueError); names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    cases: list[T] = []
    for number, line in enumerate(lines, 1):
        if limit is not None and len(cases) >= limit:
            break
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("is not a JSON object")  # noqa: TRY004, TRY301
            cases.append(convert(row))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: {error}; {form}") from error
    if not cases:
        raise DataError(f"{path} has no rows")
    return cases


def data_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """`EDGE_DATA_DIR`, by default `edge-runtime/datasets` in the XDG data folder."""
    if environ.get("EDGE_DATA_DIR"):
        return Path(environ["EDGE_DATA_DIR"])
    from platformdirs import user_data_path

    return user_data_path("edge-runtime") / "datasets"


def find(names: Iterable[str], environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Files of the data folder, such as `hwu64/test.jsonl`.

    Raises:
        DataError: one is missing; says where it was looked for and what to do.
    """
    folder = data_folder(environ)
    paths = [folder / name for name in names]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"{path} is not there: set EDGE_DATA_DIR to the folder of the data sets, "
                "or name a file with --data"
            )
    return paths
