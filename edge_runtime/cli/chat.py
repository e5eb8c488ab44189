"""`edge-runtime chat`: a conversation with memory, in a terminal or over a pipe."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli import options
from edge_runtime.cli.output import echo_text, emit_json, json_option, print_table, status, stdout_is_terminal
from edge_runtime.cli.show import evidence_rows, refusal, status_line
from edge_runtime.errors import EdgeRuntimeError

if TYPE_CHECKING:
    from edge_runtime.runtime import AnswerStream
    from offload.types import Answer

__all__ = ["Conversation", "Interrupt", "command"]

PROMPT = "> "

HELP = {
    "/help": "this list",
    "/reset": "forget the conversation; the system message stays",
    "/system": "show the system message; with a text: set it and forget the conversation",
    "/save": "write the conversation as JSON into the named file",
    "/evidence": "how sure the model was of the tokens of its last answer",
    "/quit": "end (Ctrl-D does too)",
    "//": "two slashes at the start send a text that begins with one",
}


class Interrupt:
    """Ctrl-C while an answer is generated stops the answer; a second one ends the program.

    The first is only noted, and looked at between tokens: an exception in the middle of a step could leave
    the engine's state half written.
    """

    def __init__(self) -> None:
        self._noted = False

    def __call__(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._noted

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take Ctrl-C for the duration (in the main thread; elsewhere Python lets nobody set a handler)."""
        self._noted = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True


class Conversation:
    """The turns so far, and what the slash commands do to them.

    Args:
        ask: starts an answer to a list of messages; is given the function that says whether to stop.
        system: system message; `None` for none.
        as_json: print each answer as one line of JSON instead of its text.
        interrupt: notices Ctrl-C while an answer is generated.
    """

    def __init__(
        self,
        ask: Callable[[list[dict[str, str]], Callable[[], bool]], AnswerStream],
        *,
        system: str | None = None,
        as_json: bool = False,
        interrupt: Interrupt | None = None,
    ) -> None:
        self._ask, self._as_json, self._interrupt = ask, as_json, interrupt or Interrupt()
        self.system = system
        self.turns: list[dict[str, str]] = []
        self.last: Answer | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """System message and turns, as the chat template gets them."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def take(self, line: str) -> bool:
        """Act on one line of input. Returns whether the conversation goes on."""
        text = line.strip()
        if not text:
            return True
        if text.startswith("/") and not text.startswith("//"):
            return self._command(text)
        self.say(text[1:] if text.startswith("//") else text)
        return True

    def say(self, text: str) -> None:
        """Send a user message and print the answer as it arrives. An error takes the message back."""
        self.turns.append({"role": "user", "content": text})
        try:
            with self._interrupt.watching():
                stream = self._ask(self.messages, self._interrupt)
                for chunk in stream:
                    if chunk.text and not self._as_json:
                        echo_text(chunk.text)
                answer = stream.finish()
        except EdgeRuntimeError as error:
            self.turns.pop()
            click.echo(f"edge-runtime: error: {error}", err=True)
            return
        except BaseException:
            self.turns.pop()
            raise
        self.last = answer
        if answer.source == "refused":  # nothing was said: the conversation goes on without the question
            self.turns.pop()
        else:  # what was generated before an interruption was said, and stays said
            self.turns.append({"role": "assistant", "content": answer.text})
        if self._as_json:
            emit_json(answer.to_dict())
            return
        if answer.source == "refused":
            status(refusal(answer))
            return
        click.echo()
        if stdout_is_terminal():
            status(status_line(answer))

    def _command(self, text: str) -> bool:
        name, _, argument = text.partition(" ")
        argument = argument.strip()
        if name == "/quit":
            return False
        actions: Mapping[str, Callable[[str], None]] = {
            "/help": self._help,
            "/reset": self._reset,
            "/system": self._set_system,
            "/save": self._save,
            "/evidence": self._evidence,
        }
        if name in actions:
            actions[name](argument)
            return True
        near = get_close_matches(name, HELP, n=1)
        status(f"no command {name}." + (f" Did you mean {near[0]}?" if near else "") + " /help lists them.")
        return True

    def _help(self, _: str) -> None:
        print_table(("command", "what it does"), list(HELP.items()))

    def _reset(self, _: str) -> None:
        self.turns.clear()
        self.last = None
        status("forgotten")

    def _set_system(self, text: str) -> None:
        if not text:
            status(self.system or "no system message")
            return
        self.system = text
        self._reset("")

    def _save(self, name: str) -> None:
        if not name:
            status("name a file: /save FILE")
            return
        path = Path(name).expanduser()
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump({"messages": self.messages}, file, ensure_ascii=False, indent=2)
                file.write("\n")
        except FileExistsError:
            status(f"{path} is there already; name another file")
        except OSError as error:
            status(f"{path} cannot be written: {error.strerror}")
        else:
            status(f"saved {len(self.messages)} messages in {path}")

    def _evidence(self, _: str) -> None:
        if self.last is None:
            status("nothing was answered yet")
            return
        print_table(("evidence", "value"), evidence_rows(self.last))


@click.command("chat")
@options.model_options
@click.option("--system", metavar="TEXT", help="System message.")
@options.constraint_options
@options.sampling_options
@click.option(
    "--overflow",
    type=click.Choice(["error", "slide"]),
    default="slide",
    help="When the context is full: end with an error, or forget the oldest turns and go on.",
)
@json_option
def command(
    model: str,
    threads: int | None,
    system: str | None,
    schema: Path | None,
    regex: str | None,
    grammar: Path | None,
    overflow: str,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Talk with a model on this device; it remembers the conversation.

    Ctrl-C stops an answer, Ctrl-D or /quit ends the program, /help lists the other commands. Over a pipe
    every line is one message; --json answers each with one line of JSON.
    """
    constraint = options.grammar_of(schema, regex, grammar)
    params = options.sampling_of(sampling)
    with options.open_runtime(model, threads) as runtime:

        def ask(messages: list[dict[str, str]], cancelled: Callable[[], bool]) -> AnswerStream:
            return runtime.stream(
                messages, grammar=constraint, overflow=overflow, cancelled=cancelled, **params
            )

        conversation = Conversation(ask, system=system, as_json=as_json)
        for line in read_lines(f"{runtime.model.id}: type a message, /help for commands, Ctrl-D to end"):
            if not conversation.take(line):
                break


def read_lines(greeting: str) -> Iterator[str]:
    """Lines from a person (with editing and recall, nothing kept on disk) or from a pipe."""
    if not (sys.stdin.isatty() and stdout_is_terminal()):
        yield from sys.stdin
        return
    with suppress(ImportError):  # not on every build of Python; input() then has no arrow keys
        import readline  # noqa: F401 - importing it gives input() its line editing
    status(greeting)
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            status("Ctrl-D or /quit ends; /help lists the commands")
