"""Invented homes: rooms, floors, devices, people, lists, titles, so that a model learns to copy names."""

from __future__ import annotations

import random
from pathlib import Path

FILE = Path(__file__).with_name("names.txt")


def read_words(path: Path = FILE) -> dict[str, list[str]]:
    """Entries by section of the word file."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            current += line.split("|")
    return sections


WORDS = read_words()
ROOMS, FLOORS, PEOPLE, CITIES = WORDS["rooms"], WORDS["floors"], WORDS["people"], WORDS["cities"]
ITEMS, TITLES, PLACE_WORDS = WORDS["items"], WORDS["titles"], WORDS["place_words"]
NOUNS = {name.split()[1]: words for name, words in WORDS.items() if name.startswith("device ")}
NOUNS |= {"weather": CITIES, "person": PEOPLE}

# Domains whose devices bear the names of rooms and other words; scenes, people and lists are names as they
# are.
_COMPOSED = frozenset(
    ("light", "switch", "fan", "cover", "lock", "climate", "media_player", "valve", "binary_sensor", "sensor")
)
# Domains that `<name>` may mean where a template asks for none.
ANY_DEVICE = ("light", "switch", "fan", "media_player", "climate", "light", "switch", "vacuum", "sensor")


class Home:
    """Draws names; now and then one of any words of `vocabulary`, so that any word can be a name."""

    def __init__(
        self, rng: random.Random, vocabulary: list[str], known: dict[str, list[str]] | None = None
    ) -> None:
        self.rng, self.vocabulary, self.known = rng, vocabulary, known or {}

    def words(self) -> str:
        return " ".join(self.rng.choice(self.vocabulary) for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3))))

    def device(self, domain: str) -> str:
        r, rng = self.rng.random(), self.rng
        if domain in self.known and r < 0.12:
            return rng.choice(self.known[domain])
        if r > 0.93:
            return self.words()
        noun = rng.choice(NOUNS[domain])
        if domain not in _COMPOSED or r < 0.35:
            return noun
        if r < 0.75:
            return f"{rng.choice(ROOMS)} {noun}"
        if r < 0.83:
            return f"{rng.choice(PEOPLE)}'s {noun}" if rng.random() < 0.5 else f"{noun} {rng.randint(1, 9)}"
        return f"{rng.choice(PLACE_WORDS)} {noun}"

    def area(self) -> str:
        r = self.rng.random()
        if r < 0.05:
            return self.words()
        if r < 0.45:  # the rooms that most homes have
            return self.rng.choice(ROOMS[:14])
        return self.rng.choice(ROOMS)

    def floor(self) -> str:
        return self.rng.choice(FLOORS)

    def free(self, what: str) -> str:
        """A text for a wildcard list."""
        rng = self.rng
        lists = {
            "shopping_list_item": ITEMS,
            "todo_list_item": ITEMS,
            "timer_name": WORDS["timer_names"],
            "timer_command": WORDS["commands"],
            "message": WORDS["messages"],
            "search_query": TITLES,
            "zone": WORDS["zones"],
        }
        if rng.random() < 0.2:
            return " ".join(self.words() for _ in range(2 if what == "message" else 1))
        return rng.choice(lists.get(what, ITEMS))
