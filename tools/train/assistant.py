"""hwu64 rows as segments, so that slot values can be exchanged; the gazetteer of values by entity type."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.evaluation.frames import Frame, collect, normalise_text

from .names import CITIES, ITEMS, PEOPLE, TITLES, WORDS

# Intents that the Home Assistant dialect owns when no dialect is asked for.
HOME_OWNS = (
    "iot_hue_", "iot_wemo_", "iot_cleaning", "audio_volume_", "lists_", "play_music", "weather_query",
    "datetime_query", "music_settings",
)  # fmt: skip

# Entity types that may be called anything.
OPEN = frozenset(WORDS["open entities"])


@dataclass(frozen=True)
class Row:
    """An utterance in segments (text, entity type or None) and its intent."""

    intent: str
    segments: tuple[tuple[str, str | None], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.segments)

    def frame(self) -> Frame:
        spans = ((entity, normalise_text(text)) for text, entity in self.segments if entity)
        return Frame(self.intent, collect(spans))


def read_jsonl(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def to_row(data: dict[str, object]) -> Row:
    """Segments of a raw row; overlapping spans keep the first."""
    text, at, segments = str(data["text"]), 0, []
    entities = data["entities"]
    assert isinstance(entities, list)
    for e in sorted(entities, key=lambda e: (e["start"], e["end"])):
        if e["start"] < at:
            continue
        segments += [(text[at : e["start"]], None), (text[e["start"] : e["end"]], e["entity"])]
        at = e["end"]
    segments.append((text[at:], None))
    return Row(str(data["intent"]), tuple((t.lower(), k) for t, k in segments if t))


def split(rows: list[Row], held: int, rng: random.Random) -> tuple[list[Row], list[Row]]:
    """(train, validation), drawn at random; a text that both parts have is left to training alone."""
    order = list(rows)
    rng.shuffle(order)
    validation, train = order[:held], order[held:]
    seen = {row.text for row in train}
    return train, [row for row in validation if row.text not in seen]


class Gazetteer:
    """Values by entity type: those of the training rows, and open lists for a few types."""

    def __init__(self, rows: Collection[Row]) -> None:
        values: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            for text, entity in row.segments:
                if entity and len(text) < 40:
                    values[entity].add(text)
        extra = {
            "person": PEOPLE,
            "place_name": CITIES,
            "song_name": TITLES,
            "artist_name": TITLES,
            "food_type": ITEMS[:30],
        }
        for entity, more in extra.items():
            values[entity].update(more)
        self.values = {entity: sorted(found) for entity, found in values.items()}

        self.words = sorted({w for row in rows for w in row.text.split() if w.isalpha() and len(w) > 2})

    def draw(self, entity: str, rng: random.Random) -> str:
        """A value of this type; for names and titles now and then any words, to be copied all the same."""
        if entity in OPEN and rng.random() < 0.12:
            return " ".join(rng.choice(self.words) for _ in range(rng.choice((1, 1, 2, 3))))
        return make_value(entity, rng) or rng.choice(self.values[entity])


_DAYS, _MONTHS, _HOURS = WORDS["days"], WORDS["months"], WORDS["hours"]
_ORDINALS = WORDS["ordinals"]


def make_value(entity: str, rng: random.Random) -> str | None:
    """An invented value for times and dates, which have many forms; None: take a listed one."""
    if rng.random() < 0.6:
        return None
    if entity == "time":
        hour = rng.choice((rng.choice(_HOURS), str(rng.randint(1, 12))))
        minute = rng.choice(("", "", "", " thirty", " fifteen", f":{rng.randint(0, 59):02d}"))
        if minute.startswith(":"):
            hour = str(rng.randint(1, 12))
        return (
            hour
            + minute
            + rng.choice(
                ("", " am", " pm", " a. m.", " p. m.", " o'clock" if not minute else " pm", "pm", "am")
            )
        )
    if entity == "date":
        day = rng.choice(_DAYS)
        month = f"{rng.choice(_MONTHS)} {rng.choice((rng.choice(_ORDINALS), str(rng.randint(1, 31))))}"
        return rng.choice(
            (
                day,
                f"next {day}",
                f"this {day}",
                month,
                "tomorrow",
                "today",
                "next week",
                f"the {rng.choice(_ORDINALS)}",
            )
        )
    return None
