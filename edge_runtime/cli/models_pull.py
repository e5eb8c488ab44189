"""`edge-runtime models pull`: options, bars and sentences; the work is `model_zoo.pull`'s."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from edge_runtime.cli import output
from model_zoo import files as fs

if TYPE_CHECKING:
    from model_zoo.pull import Pulled

__all__ = ["command"]


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from model_zoo.registry import shipped_registry

    return [
        CompletionItem(entry.id, help=entry.summary)
        for entry in shipped_registry().entries()
        if entry.id.startswith(incomplete) and not entry.shipped
    ]


@click.command(name="pull")
@click.argument("name", metavar="NAME[:TAG]|OWNER/NAME|URL", shell_complete=_complete)
@click.option("--scheme", help="How weights are stored: int4, int8, fp16 or fp32.  [default: int4]")
@click.option("--name", "as_name", metavar="NAME", help="Install it under this name.")
@click.option("--revision", help="Branch, tag or commit of the repository.  [default: the registry's]")
@click.option(
    "--context", type=click.IntRange(min=1), help="Context length that the package is made for, tokens."
)
@click.option("--force", is_flag=True, help="Install again, and replace what came from elsewhere.")
@click.option("--ignore-memory", is_flag=True, help="Fetch it even if it cannot run here.")
@click.option(
    "--keep-checkpoint", is_flag=True, help="Leave the downloaded checkpoint in the Hugging Face cache."
)
@output.json_option
def command(
    name: str,
    scheme: str | None,
    as_name: str | None,
    revision: str | None,
    context: int | None,
    force: bool,
    ignore_memory: bool,
    keep_checkpoint: bool,
    as_json: bool,
) -> None:
    """Fetch a model and install it.

    NAME[:TAG] is looked up in the registries (`models recommend` lists what fits this device). OWNER/NAME is
    a repository of the Hugging Face hub. Both are downloaded as checkpoints and quantized here. URL is a
    ready package: its folder, or an .edge file.

    Disk and memory are checked first. A pull that breaks off goes on where it stopped when it is run again.
    HF_TOKEN opens gated models; HF_ENDPOINT names another hub; http_proxy and https_proxy are honoured.
    """
    from edge_runtime.registries import configured_registries
    from edge_runtime.trust import signature_policy
    from model_zoo.pull import Options, Place, pull, resolve

    if not name.startswith(("http://", "https://", "hf://")) and Path(name).expanduser().exists():
        raise click.BadParameter(
            f"{name} is on this device already. A package runs as it is: edge-runtime run --model {name}; "
            f"a checkpoint is quantized with: edge-runtime quantize {name} OUT",
            param_hint="NAME",
        )
    started = time.monotonic()
    settings = output.current_config()
    notices: list[str] = []

    def registry() -> Any:
        found = configured_registries(settings)
        notices.extend(notice for notice in found.notices if notice not in notices)
        return found

    with output.transfers() as bars:
        source = resolve(name, registry)
        place = Place(device=_device(), policy=signature_policy(settings), report=_Shown(bars))
        options = Options(
            scheme=scheme,
            name=as_name,
            revision=revision,
            context_length=context,
            force=force,
            ignore_memory=ignore_memory,
            keep_checkpoint=keep_checkpoint,
        )
        done = pull(source, options, place)
    seconds = time.monotonic() - started
    for notice in (*notices, *done.notes):
        output.status(notice)
    if as_json:
        output.emit_json(_json(done, seconds, [*notices, *done.notes]))
    else:
        click.echo(_sentence(done, seconds))


class _Shown:
    """A `model_zoo.pull.Report` on the terminal."""

    def __init__(self, bars: output.Transfers) -> None:
        self._bars = bars

    def step(self, text: str) -> None:
        """A line above the bars."""
        self._bars.say(text)

    def file(self, label: str, done: int, total: int | None) -> None:
        """One bar per file."""
        self._bars.update(label, done, total)

    def work(self, label: str, done: int, total: int) -> None:
        """One bar per step."""
        self._bars.update("quantizing" if label != "verifying" else label, done, total)


def _device() -> Any:
    from edge_runtime.device import probe
    from model_zoo.room import Device

    return Device(memory_available=probe().memory_available)


def _sentence(done: Pulled, seconds: float) -> str:
    manifest, run = done.manifest, f"edge-runtime run --model {done.name} PROMPT"
    what = f"{done.name} ({manifest.quantization.scheme}, {fs.human_size(manifest.size_bytes)})"
    if done.action == "shipped":
        return f"{what} is shipped with the program; there is nothing to fetch. Use it: {run}"
    if done.action == "present":
        revision = manifest.source.revision or manifest.revision
        return f"{what} is installed already, at revision {revision}. Use it: {run}"
    return f"{done.action} {what} in {seconds:.0f} s: {done.path}\nUse it: {run}"


def _json(done: Pulled, seconds: float, notices: list[str]) -> dict[str, Any]:
    return {
        "name": done.name,
        "action": done.action,
        "path": str(done.path),
        "scheme": done.manifest.quantization.scheme,
        "revision": done.manifest.revision,
        "size_bytes": done.manifest.size_bytes,
        "downloaded_bytes": done.downloaded,
        "seconds": round(seconds, 3),
        "signature": None if done.signature is None else done.signature.to_json(),
        "notices": notices,
        "manifest": done.manifest.to_dict(),
    }
