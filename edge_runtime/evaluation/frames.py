"""The pocket frame: messages in, compact JSON out, and when two frames are the same.

`docs/pocket-format.md` is the specification; `tests/vectors/pocket/` holds its vectors. Knows nothing of
models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Scalar = str | int | float
Slots = dict[str, Scalar | list[Scalar]]

HOME_ASSISTANT = "ha"
HWU64 = "hwu64"
NO_INTENT = "none"

# Slots of Home Assistant frames come in this order, the others after them in alphabetical order.
HA_SLOT_ORDER = ("name", "area", "floor", "domain", "device_class", "state")


@dataclass(frozen=True)
class Frame:
    """An intent with its slots; a slot that occurs several times has a list of values in order of mention."""

    intent: str
    slots: Slots

    def to_json(self) -> str:
        """The compact JSON normal form: no spaces, `intent` first, non-ASCII characters as they are."""
        return json.dumps(
            {"intent": self.intent, "slots": self.slots}, ensure_ascii=False, separators=(",", ":")
        )


def normalise_text(text: str) -> str:
    """Lower case, typographic apostrophes made plain, runs of white space made one space, ends trimmed."""
    return " ".join(text.lower().replace("\u2019", "'").replace("\u2018", "'").split())


def normalise_value(value: object) -> str:
    """The form in which two slot values are compared: a string.

    Numbers compare by value (`50`, `50.0` and `"50"` are the same); strings by `normalise_text`.

    Raises:
        ValueError: the value is neither string nor finite number.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"slot value {value!r} is not a finite number")
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, str):
        return normalise_text(value)
    raise ValueError(f"slot value {value!r} is neither text nor a number")


def pairs(slots: Mapping[str, object]) -> frozenset[tuple[str, str]]:
    """The set of (slot, normalised value): one pair per distinct value of a list, none for an empty one."""
    found: set[tuple[str, str]] = set()
    for slot, value in slots.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            text = normalise_value(item)
            if text:
                found.add((normalise_text(slot), text))
    return frozenset(found)


def parse_frame(text: str) -> Frame | None:
    """Read a frame from a model's output, or None where the text is no frame."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("intent"), str):
        return None
    slots = data.get("slots", {})
    if not isinstance(slots, dict):
        return None
    try:
        pairs(slots)
    except ValueError:
        return None
    return Frame(data["intent"], slots)


def same_frame(left: Frame, right: Frame) -> bool:
    """Whether the intents and the sets of (slot, value) pairs agree after normalisation."""
    return normalise_text(left.intent) == normalise_text(right.intent) and pairs(left.slots) == pairs(
        right.slots
    )


def collect(spans: Iterable[tuple[str, Scalar]]) -> Slots:
    """Slots from (slot, value) in order of mention: repeats become a list, exact repeats are said once."""
    slots: Slots = {}
    for slot, value in spans:
        if slot not in slots:
            slots[slot] = value
            continue
        held = slots[slot]
        values = held if isinstance(held, list) else [held]
        if value not in values:
            slots[slot] = [*values, value]
    return slots


def home_frame(intent: str, slots: Mapping[str, Any]) -> Frame:
    """A Home Assistant frame in normal form: lower-case text, numbers as JSON numbers, the documented slot
    order.

    A list (alternatives, in Home Assistant's tests) whose values agree after normalisation becomes one value.
    """

    def clean(value: object) -> Scalar:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value) if float(value).is_integer() else float(value)
        return normalise_value(value)

    def rank(slot: str) -> tuple[int, str]:
        return (HA_SLOT_ORDER.index(slot) if slot in HA_SLOT_ORDER else len(HA_SLOT_ORDER), slot)

    ordered: list[tuple[str, Scalar]] = []
    for slot in sorted(slots, key=rank):
        value = slots[slot]
        ordered += [(slot, clean(item)) for item in (value if isinstance(value, (list, tuple)) else [value])]
    return Frame(intent, collect(ordered))


def hwu_frame(intent: str, entities: Iterable[Mapping[str, Any]]) -> Frame:
    """A frame of the assistant dialect from hwu64's entity spans, in order of mention."""
    ordered = sorted(entities, key=lambda entity: (entity["start"], entity["end"]))
    return Frame(intent, collect((str(e["entity"]), normalise_text(str(e["value"]))) for e in ordered))


def messages(text: str, dialect: str | None = None, area: str | None = None) -> list[dict[str, str]]:
    """The chat messages that ask for a frame: a system message of `frames:` and `area:` lines, the user's."""
    lines = []
    if dialect is not None:
        lines.append(f"frames: {dialect}")
    if area:
        lines.append(f"area: {area}")
    system = [{"role": "system", "content": "\n".join(lines)}] if lines else []
    return [*system, {"role": "user", "content": text}]
