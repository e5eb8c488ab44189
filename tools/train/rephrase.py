"""Other wordings of a word problem, sentence by sentence, that change nothing about its solution.

The training sentences are few; people's are not. Time is told before, after or not at all, a verb is
exchanged for one of its like, a question is asked in another form. No sentence that comes out is one of the
validation or test families: those are recognised by their templates and refused, so that the families stay
apart.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache

from edge_runtime.evaluation.problems import load_templates

_WHEN = (
    "then", "later", "after that", "the next day", "after lunch", "in the evening", "on saturday",
    "a week later", "during the day", "at noon", "today", "on sunday", "in the afternoon", "after school",
    "at the market", "a little later", "soon after", "the same day", "before dinner", "at home",
    "the day after", "on thursday",
)  # fmt: skip
_BETWEEN = ("then", "also", "later", "now", "soon", "at last", "again", "quickly", "first", "next")
_AFTER = (
    "now", "in the end", "at the end", "then", "after this", "at last", "by now", "in all", "after all that",
    "finally", "at that point",
)  # fmt: skip
_ASK = ("find", "tell me", "say", "work out", "please find", "calculate", "try to find", "write down", "give")
_VERBS: dict[str, tuple[str, ...]] = {
    "gets": ("receives", "is given", "collects", "picks up", "finds"),
    "receives": ("gets", "is given"),
    "buys": ("gets", "orders", "takes", "picks up", "has bought"),
    "bought": ("got", "ordered", "took", "picked up"),
    "found": ("collected", "got", "picked up"),
    "collects": ("finds", "gets", "gathers", "picks"),
    "makes": ("produces", "finishes", "builds", "gets done"),
    "loses": ("drops", "misses", "no longer has"),
    "gives": ("hands", "passes", "sends"),
    "uses": ("needs", "uses up", "takes"),
    "owns": ("has", "holds", "keeps", "has got"),
    "sells": ("offers and sells", "sells off"),
    "fills": ("packs", "loads", "makes"),
    "packs": ("puts", "sorts", "places"),
    "puts": ("packs", "places", "lays"),
    "holds": ("has", "contains", "takes", "is filled with"),
    "contains": ("has", "holds"),
    "needs": ("takes", "spends"),
    "works": ("is busy", "is at work"),
    "pays": ("spends", "has to pay", "hands over"),
    "brings": ("carries", "gives"),
    "shares": ("splits", "divides"),
    "another": ("a further", "an extra", "once more"),
    "equally": ("fairly", "in equal parts", "evenly"),
    "every": ("each",),
    "each": ("every single",),
    "all": ("all of",),
}
_UNSAFE = re.compile(r"more|fewer|less|times|twice|double|half as|short of|besides|compared|minutes|old\b")
_QUESTION = re.compile(
    r"how many ([a-z]+) (?:does|do) ([a-z]+(?: and [a-z]+)?) (have|own|need|get|pay|fill)\b.*"
)


def _patterns(family: str) -> set[str]:
    found = set()
    for families in load_templates().sentences.values():
        for template in families[family]:
            for sentence in re.split(r"(?<=[.?]) ", template.lower()):
                parts = re.split(r"\{\w+\}", sentence)
                found.add(r"[\w:]+".join(re.escape(part) for part in parts))
    return found


@lru_cache(maxsize=1)
def held_out() -> re.Pattern[str]:
    """Matches the sentences, in lower case, that only the validation and test families have.

    Half of a template of two sentences ("Anna has 7 boxes.") may be a training sentence as well.
    """
    return re.compile("|".join(sorted((_patterns("val") | _patterns("test")) - _patterns("train"))))


def _question(text: str, rng: random.Random) -> str:
    match = _QUESTION.fullmatch(text.rstrip("?. "))
    body = text.rstrip("?. ")
    if match:
        thing, who, verb = match.groups()
        form = rng.randrange(5)
        if verb in ("have", "own"):
            plural = " and " in who
            have, does = ("have", "do") if plural else ("has", "does")
            body = (
                f"how many {thing} {have} {who} got",
                f"how many {thing} {have} {who}",
                f"the number of {thing} that {who} {have}",
                f"how many {thing} {does} {who} {rng.choice(('hold', 'own', 'keep'))}",
                f"what number of {thing} {does} {who} have",
            )[form]
        elif form < 2:
            body = f"how many {thing} does {who} {verb}"
        if body.startswith("the number"):
            return f"{rng.choice(_ASK)} {body}{' ' + rng.choice(_AFTER) if rng.random() < 0.4 else ''}."
    pick = rng.random()
    if pick < 0.3 and body.startswith(("how", "what", "at what", "for how")):
        return f"{rng.choice(_ASK)} {body}{rng.choice('?.')}"
    if pick < 0.5:
        return f"{rng.choice(_AFTER)}, {body}?"
    if pick < 0.8:
        return f"{body} {rng.choice(_AFTER)}?"
    return f"{body}?"


def _statement(text: str, rng: random.Random, names: set[str], things: set[str]) -> str:
    words = text.rstrip(".").split(" ")
    for i, word in enumerate(words):
        if word in _VERBS and rng.random() < 0.3 and not (word in ("gives", "takes") and "equally" in text):
            words[i] = rng.choice(_VERBS[word])
    body = " ".join(words)
    present = [t for t in things if f" {t}" in body]
    if "of them" in body and things and rng.random() < 0.4:
        body = body.replace("of them", f"of the {rng.choice(sorted(things))}", 1)
    elif present and rng.random() < 0.3:
        thing = present[0]
        body = body.replace(f"of the {thing}", "of them", 1)
    elif present and "%" not in body and rng.random() < 0.2:
        body = re.sub(rf"(\d+) {present[0]}\b", rf"\1 of the {present[0]}", body, count=1)
    if words[0] in names and len(words) > 2 and not _UNSAFE.search(text) and rng.random() < 0.25:
        body = body.replace(f"{words[0]} ", f"{words[0]} {rng.choice(_BETWEEN)} ", 1)
    pick = rng.random()
    if pick < 0.3 and not body.startswith(_WHEN):
        body = f"{rng.choice(_WHEN)}{rng.choice((' ', ', '))}{body}"
    elif pick < 0.4 and not re.search(r"\d$", body):
        body = f"{body} {rng.choice(_WHEN[:12])}"
    return body + "."


def rephrase(text: str, rng: random.Random) -> str:
    """The story in lower case with some sentences worded otherwise, none as in a held-out family."""
    words = load_templates().words
    names = {name.lower() for name in words["names"]}
    story = text.lower()
    first = next((t for t in re.findall(r"[a-z]+", story) if t in words["things"]), None)
    things = {first} if first else set()
    sentences = re.split(r"(?<=[.?]) ", story)
    for i, sentence in enumerate(sentences):
        if rng.random() < 0.3:
            continue
        asked = i == len(sentences) - 1
        changed = _question(sentence, rng) if asked else _statement(sentence, rng, names, things)
        if not held_out().fullmatch(changed):
            sentences[i] = changed
    return " ".join(_joined(sentences, rng, names))


def _joined(sentences: list[str], rng: random.Random, names: set[str]) -> list[str]:
    """Sentences about one person drawn together, or their subject said as a pronoun."""
    told = [sentences[0]]
    pronoun = rng.choice(("she", "he", "they"))
    for sentence in sentences[1:]:
        subject, _, rest = sentence.partition(" ")
        before = told[-1]
        same = subject in names and before.split(" ", 1)[0] in (subject, pronoun) and before.endswith(".")
        if not same or not rest or len(names & set(re.findall(r"[a-z]+", before))) != 1:
            told.append(sentence)
            continue
        pick = rng.random()
        if pick < 0.35:
            changed = f"{pronoun} {rest}"
            told.append(sentence if pronoun == "they" or held_out().fullmatch(changed) else changed)
        elif pick < 0.7 and len(before) + len(rest) < 120:
            told[-1] = before[:-1] + rng.choice((" and ", ", ", ", then ", " and then ", ", and ")) + rest
        else:
            told.append(sentence)
    return told
