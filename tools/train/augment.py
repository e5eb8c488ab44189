"""Small changes to an utterance that keep its frame: exchanged values, slips of fingers and ears."""

from __future__ import annotations

import random

from .assistant import Gazetteer, Row

_BEFORE = (
    "hey ",
    "please ",
    "can you ",
    "could you please ",
    "olly ",
    "ok ",
    "hey olly ",
    "hi ",
    "i want you to ",
    "would you ",
    "so ",
)
_AFTER = (" please", " olly", " now", " thanks", ".", "?", "!", " please.", " for me")
_SMALL = frozenset(("the", "a", "an", "my", "of", "to", "please", "me", "is", "in", "on", "for"))
_HEARD = {
    "to": "two",
    "two": "to",
    "for": "four",
    "their": "there",
    "your": "you're",
    "are": "our",
    "i'm": "im",
    "what's": "whats",
    "don't": "dont",
    "it's": "its",
    "you": "u",
    "okay": "ok",
    "tonight": "tonite",
    "what is": "what's",
    "that's": "thats",
}
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def slip(word: str, rng: random.Random) -> str:
    """One typing error: a swap, a loss, a doubling or a neighbouring key."""
    if len(word) < 4 or not word.isalpha():
        return word
    i = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 1:
        return word[:i] + word[i + 1 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    row = next((r for r in _KEYS if word[i] in r), "a")
    j = row.find(word[i]) + rng.choice((-1, 1))
    return word[:i] + row[max(0, min(j, len(row) - 1))] + word[i + 1 :]


def noise(text: str, rng: random.Random, rate: float) -> str:
    """Typing errors, mishearings and lost small words, each word with probability `rate`."""
    words = []
    for word in text.split(" "):
        if rng.random() >= rate:
            words.append(word)
        elif word in _HEARD and rng.random() < 0.5:
            words.append(_HEARD[word])
        elif word not in _SMALL:
            words.append(slip(word, rng))
    return " ".join(words)


def exchange(row: Row, gazetteer: Gazetteer, rng: random.Random) -> Row:
    """The row with some slot values exchanged for others of the same type."""
    return Row(
        row.intent,
        tuple(
            (gazetteer.draw(entity, rng), entity) if entity and rng.random() < 0.7 else (text, entity)
            for text, entity in row.segments
        ),
    )


def vary(row: Row, gazetteer: Gazetteer, rng: random.Random) -> Row:
    """A training variant of a row."""
    if rng.random() < 0.5:
        row = exchange(row, gazetteer, rng)
    segments = list(row.segments)
    if rng.random() < 0.15:
        segments = [(noise(text, rng, 0.12) if not entity else text, entity) for text, entity in segments]
    if rng.random() < 0.06:
        segments = [(noise(text, rng, 0.3) if entity else text, entity) for text, entity in segments]
    if rng.random() < 0.08:
        segments.insert(0, (rng.choice(_BEFORE), None))
    if rng.random() < 0.12:
        last, entity = segments[-1]
        if entity is None and last[-1:] in ".?!":
            segments[-1] = (last[:-1], None)
        else:
            segments.append((rng.choice(_AFTER), None))
    return Row(row.intent, tuple((text, entity) for text, entity in segments if text))


def vary_text(text: str, rng: random.Random, rate: float = 0.12) -> str:
    """A training variant of an utterance without spans; `rate` is of slips per word, where there are any."""
    if rng.random() < 0.15:
        text = noise(text, rng, rate)
    if rng.random() < 0.06:
        text = rng.choice(_BEFORE) + text
    if rng.random() < 0.1:
        text += rng.choice(_AFTER)
    return text
