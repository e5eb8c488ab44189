"""Recall and precision of the residency detectors per class, as the tables of docs/residency.md.

Two sets of texts: one generated here (values with right checksums in carrier sentences, and decoys), one
written by hand (tests/vectors/residency/texts.jsonl). Run it as `python -m tools.detector_figures`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from offload.residency.detect import Detector, find, make_detectors
from offload.residency.detect.money import luhn
from offload.residency.labels import DETECTED, covers

ROOT = Path(__file__).resolve().parent.parent
HAND_WRITTEN = ROOT / "tests" / "vectors" / "residency" / "texts.jsonl"
CONTACTS = ("Anna Müller", "Will Smith", "Jonas Weber", "Priya Natarajan", "Rose Tyler")

CARRIERS = (
    "please note {} for later",
    "{}",
    "is {} still right?",
    "I think it was {}, wasn't it",
    "schreib dir {} auf",
    "2 things: {} and milk",
)
DECOYS = (
    "turn on the lights at {a}:{b:02d}",
    "order {big} has {a} items for {b}.{a:02d} euros",
    "what is {a}.{big} times {b}",
    "version {a}.{b}.{a} from 2026-{m:02d}-{b:02d}",
    "the ip is 192.168.{a}.{b}",
    "add {a} eggs and {b} grams of flour",
    "track parcel {big}{big}",
    "play song number {a} from album {b}",
)

Row = tuple[str, frozenset[str]]


def generated(seed: int, each: int) -> Iterator[Row]:
    """`each` texts per class, and as many decoys as there are texts."""
    rng = random.Random(seed)
    count = 0
    for label, make in MAKERS.items():
        for _ in range(each):
            count += 1
            yield rng.choice(CARRIERS).format(make(rng)), frozenset({label})
    for _ in range(count):
        numbers = {"a": rng.randrange(1, 24), "b": rng.randrange(1, 28), "m": rng.randrange(1, 13)}
        yield rng.choice(DECOYS).format(**numbers, big=rng.randrange(10**5, 10**7)), frozenset()


def hand_written(path: Path = HAND_WRITTEN) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield row["text"], frozenset(row["labels"])


def figures(rows: Iterable[Row], detectors: Sequence[Detector]) -> dict[str, tuple[int, int, int]]:
    """Per class: texts with it that were found, texts with it, texts it was said of. Kinds count as it."""
    hit: Counter[str] = Counter()
    there: Counter[str] = Counter()
    said: Counter[str] = Counter()
    for text, labels in rows:
        found = {label for label in DETECTED for f in find(text, detectors) if covers(label, f.label)}
        there.update(labels)
        said.update(found)
        hit.update(found & labels)
    return {label: (hit[label], there[label], said[label]) for label in DETECTED}


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def _card(rng: random.Random) -> str:
    body = rng.choice(("4", "51", "55", "2221", "6011"))
    body += _digits(rng, 15 - len(body))
    number = next(body + d for d in "0123456789" if luhn(body + d))
    return rng.choice(("", " ", "-")).join(number[i : i + 4] for i in range(0, 16, 4))


def _iban(rng: random.Random) -> str:
    country, length = rng.choice((("DE", 18), ("AT", 16), ("NL", 14), ("ES", 20)))
    bban = _digits(rng, length) if country != "NL" else "ABNA" + _digits(rng, 10)
    check = 98 - int("".join(str(int(c, 36)) for c in f"{bban}{country}00")) % 97
    whole = f"{country}{check:02d}{bban}"
    return whole if rng.random() < 0.5 else " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))


def _phone(rng: random.Random) -> str:
    forms = (
        "+49 30 #######",
        "(2##) 2##-####",
        "0171 #######",
        "+44 20 7### ####",
        "001 415 555 ####",
        "call 55#####",
    )
    return "".join(rng.choice("23456789") if c == "#" else c for c in rng.choice(forms))


def _email(rng: random.Random) -> str:
    name = rng.choice(("office", "j.w", "info+spam", "x_y"))
    return f"{name}{rng.choice(('@', ' (at) '))}{rng.choice(('mail.example.com', 'firma.de', 'uni-bonn.de'))}"


def _id(rng: random.Random) -> str:
    number = rng.randrange(10**8)
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{number:08d}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}",
        lambda: f"{rng.randrange(100, 665)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}",
        lambda: f"AB {_digits(rng, 2)} {_digits(rng, 2)} {_digits(rng, 2)} C",
    )
    return rng.choice(forms)()


def _address(rng: random.Random) -> str:
    street = rng.choice(
        ("{} Baker Street", "{} Old Mill Road", "Hauptstraße {}", "{} rue de Rivoli", "Via Roma {}")
    )
    return street.format(rng.randrange(1, 300))


def _place(rng: random.Random) -> str:
    return f"{rng.uniform(-89, 89):.5f}, {rng.uniform(-179, 179):.5f}"


def _key(rng: random.Random) -> str:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
    tail = "".join(rng.choice(letters) for _ in range(36))
    return rng.choice(("ghp_{}", "sk-{}", "hf_{}", "api key: {}", "glpat-{}")).format(tail)


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "finance.card": _card,
    "finance.iban": _iban,
    "finance.topic": lambda rng: rng.choice(("my salary", "the mortgage", "mein Konto", "a tax return")),
    "health.topic": lambda rng: rng.choice(("my diabetes", "the prescription", "Kopfschmerzen", "a surgeon")),
    "pii.address": _address,
    "pii.email": _email,
    "pii.location": _place,
    "pii.name": lambda rng: rng.choice(
        (rng.choice(CONTACTS), rng.choice(CONTACTS).lower(), "priya", "Jonas")
    ),
    "pii.national_id": _id,
    "pii.phone": _phone,
    "secret.key": _key,
    "secret.password": lambda rng: f"my {rng.choice(('password', 'PIN'))} is {_digits(rng, 4)}x",
}


def table(rows: Iterable[Row], detectors: Sequence[Detector]) -> str:
    lines = ["| label | texts | recall | precision |", "|---|---|---|---|"]
    for label, (hit, there, said) in figures(rows, detectors).items():
        recall = f"{hit / there:.2f}" if there else "-"
        precision = f"{hit / said:.2f}" if said else "-"
        lines.append(f"| `{label}` | {there} | {recall} | {precision} |")
    return "\n".join(lines)


def main() -> None:
    detectors = make_detectors(contacts=CONTACTS)
    print(f"generated\n\n{table(generated(7, 100), detectors)}\n")
    print(f"written by hand\n\n{table(hand_written(), detectors)}")


if __name__ == "__main__":
    main()
