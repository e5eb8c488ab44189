"""The verb `edge-runtime quantize`: checkpoint (folder or hub id) → model package, with a report of what it
cost.

This module knows options and how results are shown; the work is done by the modules that it calls.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.output import emit_json, json_option, print_table, progress, status, transfers
from edge_runtime.memory import peak_rss_mib

if TYPE_CHECKING:
    from model_zoo.manifest import Manifest
    from quantize.report import Fidelity
    from quantize.schemes import Quantizer, Scheme

__all__ = ["command"]

_METHODS = ("rtn", "search", "weighted", "gptq")
_REPORT_TOKENS = 8192


@click.command("quantize")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--scheme",
    type=click.Choice(["int4", "int8", "fp16", "fp32"]),
    default="int4",
    help="How weights are stored.",
)
@click.option("--block-size", type=int, help="Weights that share one scale.  [default: the scheme's]")
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    help="How codes and scales are chosen. gptq and weighted run text through the model: --calibration-text, "
    "or else text of the model's own.  [default: search; gptq with a calibration text]",
)
@click.option("--head-bits", type=click.Choice(["4", "8", "16", "32"]), help="Bits of head and embedding.")
@click.option("--head-block-size", type=int, help="Block of head and embedding.")
@click.option(
    "--pad-blocks",
    is_flag=True,
    help="Pad rows that the block does not divide, by an eighth at most, instead of taking a smaller block: "
    "quicker prompts on x86-64, slower ones on ARM.",
)
@click.option(
    "--context", type=int, help="Context length, tokens.  [default: the checkpoint's, at most 32768]"
)
@click.option("--name", help="The package's id.  [default: the name of OUT]")
@click.option(
    "--calibration-text",
    type=click.Path(path_type=Path),
    help="Text of the kind the model will read: plain, or .jsonl with a 'text' per line.",
)
@click.option("--calibration-tokens", type=click.IntRange(64), default=8192, help="Tokens of it to use.")
@click.option(
    "--exporter",
    type=click.Choice(["native", "optimum"]),
    default="native",
    help="optimum: for architectures that have no description here; slower, larger, needs the extra.",
)
@click.option("--report", is_flag=True, help="Compare with the float32 model on --report-text.")
@click.option("--report-text", type=click.Path(path_type=Path), help="Text for the report; implies --report.")
@click.option(
    "--report-tokens", type=click.IntRange(2), default=_REPORT_TOKENS, help="Tokens of it to compare."
)
@click.option(
    "--report-picture", type=click.Path(path_type=Path), help="Draw the report into this .png or .svg."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing package.")
@json_option
def command(
    source: str,
    out: Path,
    scheme: str,
    block_size: int | None,
    method: str | None,
    head_bits: str | None,
    head_block_size: int | None,
    pad_blocks: bool,
    context: int | None,
    name: str | None,
    calibration_text: Path | None,
    calibration_tokens: int,
    exporter: str,
    report: bool,
    report_text: Path | None,
    report_tokens: int,
    report_picture: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a model package at OUT from the checkpoint SRC.

    SRC is a Hugging Face checkpoint folder (config.json, safetensors, tokenizer.json), or a hub id such as
    owner/name or owner/name@revision, which is fetched first.

    The package appears whole or not at all: an interrupted run leaves nothing behind and is simply started
    again."""
    if (report or report_picture) and report_text is None:
        raise click.UsageError("--report compares on a text of yours: name it with --report-text FILE")
    if exporter == "optimum" and report_text is not None:
        raise click.UsageError("--report needs the native exporter: its reference is our own float32 graph")
    started = time.perf_counter()
    folder, repository, revision = _source(source)
    rows = None if report_text is None else _rows(folder, report_text, report_tokens)
    chosen = _scheme(
        scheme, block_size, method, head_bits, head_block_size, pad_blocks, calibration_text, exporter
    )
    if exporter == "optimum":
        manifest = _through_optimum(folder, out, chosen, name, context, overwrite, repository, revision)
    else:
        manifest = _native(
            folder,
            out,
            chosen,
            name,
            context,
            overwrite,
            repository,
            revision,
            calibration_text,
            calibration_tokens,
        )
    seconds, peak = time.perf_counter() - started, round(peak_rss_mib() * 2**20)
    found = None
    if rows is not None:
        from model_zoo import amend

        found = _report(folder, out, manifest, rows, report_picture)
        manifest = amend(out, {"evaluation": {**manifest.evaluation, "quantization": found.to_dict()}})
    if as_json:
        emit_json(
            {
                "package": str(out),
                "seconds": round(seconds, 3),
                "peak_memory_bytes": peak,
                "size_bytes": manifest.size_bytes,
                "manifest": manifest.to_dict(),
                "report": None if found is None else found.to_dict(),
            }
        )
        return
    _show(out, manifest, seconds, peak, found)


# --- the source -----------------------------------------------------------------------------------


def _source(source: str) -> tuple[Path, str | None, str | None]:
    """(checkpoint folder, hub repository, hub revision); a hub id is fetched."""
    from quantize.hub import fetch, parse_id

    path = Path(source).expanduser()
    if path.exists():
        return path, None, None
    with transfers() as bars:
        folder = fetch(source, progress=bars.update)
    identifier = parse_id(source)
    # The cache names a snapshot after its commit.
    return folder, identifier and identifier.repository, folder.name


def _scheme(
    name: str,
    block_size: int | None,
    method: str | None,
    head_bits: str | None,
    head_block_size: int | None,
    pad_blocks: bool,
    calibration_text: Path | None,
    exporter: str,
) -> Scheme:
    """The options as one checked scheme."""
    from quantize.errors import SchemeError
    from quantize.methods import CALIBRATED
    from quantize.schemes import Scheme

    if method is None and calibration_text is not None:
        method = "gptq"
    if exporter == "optimum" and (method in CALIBRATED or name == "fp16"):
        what = "scheme 'fp16'" if name == "fp16" else f"method '{method}'"
        raise SchemeError(
            f"{what} belongs to the native exporter; --exporter optimum writes int4, int8 or fp32"
        )
    chosen = Scheme.named(
        name,
        block_size=block_size,
        method=method,
        head_bits=int(head_bits) if head_bits else None,
        head_block_size=head_block_size,
        pad_blocks=pad_blocks,
    )
    if calibration_text is not None and (chosen.method not in CALIBRATED or not chosen.quantized):
        what = f"method '{chosen.method}'" if chosen.quantized else f"scheme '{chosen.name}'"
        raise SchemeError(
            f"{what} does not use --calibration-text; leave it out, or choose int4 with weighted or gptq"
        )
    return chosen


# --- making the package ---------------------------------------------------------------------------


def _native(
    folder: Path,
    out: Path,
    scheme: Scheme,
    name: str | None,
    context: int | None,
    overwrite: bool,
    repository: str | None,
    revision: str | None,
    calibration_text: Path | None,
    calibration_tokens: int,
) -> Manifest:
    from quantize.export import quantize_checkpoint

    with (
        progress("quantizing") as advance,
        _quantizer(folder, out, scheme, calibration_text, calibration_tokens, advance) as quantizer,
    ):
        before = 0

        def show(done: int, total: int, step: str) -> None:
            nonlocal before
            advance((done - before) / 2**20, total=total / 2**20, label=f"{step} (MiB)")
            before = done

        return quantize_checkpoint(
            folder,
            out,
            scheme=scheme,
            name=name,
            context_length=context,
            progress=show,
            quantizer=quantizer,
            overwrite=overwrite,
            repository=repository,
            revision=revision,
        )


@contextlib.contextmanager
def _quantizer(
    folder: Path,
    out: Path,
    scheme: Scheme,
    calibration_text: Path | None,
    tokens: int,
    advance: Callable[..., None],
) -> Iterator[Quantizer | None]:
    """What the model's activations say, for methods that ask; None leaves it to the scheme's own method."""
    from quantize.methods import CALIBRATED

    if scheme.method not in CALIBRATED:
        yield None
        return
    from quantize.calibration import calibrated_quantizer

    rows = _rows(folder, calibration_text, tokens) if calibration_text is not None else None
    what = f"{sum(map(len, rows))} tokens of {calibration_text}" if rows else "text of the model's own making"
    status(f"calibrating on {what}")

    def show(done: int, total: int, label: str) -> None:
        advance(0, label=f"{label} ({done} of {total})")

    with calibrated_quantizer(
        folder, rows, scheme.method, workspace=out.absolute().parent, tokens=tokens, progress=show
    ) as quantizer:
        yield quantizer


def _through_optimum(
    folder: Path,
    out: Path,
    scheme: Scheme,
    name: str | None,
    context: int | None,
    overwrite: bool,
    repository: str | None,
    revision: str | None,
) -> Manifest:
    from quantize.optimum_export import export_with_optimum

    status("exporting through optimum: this loads the whole model in torch")
    return export_with_optimum(
        folder,
        out,
        scheme=scheme,
        name=name,
        context_length=context,
        overwrite=overwrite,
        repository=repository,
        revision=revision,
    )


def _rows(folder: Path, path: Path, tokens: int) -> list[list[int]]:
    """The text in the checkpoint's own tokens; rows begin as the tokenizer begins a text."""
    from edge_runtime.tokenizer import Tokenizer
    from quantize.companions import tokenizer_file
    from quantize.text import read_rows

    tokenizer = Tokenizer.from_file(tokenizer_file(folder))
    bare, full = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=True)
    start = full[: len(full) - len(bare)] if full[len(full) - len(bare) :] == bare else []
    return read_rows(path, tokenizer.encode, limit=tokens, start=start)


# --- the report -----------------------------------------------------------------------------------


def _report(
    folder: Path, out: Path, manifest: Manifest, rows: list[list[int]], picture: Path | None
) -> Fidelity:
    """Export float32 beside OUT for as long as it takes, and compare."""
    from edge_runtime.model import LoadedModel
    from quantize.export import quantize_checkpoint
    from quantize.report import compare, draw
    from quantize.schemes import Scheme

    rows = [row[: manifest.context_length] for row in rows]
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".report-") as temporary:
        status("exporting float32 for comparison")
        package = Path(temporary) / "float32"
        full = quantize_checkpoint(
            folder, package, scheme=Scheme.named("fp32"), context_length=manifest.context_length
        )
        reference, candidate = LoadedModel.open(package), LoadedModel.open(out)
        with progress("comparing with float32 (tokens)") as advance:
            before = 0

            def show(done: int, total: int) -> None:
                nonlocal before
                advance(done - before, total=total)
                before = done

            found = compare(
                reference.engine,
                candidate.engine,
                rows,
                reference_bytes=full.size_bytes,
                package_bytes=manifest.size_bytes,
                progress=show,
            )
        for model in (reference, candidate):
            model.engine.close()
    if picture is not None:
        draw({manifest.id: found}, picture)
    return found


# --- showing --------------------------------------------------------------------------------------


def _show(out: Path, manifest: Manifest, seconds: float, peak: int, found: Fidelity | None) -> None:
    from quantize.report import rows_of_table

    how = manifest.quantization
    block = f", blocks of {how.block_size}" if how.block_size else ""
    head = f"; head {how.head_bits} bits" if how.head_bits else ""
    rows: list[tuple[str, Any]] = [
        ("package", f"{out} ({manifest.id})"),
        ("architecture", f"{manifest.architecture}, {manifest.parameters / 1e6:.1f} M parameters"),
        ("scheme", f"{how.scheme} ({how.method}{block}{head})"),
        ("size", f"{manifest.size_bytes / 2**20:.1f} MiB"),
        ("context", f"{manifest.context_length} tokens"),
        ("time", f"{seconds:.1f} s"),
        ("peak memory", f"{peak / 2**20:.0f} MiB"),
    ]
    print_table(["", "value"], rows)
    if found is not None:
        print_table(["against float32", "value"], rows_of_table(found))
