"""Checked tables of a TOML text, with errors that name the table, the key and the line.

Knows: TOML as far as line numbers go (`tomllib` keeps none), types and ranges of keys. Does not know: what
any key is for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from model_zoo.errors import RegistryError

__all__ = ["Field", "Lines", "Table"]


@dataclass(frozen=True, slots=True)
class Field:
    """One key: its type, what it must be (the end of a sentence), and its default when it may be left out."""

    type: type
    expected: str
    required: bool = False
    default: Any = None
    valid: Callable[[Any], bool] = field(default=lambda value: True)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the document with what an error needs: its path, the lines, the file, and whose it is."""

    values: Any
    path: tuple[str | int, ...]
    lines: Lines
    where: str
    label: str

    def checked(self, known: Mapping[str, Field]) -> dict[str, Any]:
        """Every known key with its value or default.

        Raises:
            RegistryError: a key is missing, unknown or has a wrong value.
        """
        if not isinstance(self.values, dict):
            raise self.error(None, "must be a table of values")
        for key in self.values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"known fields are {', '.join(known)}"
                raise self.error(key, f"is an unknown field; {hint}")
        found: dict[str, Any] = {}
        for key, rule in known.items():
            if key not in self.values:
                if rule.required:
                    raise self.error(key, f"is missing; it must be {rule.expected}")
                found[key] = rule.default
                continue
            value = found[key] = self.values[key]
            right = isinstance(value, rule.type) and (rule.type is bool or not isinstance(value, bool))
            if not right or not rule.valid(value):
                raise self.error(key, f"must be {rule.expected}, but it is {_shown(value)}")
        return found

    def error(self, key: str | None, problem: str) -> RegistryError:
        """An error at a key of this table, or at the table itself."""
        names = [str(part) for part in self.path if isinstance(part, str)][1:]
        line = self.lines.of(self.path if key is None else (*self.path, key))
        named = ".".join([*names, *([] if key is None else [key])])
        at = f"{self.label}: " + (f"{named} " if named else "")
        return RegistryError(f"{self.where}: line {line}: {at}{problem}")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"


class Lines:
    """Line numbers of the tables and keys of a TOML text.

    Reads headers (`[a.b]`, `[[a]]`) and `key =` at the start of lines, outside of multi-line strings. What is
    written in another way (inline tables) has the line of the nearest table around it.
    """

    _HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?")
    _KEY = re.compile(r"\s*((?:[A-Za-z0-9_.-]|\"[^\"]*\"|'[^']*'|(?<=\.)\s|\s(?=\.))+?)\s*=")

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str | int, ...], int] = {}
        table: tuple[str | int, ...] = ()
        counts: dict[str, int] = {}
        inside = ""
        for number, line in enumerate(text.splitlines(), 1):
            if inside:
                inside = "" if inside in line else inside
                continue
            if header := self._HEADER.match(line):
                table = self._table(header.group(2), header.group(1) == "[[", counts)
                self._found.setdefault(table, number)
            elif key := self._KEY.match(line):
                path = table
                for part in _parts(key.group(1)):
                    path = (*path, part)
                    self._found.setdefault(path, number)
            for quotes in ('"""', "'''"):
                if line.count(quotes) % 2:
                    inside = quotes

    def of(self, path: tuple[str | int, ...]) -> int:
        """The line of a table or key, or of what is around it."""
        while path and path not in self._found:
            # An entry's own line is that of its header; the array of entries has that of the first one.
            path = path[:-1]
        return self._found.get(path, 1)

    @staticmethod
    def _table(name: str, repeated: bool, counts: dict[str, int]) -> tuple[str | int, ...]:
        parts = _parts(name)
        if repeated and len(parts) == 1:
            counts[parts[0]] = counts.get(parts[0], -1) + 1
        path: list[str | int] = []
        for part in parts:
            path.append(part)
            if len(path) == 1 and part in counts:
                path.append(counts[part])
        return tuple(path)


def _parts(dotted: str) -> list[str]:
    """`a."b".c` → a, b, c. A quoted dot is misread, which moves the line in an error and nothing else."""
    return [part.strip().strip("\"'") for part in dotted.split(".")]
