"""`edge-runtime models show`: one package's manifest, evaluation and memory, readable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

import model_zoo
from edge_runtime.cli import output
from edge_runtime.cli.models_common import complete_name
from model_zoo import files as fs

__all__ = ["show"]


@click.command()
@click.argument("name", shell_complete=complete_name)
@click.option("--context", type=click.IntRange(min=1), help="Tokens of KV cache in the sum of memory.")
@output.json_option
def show(name: str, context: int | None, as_json: bool) -> None:
    """Show the whole manifest of NAME, its evaluation, and the memory it needs.

    NAME is a package's name, its folder, or an .edge file. The sum of memory is weights + KV cache + runtime,
    with the model's whole context unless --context says less.
    """
    package = model_zoo.inspect_package(name)
    manifest = package.manifest
    tokens = manifest.context_length if context is None else context
    if tokens > manifest.context_length:
        raise click.BadParameter(
            f"{tokens} tokens are more than the model's context of {manifest.context_length}.",
            param_hint="--context",
        )
    memory = _memory(manifest.memory, tokens)
    if as_json:
        path, sha256 = str(package.source), package.manifest_sha256
        extra = {"path": path, "manifest_sha256": sha256, "memory_needed": memory}
        output.emit_json({**manifest.to_dict(), **extra})
        return
    for title, rows in _sections(package):
        output.print_table(("key", "value"), rows, title=title)
        click.echo()
    files = [(path, fs.human_size(e.size), e.sha256) for path, e in sorted(manifest.files.items())]
    output.print_table(("file", "size", "SHA-256"), files, title="files")
    click.echo()
    output.print_table(("part", "size"), _memory_rows(manifest.memory, tokens), title="memory needed")


def _memory(memory: model_zoo.Memory, context: int) -> dict[str, int]:
    return {
        "context": context,
        "weights_bytes": memory.weights_bytes,
        "kv_bytes": memory.kv_bytes_per_token * context,
        "runtime_bytes": memory.runtime_bytes,
        "total_bytes": memory.total(context),
    }


def _memory_rows(memory: model_zoo.Memory, context: int) -> list[tuple[str, str]]:
    per_token = fs.human_size(memory.kv_bytes_per_token)
    return [
        ("weights", fs.human_size(memory.weights_bytes)),
        (f"KV cache: {context} tokens × {per_token}", fs.human_size(memory.kv_bytes_per_token * context)),
        ("runtime", fs.human_size(memory.runtime_bytes)),
        ("together", fs.human_size(memory.total(context))),
    ]


def _sections(package: model_zoo.Inspection) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The manifest without its files and memory as titled tables of key and value."""
    data = package.manifest.to_dict()
    plain = {key: value for key, value in data.items() if not isinstance(value, Mapping)}
    yield (
        data["id"],
        [*_rows(plain), ("path", str(package.source)), ("manifest SHA-256", package.manifest_sha256)],
    )
    for key in ("quantization", "engine_options", "licence", "source", "generation", "evaluation"):
        if data[key]:
            yield key, list(_rows(data[key]))


def _rows(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested tables as dotted keys, lists separated by commas."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _rows(item, f"{name}.")
        elif isinstance(item, list | tuple):
            yield name, ", ".join(map(str, item)) or "none"
        else:
            yield name, str(item)
