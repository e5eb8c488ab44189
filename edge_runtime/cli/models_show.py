"""`edge-runtime models show`: one package's manifest, evaluation and memory, readable."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

import model_zoo
from edge_runtime.cli import output
from edge_runtime.cli.models_common import ago, complete_name, utc
from edge_runtime.trust import signature_policy
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
    signature = package.signature(signature_policy(output.current_config()))
    used = model_zoo.last_used(package.source)
    if as_json:
        extra = {
            "path": str(package.source),
            "manifest_sha256": package.manifest_sha256,
            "signature": signature.to_json(),
            "last_used": None if used is None else utc(used),
            "memory_needed": memory,
        }
        output.emit_json({**manifest.to_dict(), **extra})
        return
    around = [
        ("path", str(package.source)),
        ("manifest SHA-256", package.manifest_sha256),
        ("signature", signature.text),
        ("last use", "not known" if used is None else ago(used, time.time())),
    ]
    for title, rows in _sections(package, around):
        output.print_table(("key", "value"), rows, title=title)
        click.echo()
    figures, others = _evaluation(manifest.evaluation)
    if figures:
        output.print_table(("suite", "figure", "value", "95 % interval", "rows"), figures, title="evaluation")
        click.echo()
    if others:
        output.print_table(("key", "value"), others, title="measured as well" if figures else "evaluation")
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


def _sections(
    package: model_zoo.Inspection, around: list[tuple[str, str]]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The manifest without its files, memory and evaluation as titled tables of key and value."""
    data = package.manifest.to_dict()
    plain = {key: value for key, value in data.items() if not isinstance(value, Mapping)}
    yield data["id"], [*_rows(plain), *around]
    for key in ("quantization", "engine_options", "licence", "source", "generation"):
        if data[key]:
            yield key, list(_rows(data[key]))


def _evaluation(
    evaluation: Mapping[str, Any],
) -> tuple[list[tuple[str | None, ...]], list[tuple[str, str]]]:
    """Figures with their intervals as rows of suite, figure, value, interval, rows; and all else as keys.

    A figure is a table with `value`, and optionally `low` and `high` (or `interval`) and `n`.
    """
    figures: list[tuple[str | None, ...]] = []
    others: dict[str, Any] = {}

    def walk(suite: str, path: tuple[str, ...], value: Any) -> None:
        if isinstance(value, Mapping) and isinstance(value.get("value"), int | float):
            low, high = value.get("interval") or (value.get("low"), value.get("high"))
            interval = None if low is None or high is None else f"{_figure(low)} to {_figure(high)}"
            rows = None if value.get("n") is None else f"{value['n']:,}"
            figures.append((suite, " ".join(path).replace("_", " "), _figure(value["value"]), interval, rows))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                walk(suite, (*path, key), item)
        else:
            others[".".join((suite, *path))] = value

    for suite, value in evaluation.items():
        walk(suite, (), value)
    return figures, list(_rows(others))


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _rows(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested tables as dotted keys; a list of texts has a line for each."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _rows(item, f"{name}.")
        elif isinstance(item, list | tuple) and any(isinstance(part, str) for part in item):
            for number, part in enumerate(item):
                yield "" if number else name, str(part)
        elif isinstance(item, list | tuple):
            yield name, ", ".join(map(str, item)) or "none"
        elif isinstance(item, float):
            yield name, f"{item:.4g}"
        else:
            yield name, f"{item:,}" if type(item) is int else str(item)
