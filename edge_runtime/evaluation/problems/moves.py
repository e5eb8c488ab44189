"""What can happen in a story: a move says a sentence, writes its steps and changes the quantity followed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.evaluation.problems.templates import Split, Templates

__all__ = ["LATE", "MOVES", "QUESTIONS", "Impossible", "Move", "Story"]

LARGEST = 999
"""No number in a story or a solution is larger (lengths and weights reach 9,000)."""


class Impossible(Exception):  # noqa: N818 - a signal of the generator to itself
    """This move does not fit the numbers so far."""


@dataclass
class Story:
    """What has been told so far: the quantity followed, whose it is, and what is counted."""

    rng: random.Random
    family: Split
    templates: Templates
    value: int = 0
    state: str = "start"  # items, containers, money, cost, minutes, length, weight or one of the ends
    words: dict[str, str] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    others: list[str] = field(default_factory=list)
    before: int | None = None  # what a comparison just told started from
    earlier: int | None = None  # the same, of the move before this one
    reversible: bool = False  # the story begins with who has what and a comparison

    def say(self, move: str, **numbers: int | str) -> None:
        """A sentence of this move in the story's family of wordings."""
        sentence = self.rng.choice(self.templates.sentences[move][self.family])
        self.sentences.append(sentence.format(**self.words, **numbers))

    def step(self, left: int | str, operator: str, right: int | str, result: int | str) -> None:
        """A written step; refuses a result that is too large or not above zero."""
        if isinstance(result, int) and not 0 < result <= (LARGEST if self.state != "measure" else 9_000):
            raise Impossible
        self.written.append(f"{left}{operator}{right}={result}")

    def number(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included; refuses an empty range."""
        if high < low:
            raise Impossible
        return self.rng.randint(low, high)

    def somebody(self) -> None:
        """Another person becomes {B}."""
        if not self.others:
            raise Impossible
        self.words["B"] = self.others.pop()

    def container(self) -> None:
        """Another kind of container becomes {c} and {c1}."""
        fresh = [c for c in self.templates.words["containers"] if not c.startswith(f"{self.words.get('c')}=")]
        self.words["c"], _, self.words["c1"] = self.rng.choice(fresh).partition("=")


Move = Callable[[Story], None]


def _add(s: Story, move: str, high: int, kind: str) -> None:
    k = s.number(2, high)
    s.say(move, k=k)
    s.step(s.value, "+", k, s.value + k)
    s.value += k
    s.kinds.add(kind)


def _subtract(s: Story, move: str, high: int, kind: str) -> None:
    k = s.number(2, min(high, s.value - 2))
    s.say(move, k=k)
    s.step(s.value, "-", k, s.value - k)
    s.value -= k
    s.kinds.add(kind)


def _factor(s: Story, low: int = 2, high: int = 12) -> int:
    """A factor whose product with the value can be worked out in the head."""
    if s.value > 60:
        raise Impossible
    return s.number(low, min(high, 12 if s.value <= 20 else 9))


def _times(s: Story, left: int, k: int, result: int) -> None:
    s.step(left, "*", k, result)
    s.value = result


def _product(s: Story, n: int, k: int) -> None:
    """The product of two numbers of the last sentence, in the order in which it tells them."""
    told = re.findall(r"\d+", s.sentences[-1])
    first, second = sorted((n, k), key=lambda number: told.index(str(number)))
    _times(s, first, second, n * k)


def _divisor(s: Story, choices: Sequence[int]) -> int:
    fitting = [k for k in choices if s.value % k == 0 and s.value // k >= 2]
    if not fitting:
        raise Impossible
    return s.rng.choice(fitting)


# --- beginnings ---------------------------------------------------------------------------------------------


def _have(s: Story) -> None:
    s.value, s.state = s.number(5, 99), "items"
    s.say("have", n=s.value)


def _groups(s: Story) -> None:
    n, k = s.number(3, 25), s.number(2, 12)
    if n > 12 and k > 9:
        raise Impossible
    s.state = "items"
    s.say("groups", n=n, k=k)
    _product(s, n, k)
    s.kinds.add("groups")


def _piles(s: Story) -> None:
    n, k = s.number(3, 90), s.number(3, 90)
    s.value, s.state = n + k, "items"
    s.say("piles", n=n, k=k)
    s.step(n, "+", k, n + k)
    s.kinds.add("sum")


def _rate(s: Story) -> None:
    n, k = s.number(3, 20), s.number(2, 9)
    s.words["t"], s.words["t1"] = s.rng.choice((("hours", "hour"), ("days", "day"), ("weeks", "week")))
    s.state = "items"
    s.say("rate", n=n, k=k)
    _product(s, n, k)
    s.kinds.add("rate")


def _weeks(s: Story) -> None:
    n, k = s.number(2, 9), s.number(2, 4)
    s.state = "items"
    s.say("weeks", n=n, k=k)
    s.step(k, "*", 7, k * 7)
    _times(s, k * 7, n, k * 7 * n)
    s.kinds |= {"rate", "units"}


def _dozen(s: Story) -> None:
    k = s.number(2, 9)
    s.state = "items"
    s.say("dozen", k=k)
    _times(s, k, 12, k * 12)
    s.kinds.add("units")


def _cost(s: Story) -> None:
    n, k = s.number(2, 20), s.number(2, 12)
    if n > 12 and k > 9:
        raise Impossible
    s.state = "cost"
    s.say("cost", n=n, k=k)
    _product(s, n, k)
    s.kinds.add("money")


def _lessons(s: Story) -> None:
    n, k = s.rng.choice((10, 15, 20, 25, 30, 35, 40, 45, 50)), s.number(2, 6)
    s.state = "minutes"
    s.say("lessons", n=n, k=k)
    _product(s, n, k)
    s.kinds.add("time")


def _lasts(s: Story) -> None:
    k, n = s.number(2, 5), s.rng.choice(range(5, 60, 5))
    s.state = "minutes"
    s.say("lasts", n=n, k=k)
    s.step(k, "*", 60, k * 60)
    s.step(k * 60, "+", n, k * 60 + n)
    s.value = k * 60 + n
    s.kinds |= {"time", "units"}


def _rope(s: Story) -> None:
    n = s.number(2, 9)
    s.state = "length"
    s.say("rope", n=n)
    _times(s, n, 100, n * 100)
    s.kinds.add("units")


def _flour(s: Story) -> None:
    n = s.number(2, 9)
    s.say("flour", n=n)
    s.state = "measure"
    _times(s, n, 1000, n * 1000)
    s.state = "weight"
    s.kinds.add("units")


# --- what happens to items ----------------------------------------------------------------------------------


def _double(s: Story) -> None:
    if s.value > 200:
        raise Impossible
    s.say("double")
    _times(s, s.value, 2, s.value * 2)
    s.kinds.add("fraction")


def _half(s: Story) -> None:
    k = _divisor(s, (2,))
    s.say("half")
    s.step(s.value, "/", k, s.value // k)
    s.value //= k
    s.kinds.add("fraction")


def _third(s: Story) -> None:
    _divisor(s, (3,))
    part = s.value // 3
    s.say("third")
    s.step(s.value, "/", 3, part)
    s.step(s.value, "-", part, s.value - part)
    s.value -= part
    s.kinds.add("fraction")


def _percent_off(s: Story, move: str) -> None:
    fitting = [p for p in (10, 20, 25, 30, 50, 75) if s.value * p % 100 == 0]
    if not fitting or s.value > 400:
        raise Impossible
    k = s.rng.choice(fitting)
    part = s.value * k // 100
    s.say(move, k=k)
    s.step(f"{k}%", "*", s.value, part)
    s.step(s.value, "-", part, s.value - part)
    s.value -= part
    s.kinds.add("percentage")


def _compare(s: Story, move: str) -> None:
    """{B} has more, fewer or a multiple; the story goes on with {B}."""
    s.somebody()
    before = s.value
    if move == "more":
        _add(s, move, 40, "comparison")
    elif move == "fewer":
        _subtract(s, move, 40, "comparison")
    elif move == "times":
        k = _factor(s, 3, 6)
        s.say(move, k=k)
        _times(s, before, k, before * k)
    elif move == "twice":
        if before > 200:
            raise Impossible
        s.say(move)
        _times(s, before, 2, before * 2)
    else:
        _divisor(s, (2,))
        s.say(move)
        s.step(before, "/", 2, before // 2)
        s.value = before // 2
    s.kinds.add("comparison")
    s.before, s.reversible = before, s.reversible or (len(s.sentences) == 2 and len(s.written) == 1)
    s.words["P"], s.words["B"] = s.words["B"], s.words["P"]


def _both(s: Story) -> None:
    """The end: what both of a comparison have."""
    if s.earlier is None:
        raise Impossible
    s.step(s.earlier, "+", s.value, s.earlier + s.value)
    s.value += s.earlier
    s.state = "both"
    s.kinds.add("sum")


def _price(s: Story) -> None:
    k = _factor(s)
    s.say("price", k=k)
    _times(s, s.value, k, s.value * k)
    s.state = "money"
    s.kinds.add("money")


def _pack(s: Story) -> None:
    k = _divisor(s, range(2, 13))
    s.container()
    s.say("pack", k=k)
    s.step(s.value, "/", k, s.value // k)
    s.value //= k
    s.state, s.words["u"] = "containers", s.words["c"]
    s.kinds.add("groups")


def _share(s: Story) -> None:
    k = _divisor(s, range(3, 10))
    s.say("share", k=k)
    s.step(s.value, "/", k, s.value // k)
    s.value //= k
    s.state = "share"
    s.kinds.add("share")


def _minutes_each(s: Story) -> None:
    k = _factor(s, 2, 9)
    s.say("minutes_each", k=k)
    _times(s, s.value, k, s.value * k)
    s.state = "minutes"
    s.kinds |= {"rate", "time"}


# --- money, time, measures ----------------------------------------------------------------------------------


def _change(s: Story) -> None:
    fitting = [n for n in (20, 50, 100, 200, 500) if s.value + 2 <= n <= 10 * s.value]
    if not fitting:
        raise Impossible
    s.say("pays", n=fitting[0])
    s.step(fitting[0], "-", s.value, fitting[0] - s.value)
    s.value, s.state = fitting[0] - s.value, "change"


def _splits(s: Story) -> None:
    k = _divisor(s, range(2, 10))
    s.say("splits", k=k)
    s.step(s.value, "/", k, s.value // k)
    s.value //= k
    s.state = "split"
    s.kinds.add("share")


def _clock(s: Story) -> None:
    if s.value > 55 or s.value % 5:
        raise Impossible
    hour, minute = s.number(1, 11), s.rng.choice(range(0, 60, 5))
    begins = f"{hour}:{minute:02d}"
    total = hour * 60 + minute + s.value
    ends = f"{total // 60}:{total % 60:02d}"
    s.say("clock", h=begins)
    s.step(begins, "+", s.value, ends)
    s.state = "clock@" + ends
    s.kinds.add("time")


def _share_money(s: Story) -> None:
    k = _divisor(s, range(2, 10))
    s.say("share money", k=k)
    s.step(s.value, "/", k, s.value // k)
    s.value //= k
    s.state = "money share"
    s.kinds.add("share")


def _pieces(s: Story) -> None:
    k = _divisor(s, (5, 10, 20, 25, 50))
    s.say("pieces", k=k)
    s.step(s.value, "/", k, s.value // k)
    s.value //= k
    s.state = "pieces"


def _portions(s: Story) -> None:
    k = _divisor(s, (50, 100, 200, 250, 500))
    s.say("portions", k=k)
    s.step(s.value, "/", k, s.value // k)
    s.value //= k
    s.state = "portions"


def _move(action: Callable[..., None], *given: object) -> Move:
    return lambda story: action(story, *given)


_get, _lose = _move(_add, "add", 60, "sum"), _move(_subtract, "sub", 60, "difference")
_earn, _spend = _move(_add, "earn", 90, "sum"), _move(_subtract, "spend", 90, "difference")
_shipping, _coupon = _move(_add, "shipping", 30, "sum"), _move(_subtract, "coupon", 30, "difference")
_break = _move(_add, "break", 55, "sum")
_percent, _discount = _move(_percent_off, "percent"), _move(_percent_off, "discount")
_more, _fewer = _move(_compare, "more"), _move(_compare, "fewer")
_times_as, _twice, _half_as = _move(_compare, "times"), _move(_compare, "twice"), _move(_compare, "halfas")

# Moves by what the quantity is: (steps, weight, what it does).
MOVES: Mapping[str, tuple[tuple[int, float, Move], ...]] = {
    "start": (
        (0, 4.0, _have), (1, 2.0, _groups), (1, 1.5, _piles), (1, 1.5, _rate), (2, 0.7, _weeks),
        (1, 0.7, _dozen), (1, 1.5, _cost), (1, 0.7, _lessons), (2, 0.5, _lasts), (1, 0.5, _rope),
        (1, 0.5, _flour),
    ),
    "items": (
        (1, 2.0, _get), (1, 2.5, _lose), (1, 0.7, _double), (1, 1.0, _half), (2, 0.8, _third),
        (2, 1.2, _percent), (1, 1.2, _more), (1, 1.2, _fewer), (1, 1.0, _times_as), (1, 0.6, _twice),
        (1, 0.6, _half_as), (1, 2.0, _both), (1, 1.5, _price), (1, 1.0, _pack), (1, 1.0, _share),
        (1, 0.7, _minutes_each),
    ),
    "containers": ((1, 1.0, _price), (1, 0.4, _minutes_each)),
    "money": ((1, 0.5, _share_money), (1, 1.0, _earn), (1, 1.0, _spend)),
    "cost": (
        (1, 1.0, _shipping), (1, 1.0, _coupon), (2, 1.0, _discount), (1, 1.0, _change), (1, 0.7, _splits),
    ),
    "minutes": ((1, 1.0, _break), (1, 1.0, _clock)),
    "length": ((1, 1.0, _pieces),),
    "weight": ((1, 1.0, _portions),),
}  # fmt: skip
LATE = (_price, _pack, _minutes_each)
"""Moves to money and minutes, about which a story has few ways to go on."""

QUESTIONS = {
    "items": "ask items", "both": "ask both", "share": "ask share", "containers": "ask containers",
    "money": "ask money", "money share": "ask money share", "cost": "ask cost", "change": "ask change",
    "split": "ask split",
    "minutes": "ask minutes", "clock": "ask clock", "length": "ask centimeters", "weight": "ask grams",
    "pieces": "ask pieces", "portions": "ask portions",
}  # fmt: skip
