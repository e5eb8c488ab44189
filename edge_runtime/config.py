"""Reading the configuration file.

Knows: where the file lies, TOML, and how a mistake in it is told. Does not know: what the keys mean (the
schema says) or what the verbs do with them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edge_runtime.config_schema import SCHEMA, Key, Section, problem_with, toml_value
from edge_runtime.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Config", "default_path", "defaults", "load", "parse", "template"]


def default_path(environment: Mapping[str, str] = os.environ) -> Path:
    """`edge-runtime/config.toml` in the XDG configuration folder (XDG Base Directory Specification 0.8)."""
    named = environment.get("XDG_CONFIG_HOME", "")
    folder = (
        Path(named)
        if Path(named).is_absolute()
        else Path(environment.get("HOME", "~")).expanduser() / ".config"
    )
    return folder / "edge-runtime" / "config.toml"


@dataclass(frozen=True)
class Config:
    """Checked settings.

    `path` is the file they came from (`None`: there was none); `given` holds what it says, `[section][key]`;
    `tables` the arrays of tables, `[section] → list of {key: value}`.
    """

    path: Path | None
    given: Mapping[str, Mapping[str, Any]]
    tables: Mapping[str, tuple[Mapping[str, Any], ...]]

    def get(self, section: str, key: str) -> Any:
        """The value in the file, else the schema's default (`None` when the program decides)."""
        known = _section(section).key(key)
        return self.given.get(section, {}).get(key, known.default)

    def origin(self, section: str, key: str) -> str:
        """Where `get` found the value: the file's path, or `default`."""
        return str(self.path) if key in self.given.get(section, {}) else "default"

    def engine_options(self, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
        """What the file says under `[runtime]`, without the keys whose environment variable is set."""
        keys = {key.name: key.variable for key in _section("runtime").keys}
        given = self.given.get("runtime", {})
        return {name: value for name, value in given.items() if not environment.get(keys[name] or "")}

    def default_map(self, environment: Mapping[str, str] = os.environ) -> dict[str, dict[str, Any]]:
        """What the file says, as click's `default_map`: verb → parameter → value.

        A key whose own environment variable is set is left out, since the variable wins over the file.
        """
        out: dict[str, dict[str, Any]] = {}
        for section in SCHEMA:
            for key in section.keys:
                overruled = key.variable is not None and bool(environment.get(key.variable))
                if key.name in self.given.get(section.name, {}) and not overruled:
                    for flag in key.flags:
                        verb, parameter = flag.split(".")
                        out.setdefault(verb, {})[parameter] = self.given[section.name][key.name]
        return out


def defaults() -> Config:
    """The settings without a file."""
    return Config(None, {}, {})


def load(path: Path | None = None, *, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration file.

    Args:
        path: a file that must exist; `None` for the default place, where having none is fine.
        environment: variables that say where the default place is.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or breaks the schema (names file and key).
    """
    file = default_path(environment) if path is None else path
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        if path is None:
            return defaults()
        raise ConfigError(
            f"configuration file {file} does not exist. "
            f"Write one with: edge-runtime --config {file} config init"
        ) from None
    except OSError as error:
        raise ConfigError(f"configuration file {file} cannot be read: {error.strerror}.") from error
    return parse(content, file)


def parse(content: bytes, file: Path) -> Config:
    """Check the bytes of a configuration file; `file` is named in errors.

    Raises:
        ConfigError: not UTF-8, not TOML, or against the schema.
    """
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text: byte {error.start} cannot be decoded.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}.") from error
    given: dict[str, Mapping[str, Any]] = {}
    tables: dict[str, tuple[Mapping[str, Any], ...]] = {}
    for name, value in document.items():
        section = _find(name, file, is_table=isinstance(value, dict | list))
        if section.repeated:
            if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                raise ConfigError(f"{file}: write each {name} as a table of its own: [[{name}]].")
            tables[name] = tuple(
                _check(item, section, file, f"[[{name}]] number {number}")
                for number, item in enumerate(value, 1)
            )
        elif isinstance(value, dict):
            given[name] = _check(value, section, file, f"[{name}]")
        else:
            raise ConfigError(f"{file}: {name} must be one table: [{name}].")
    return Config(file, given, tables)


def template() -> str:
    """A configuration file with every key, commented out, at its default."""
    lines = ["# Every key is optional: remove the # to change one. Check with: edge-runtime config check"]
    for section in SCHEMA:
        # An empty repeated table would be one: its header is commented out too.
        header = f"# [[{section.name}]]" if section.repeated else f"[{section.name}]"
        lines += ["", f"# {section.doc}", header]
        for key in section.keys:
            lines.append(f"# {key.doc}" + (f" Unset: {key.unset}." if key.default is None else ""))
            lines.append(f"# {key.name} = {toml_value(_example(key))}")
    return "\n".join(lines) + "\n"


def _example(key: Key) -> object:
    if key.default is not None:
        return key.default
    if key.choices:
        return key.choices[0]
    empty: dict[type, object] = {str: "", list: [], bool: False}
    return empty[key.type] if key.type in empty else key.type(key.minimum or 0)


def _section(name: str) -> Section:
    for section in SCHEMA:
        if section.name == name:
            return section
    raise KeyError(name)


def _find(name: str, file: Path, *, is_table: bool) -> Section:
    names = [section.name for section in SCHEMA]
    if name in names:
        return _section(name)
    if not is_table:
        home = [_title(section) for section in SCHEMA if any(key.name == name for key in section.keys)]
        if home:
            raise ConfigError(f"{file}: the key '{name}' stands outside a section; put it under {home[0]}.")
    kind = "section" if is_table else "key"
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        raise ConfigError(f"{file}: unknown {kind} '{name}'. Did you mean {_title(_section(near[0]))}?")
    known = ", ".join(map(_title, SCHEMA))
    raise ConfigError(f"{file}: unknown {kind} '{name}'. Known: {known}.")


def _check(table: Mapping[str, Any], section: Section, file: Path, place: str) -> Mapping[str, Any]:
    names = [key.name for key in section.keys]
    for name, value in table.items():
        if name not in names:
            elsewhere = [_title(other) for other in SCHEMA if any(key.name == name for key in other.keys)]
            moved = f" It belongs under {elsewhere[0]}." if elsewhere else _nearest(name, names)
            raise ConfigError(f"{file}: unknown key '{name}' in {place}.{moved}")
        problem = problem_with(section.key(name), value)
        if problem:
            raise ConfigError(f"{file}: {name} in {place} {problem}.")
    return dict(table)


def _title(section: Section) -> str:
    return f"[[{section.name}]]" if section.repeated else f"[{section.name}]"


def _nearest(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {near[0]}?"
    return f" Known: {', '.join(names)}."
