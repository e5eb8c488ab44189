"""`manifest.schema.json` and what to tell a person whose manifest breaks it.

Knows: JSON Schema (draft 7), through fastjsonschema. Does not know: what the keys are for.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["problem"]


def problem(data: Any) -> str | None:
    """The first thing wrong with a manifest: key, value and what was expected; `None` when all is well."""
    import fastjsonschema  # ~20 ms to import and compile; only who opens a package pays for it

    try:
        _validator()(data)
    except fastjsonschema.JsonSchemaValueException as error:
        return _explain(error, data)
    return None


@functools.cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(
        Path(__file__).with_name("manifest.schema.json").read_text(encoding="utf-8")
    )
    return schema


@functools.cache
def _validator() -> Callable[[Any], Any]:
    import fastjsonschema

    compiled: Callable[[Any], Any] = fastjsonschema.compile(_schema(), use_default=False)
    return compiled


def _explain(error: Any, data: Any) -> str:
    """One sentence from a fastjsonschema error: the key's path, its value, and what the schema expects."""
    path = _mend_path(list(error.path[1:]), data)
    rule, definition, value = error.rule, error.definition, error.value
    if rule == "required":
        missing = next(key for key in definition["required"] if key not in value)
        expected = _resolve(definition["properties"][missing]).get("description", "a table of values")
        return f"{_key_path([*path, missing])}: is missing; it must be {expected}"
    if rule == "additionalProperties":
        known = sorted(definition["properties"])
        unknown = next(key for key in value if key not in known)
        near = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return f"{_key_path([*path, unknown])}: is an unknown key; {hint}"
    expected = definition.get("description", "a table with the keys of manifest.schema.json")
    shown = json.dumps(value, ensure_ascii=False)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return f"{_key_path(path)}: is {shown} but must be {expected}"


def _mend_path(path: list[str], data: Any) -> list[str]:
    """fastjsonschema splits paths at dots, which names of files have; put such a name together again."""
    if path[:1] != ["files"] or not isinstance(data["files"], dict):
        return path
    for name in data["files"]:
        parts = [part for part in re.split(r"[.\[\]]+", name) if part]
        if path[1 : 1 + len(parts)] == parts and path[1 + len(parts) :] in ([], ["size"], ["sha256"]):
            return ["files", name, *path[1 + len(parts) :]]
    return path


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    resolved: dict[str, Any] = _schema()["definitions"][reference.rsplit("/", 1)[1]]
    return resolved


def _key_path(parts: list[Any]) -> str:
    """`["files", "a.onnx", "size"]` → `files["a.onnx"].size`, list indices as `[0]`."""
    text = ""
    for part in parts:
        plain = str(part)
        if plain.isdigit():
            text += f"[{plain}]"
        elif plain.replace("_", "").isalnum():
            text += f".{plain}" if text else plain
        else:
            text += f"[{json.dumps(plain, ensure_ascii=False)}]"
    return text or "the manifest"
