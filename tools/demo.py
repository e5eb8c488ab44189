"""What `make demo` shows: a handful of utterances, answered on this device by the shipped model.

Run it as `python -m tools.demo`. It uses the public API alone and opens no connection.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from edge_runtime import Runtime
from edge_runtime.cli.show import status_line


class Said(NamedTuple):
    """An utterance, and the room that the speaker is in where the device knows it."""

    text: str
    area: str | None = None


UTTERANCES = (
    Said("turn off the lights in the kitchen"),
    Said("set the brightness to 30 percent", area="bedroom"),
    Said("wake me up at seven tomorrow morning"),
    Said("play some jazz"),
    Said("is it going to rain in berlin this weekend"),
    Said("what is the interest rate on my savings account"),
)


def messages(said: Said) -> list[dict[str, str]]:
    """The conversation that the model is given; docs/pocket-format.md has the format."""
    context = [{"role": "system", "content": f"area: {said.area}"}] if said.area else []
    return [*context, {"role": "user", "content": said.text}]


def show(runtime: Runtime, utterances: Iterable[Said], console: Console) -> None:
    """Answer every utterance and print its frame, evidence and speed."""
    info, manifest = runtime.model.engine.info, runtime.model.manifest
    size = f"{manifest.size_bytes / 1e6:.1f} MB, {manifest.quantization.scheme}, " if manifest else ""
    console.print(
        f"[bold]{info.model_id}[/bold]: {size}{info.threads} threads, "
        f"loaded in {1000 * runtime.model.load_s:.0f} ms\n"
    )
    speeds = []
    for said in utterances:
        where = f"  [dim](in the {said.area})[/dim]" if said.area else ""
        console.print(f"  [cyan]said [/cyan] {escape(said.text)}{where}", soft_wrap=True)
        answer = runtime.answer(messages(said))
        speeds.append(answer.timings["tokens_per_s"])
        console.print(f"  [green]frame[/green] {escape(answer.text)}", soft_wrap=True)
        console.print(f"        [dim]{escape(status_line(answer))}[/dim]\n", soft_wrap=True)
    console.print(
        "The log-probability is the raw mean over the tokens of an answer, in nats:\n"
        "nearer to 0 is surer. It is not calibrated, so it is no probability of being right.\n"
        f"Median speed: {statistics.median(speeds):,.0f} tokens/s, evidence included.",
        soft_wrap=True,
    )


def main() -> None:
    with Runtime.open("pocket") as runtime:
        show(runtime, UTTERANCES, Console(highlight=False))
    print(
        '\nNext: .venv/bin/edge-runtime run "…", .venv/bin/edge-runtime chat, .venv/bin/edge-runtime --help'
    )


if __name__ == "__main__":
    main()
