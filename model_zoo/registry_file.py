"""A registry file: TOML text → checked entries, with errors that name the entry, the field and the line.

Knows: the format (`docs/zoo.md`). Does not know: where registry files come from or which of them wins
(`registry.py`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from model_zoo.errors import RegistryError
from model_zoo.footprint import DEFAULT_CONTEXT, SCHEMES, Architecture, Footprint, footprint
from model_zoo.manifest import Memory
from model_zoo.toml_tables import Field, Lines, Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["FORMAT", "MAX_REGISTRY_BYTES", "RegistryEntry", "Signed", "parse_registry"]

FORMAT = 1
"""The format version that this release reads."""

MAX_REGISTRY_BYTES = 4 << 20
"""A longer registry is refused before it is parsed, bytes."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One model that can be had.

    Exactly one of `repository` (a checkpoint on the hub, quantized when it is pulled), `url` (a ready
    package: a folder or an `.edge` file) and `shipped` (a package of the installation, by name) is set.

    `tag` is empty when the name has one size only. `context`: tokens that the model was trained for;
    `package_context`: those that a package gets when nothing else is asked for. `tasks`: what it is for
    (`chat`, or the tasks of a special model). `schemes`: expected size and memory by scheme, computed from
    the architecture. `checkpoint_bytes`: size of the checkpoint that a pull downloads first. `boards`: those
    it suits (`model_zoo.recommend` computes them). `registry` names the file it came from; `signed_by` its
    trusted signer.
    """

    name: str
    tag: str
    default: bool
    summary: str
    repository: str | None
    revision: str | None
    url: str | None
    shipped: str | None
    manifest_sha256: str | None
    licence: str
    licence_url: str | None
    gated: bool
    parameters: int
    context: int
    package_context: int
    tasks: tuple[str, ...]
    schemes: Mapping[str, Footprint]
    boards: tuple[str, ...]
    architecture: Architecture | None
    tokenizer_bytes: int
    checkpoint_bytes: int
    registry: str = ""
    signed_by: str | None = None

    @property
    def id(self) -> str:
        """`name:tag`, or the name alone: also the id of the package that a pull makes."""
        return f"{self.name}:{self.tag}" if self.tag else self.name

    @property
    def pinned(self) -> bool:
        """Whether `revision` is a commit, which cannot come to mean something else later."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @property
    def source(self) -> str:
        """Where it comes from, for people: repository and revision, address, or `shipped`."""
        if self.repository is not None:
            return f"{self.repository}@{self.revision}"
        return self.url or "shipped"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of everything a user may want to know."""
        values = {key: getattr(self, key) for key in _JSON_KEYS}
        return {
            "id": self.id,
            **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()},
            "schemes": {
                name: {
                    "package_bytes": print_.package_bytes,
                    "weights_bytes": print_.memory.weights_bytes,
                    "kv_bytes_per_token": print_.memory.kv_bytes_per_token,
                    "runtime_bytes": print_.memory.runtime_bytes,
                }
                for name, print_ in self.schemes.items()
            },
        }


_JSON_KEYS = (
    *(
        "name",
        "tag",
        "summary",
        "repository",
        "revision",
        "url",
        "shipped",
        "licence",
        "licence_url",
        "gated",
    ),
    *(
        "parameters",
        "context",
        "package_context",
        "tasks",
        "boards",
        "checkpoint_bytes",
        "registry",
        "signed_by",
    ),
)


@dataclass(frozen=True, slots=True)
class Signed:
    """The bytes of a registry and of its signature (`None`: it has none)."""

    content: bytes
    signature: bytes | None


def parse_registry(content: bytes, where: str) -> tuple[str, tuple[RegistryEntry, ...]]:
    """The registry's own name and its entries; `where` (path or address) begins every error message.

    Raises:
        RegistryError: not TOML, a newer format, a missing, unknown or wrong field, or an entry twice.
    """
    if len(content) > MAX_REGISTRY_BYTES:
        raise RegistryError(f"{where}: has {len(content)} bytes; more than {MAX_REGISTRY_BYTES} is refused")
    try:
        text = content.decode("utf-8")
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise RegistryError(f"{where}: is not UTF-8 text: byte {error.start} cannot be decoded") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RegistryError(f"{where}: is not valid TOML: {error}") from error
    version = document.get("format")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise RegistryError(
            f"{where}: format is {version} but this release reads formats up to {FORMAT}. "
            "Upgrade it with: pip install --upgrade edge-runtime"
        )
    lines = Lines(text)
    top = Table(document, (), lines, where, "the registry").checked(_TOP)
    if top["format"] != FORMAT:
        raise RegistryError(f"{where}: format is {version}; the only one there is is {FORMAT}")
    entries = [_entry(values, index, top["name"], where, lines) for index, values in enumerate(top["model"])]
    _check_unique(entries, where, lines)
    return top["name"], tuple(entries)


# --- entries ------------------------------------------------------------------------------------------------


def _entry(values: Any, index: int, registry: str, where: str, lines: Lines) -> RegistryEntry:
    path, label = ("model", index), _label(values, index)
    table = Table(values, path, lines, where, label)
    given = table.checked(_MODEL)
    sources = [key for key in ("repository", "url", "shipped") if given[key] is not None]
    if len(sources) != 1:
        found = " and ".join(sources) if sources else "none of them"
        raise table.error(
            None, f"needs exactly one of repository, url and shipped (where it comes from), but has {found}"
        )
    if given["repository"] is not None and given["revision"] is None:
        raise table.error("revision", 'is missing; it must be a commit of the repository (or "main")')
    if given["package_context"] is not None and given["package_context"] > given["context"]:
        raise table.error(
            "package_context",
            f"is {given['package_context']}, more than the {given['context']} tokens of context",
        )
    arch = None
    if given["architecture"] is not None:
        inner = Table(given["architecture"], (*path, "architecture"), lines, where, label)
        arch = Architecture(**inner.checked(_ARCHITECTURE))
    context = given["package_context"] or (
        arch.context(given["context"]) if arch else min(given["context"], DEFAULT_CONTEXT)
    )
    schemes = _schemes(given, arch, context, table)
    return RegistryEntry(
        **{key: given[key] for key in _SAME},
        tasks=tuple(given["tasks"]),
        boards=tuple(given["boards"]),
        package_context=context,
        schemes=schemes,
        architecture=arch,
        checkpoint_bytes=given["checkpoint_bytes"] or 2 * given["parameters"],
        registry=registry,
    )


_SAME = (
    *("name", "tag", "default", "summary", "repository", "revision", "url", "shipped", "manifest_sha256"),
    *("licence", "licence_url", "gated", "parameters", "context", "tokenizer_bytes"),
)


def _schemes(
    given: Mapping[str, Any], arch: Architecture | None, context: int, table: Table
) -> dict[str, Footprint]:
    found: dict[str, Footprint] = {}
    for name, values in (given["schemes"] or {}).items():
        inner = Table(values, (*table.path, "schemes", name), table.lines, table.where, table.label)
        sizes = inner.checked(_SCHEME)
        found[name] = Footprint(sizes.pop("package_bytes"), Memory(**sizes))
    if not found and arch is not None:
        found = {name: footprint(arch, name, context, given["tokenizer_bytes"]) for name in SCHEMES}
    if not found:
        raise table.error(
            "schemes",
            "is missing; give a table [model.schemes.NAME] of sizes, or [model.architecture] instead",
        )
    return found


def _label(values: Any, index: int) -> str:
    """How an error speaks of an entry: by name and tag, or by number while it has no name."""
    name = values.get("name") if isinstance(values, dict) else None
    if not isinstance(name, str):
        return f"model number {index + 1}"
    tag = values.get("tag")
    return f"model {name}:{tag}" if isinstance(tag, str) and tag else f"model {name}"


def _check_unique(entries: Iterable[RegistryEntry], where: str, lines: Lines) -> None:
    seen: dict[str, int] = {}
    defaults: dict[str, int] = {}
    for index, entry in enumerate(entries):
        line = lines.of(("model", index))
        if entry.id in seen:
            first = lines.of(("model", seen[entry.id]))
            raise RegistryError(
                f"{where}: line {line}: model {entry.id} stands there twice, first at line {first}"
            )
        seen[entry.id] = index
        if entry.default:
            if entry.name in defaults:
                first = lines.of(("model", defaults[entry.name]))
                raise RegistryError(
                    f"{where}: line {line}: model {entry.id} is a second default of '{entry.name}'; "
                    f"the first stands at line {first}"
                )
            defaults[entry.name] = index


# --- fields -------------------------------------------------------------------------------------------------


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: pattern.fullmatch(value) is not None


def _positive(value: int) -> bool:
    return value > 0


def _not_negative(value: int) -> bool:
    return value >= 0


def _web_address(value: str) -> bool:
    parts = urlsplit(value)
    return parts.scheme in ("http", "https") and bool(parts.netloc)


_COUNT = Field(int, "a whole number above 0", required=True, valid=_positive)
_TEXTS = Field(
    list, "a list of texts", default=(), valid=lambda value: all(isinstance(v, str) for v in value)
)

_TOP: Mapping[str, Field] = {
    "format": Field(int, f"the format version, {FORMAT}", required=True),
    "name": Field(str, "a name in lower case, such as 'acme'", required=True, valid=_matches(_NAME)),
    "updated": Field(str, "a date in quotes", default=""),
    "model": Field(list, "one or more tables [[model]]", required=True),
}

_MODEL: Mapping[str, Field] = {
    "name": Field(
        str,
        "a short name in lower case (letters, digits, '.', '_', '-')",
        required=True,
        valid=_matches(_NAME),
    ),
    "tag": Field(
        str,
        "a size in lower case, such as '135m'",
        default="",
        valid=lambda v: not v or bool(_NAME.fullmatch(v)),
    ),
    "default": Field(bool, "true or false", default=False),
    "summary": Field(str, "one sentence in quotes", default=""),
    "repository": Field(str, "a hub repository, 'owner/name'", valid=_matches(_REPOSITORY)),
    "revision": Field(str, "a commit, tag or branch of the repository", valid=bool),
    "url": Field(str, "an http(s) address of a package folder or .edge file", valid=_web_address),
    "shipped": Field(str, "the name of a package that is part of the installation", valid=_matches(_NAME)),
    "manifest_sha256": Field(str, "64 hexadecimal digits in lower case", valid=_matches(_SHA256)),
    "licence": Field(str, "an SPDX id, or the publisher's name for its licence", required=True, valid=bool),
    "licence_url": Field(str, "an http(s) address", valid=_web_address),
    "gated": Field(bool, "true or false", default=False),
    "parameters": _COUNT,
    "context": Field(int, "the trained context in tokens, above 0", required=True, valid=_positive),
    "package_context": Field(int, "tokens, above 0", valid=_positive),
    "tasks": Field(list, "a list of texts", default=("chat",), valid=_TEXTS.valid),
    "boards": _TEXTS,
    "tokenizer_bytes": Field(int, "bytes", default=0, valid=_not_negative),
    "checkpoint_bytes": Field(int, "bytes", valid=_positive),
    "architecture": Field(dict, "a table of the model's numbers"),
    "schemes": Field(dict, "a table of tables, [model.schemes.int4] and so on"),
}

_SCHEME: Mapping[str, Field] = {
    "package_bytes": _COUNT,
    "weights_bytes": _COUNT,
    "kv_bytes_per_token": _COUNT,
    "runtime_bytes": _COUNT,
}


def _architecture_fields() -> dict[str, Field]:
    """The fields of `Architecture`: those without a default are required."""
    found: dict[str, Field] = {}
    for item in fields(Architecture):
        kind = {"str": str, "int": int, "bool": bool}[str(item.type)]
        expected = {str: "a class name such as 'LlamaForCausalLM'", bool: "true or false"}.get(
            kind, "a whole number above 0"
        )
        optional = item.default is not MISSING
        valid = (lambda value: value != "") if kind is str else _not_negative if optional else _positive
        found[item.name] = Field(kind, expected, not optional, item.default if optional else None, valid)
    return found


_ARCHITECTURE = _architecture_fields()
