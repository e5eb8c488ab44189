"""What `make demo` shows: utterances and word problems, answered on this device by the shipped model.

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
from edge_runtime.evaluation.problems.grade import parse_answer, parse_reference
from offload.types import Answer


class Said(NamedTuple):
    """An utterance, and the room that the speaker is in where the device knows it."""

    text: str
    area: str | None = None


class Asked(NamedTuple):
    """A word problem with its right answer, which the model is not told."""

    text: str
    answer: str


UTTERANCES = (
    Said("turn off the lights in the kitchen"),
    Said("set the brightness to 30 percent", area="bedroom"),
    Said("wake me up at seven tomorrow morning"),
    Said("play some jazz"),
    Said("is it going to rain in berlin this weekend"),
    Said("what is the interest rate on my savings account"),
)
PROBLEMS = (
    Asked("Emma has 24 marbles. Ben gives her 18 more. How many marbles does Emma have now?", "42"),
    Asked("A pen costs $3. Omar buys 12 pens and pays with $50. How much change does he get?", "14"),
    Asked(
        "Lena has 6 boxes with 8 cookies in each box. She eats 4 of them and gives half of the rest to Tom. "
        "How many cookies does Lena have left?",
        "22",
    ),
)


RAW = "The log-probability is the raw mean over the tokens of an answer, in nats: nearer to 0 is surer."
CALIBRATED = "P(correct) is calibrated on held-out rows: of answers given 0.9, about nine in ten are right."


def messages(said: Said) -> list[dict[str, str]]:
    """The conversation that the model is given; docs/pocket-format.md has the format."""
    context = [{"role": "system", "content": f"area: {said.area}"}] if said.area else []
    return [*context, {"role": "user", "content": said.text}]


def show(runtime: Runtime, utterances: Iterable[Said], problems: Iterable[Asked], console: Console) -> None:
    """Answer everything and print the answers with evidence and speed."""
    info, manifest = runtime.model.engine.info, runtime.model.manifest
    size = f"{manifest.size_bytes / 1e6:.1f} MB, {manifest.quantization.scheme}, " if manifest else ""
    console.print(
        f"[bold]{info.model_id}[/bold]: {size}{info.threads} threads, "
        f"loaded in {1000 * runtime.model.load_s:.0f} ms\n"
    )
    answers = [_utterance(runtime, said, console) for said in utterances]
    asked = list(problems)
    right = 0
    for problem in asked:
        answers.append(runtime.answer([{"role": "user", "content": problem.text}]))
        right += _problem(problem, answers[-1], console)
    if asked:
        console.print(
            f"Word problems: {right} of {len(asked)} right. Nobody told the model which was which task."
        )
    calibrated = any(a.confidence is not None and a.confidence.p_correct is not None for a in answers)
    speed = statistics.median(answer.timings["tokens_per_s"] for answer in answers)
    console.print(
        f"{CALIBRATED if calibrated else RAW}\nMedian speed: {speed:,.0f} tokens/s, evidence included.",
        soft_wrap=True,
    )


def _utterance(runtime: Runtime, said: Said, console: Console) -> Answer:
    """Answer one utterance and print it."""
    where = f"  [dim](in the {said.area})[/dim]" if said.area else ""
    console.print(f"  [cyan]said  [/cyan] {escape(said.text)}{where}", soft_wrap=True)
    answer = runtime.answer(messages(said))
    console.print(f"  [green]frame [/green] {escape(answer.text)}", soft_wrap=True)
    console.print(f"         [dim]{escape(status_line(answer))}[/dim]\n", soft_wrap=True)
    return answer


def _problem(problem: Asked, answer: Answer, console: Console) -> bool:
    """Print one solved problem; whether it is right."""
    right = parse_answer(answer.text) == parse_reference(problem.answer)
    verdict = "[green]right[/green]" if right else f"[red]wrong: it is {problem.answer}[/red]"
    console.print(f"  [cyan]asked [/cyan] {escape(problem.text)}", soft_wrap=True)
    worked = "  ".join(answer.text.splitlines())
    console.print(f"  [green]worked[/green] {escape(worked)}   {verdict}", soft_wrap=True)
    console.print(f"         [dim]{escape(status_line(answer))}[/dim]\n", soft_wrap=True)
    return right


def main() -> None:
    with Runtime.open("pocket") as runtime:
        show(runtime, UTTERANCES, PROBLEMS, Console(highlight=False))
    print(
        '\nNext: .venv/bin/edge-runtime run "…", .venv/bin/edge-runtime chat, .venv/bin/edge-runtime --help'
    )


if __name__ == "__main__":
    main()
