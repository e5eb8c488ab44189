"""`edge-runtime chat`: history, commands, and Ctrl-C that stops an answer and not the program."""

import json
import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.cli.chat import HELP, Conversation, Interrupt
from edge_runtime.errors import ContextOverflowError
from offload.types import Answer, Decision, Evidence, Token

FAKE_PROGRAM = '''
import sys, time
from edge_runtime.cli import cli, options
from offload.types import Answer, Decision, Evidence
from types import SimpleNamespace

class Stream:
    """Counts for ever, until it is told to stop."""
    def __init__(self, cancelled):
        self.cancelled, self.reason = cancelled, "stop"
    def __iter__(self):
        for number in range(10**6):
            if self.cancelled():
                self.reason = "cancelled"
                return
            yield SimpleNamespace(text=f"n{number} ", tokens=())
            time.sleep(0.005)
    def finish(self):
        evidence = Evidence(n=2, n_scored=0, finish_reason=self.reason)
        return Answer("a", "n0 n1", "device", "fake", evidence=evidence)

class Runtime:
    model = SimpleNamespace(id="fake")
    def stream(self, messages, *, cancelled, **params):
        return Stream(cancelled)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass

options.open_runtime = lambda model, threads: Runtime()
cli.main(["chat"], prog_name="edge-runtime")
'''


class FakeStream:
    def __init__(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[object]:
        yield type("Chunk", (), {"text": self.text, "tokens": ()})()

    def finish(self) -> Answer:
        token = Token(1, self.text, logprob=-0.5, entropy=0.1, margin=0.2)
        return Answer("a", self.text, "device", "fake", evidence=Evidence.fold([token], "stop"))


class FakeModel:
    """Answers with the number of messages it was given."""

    def __init__(self) -> None:
        self.seen: list[list[dict[str, str]]] = []

    def __call__(self, messages: list[dict[str, str]], cancelled: Callable[[], bool]) -> FakeStream:
        self.seen.append(list(messages))
        if messages[-1]["content"] == "too long":
            raise ContextOverflowError("too long for the context")
        return FakeStream(f"answer {len(messages)}")


def test_the_conversation_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    model = FakeModel()
    chat = Conversation(model, system="Be brief.")
    assert chat.take("one")
    assert chat.take("two")
    assert [m["content"] for m in model.seen[1]] == ["Be brief.", "one", "answer 2", "two"]
    assert capsys.readouterr().out == "answer 2\nanswer 4\n"


def test_a_refused_answer_leaves_the_conversation_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    model = FakeModel()

    def ask(messages: list[dict[str, str]], cancelled: Callable[[], bool]) -> FakeStream:
        stream = model(messages, cancelled)
        decision = Decision("refuse", "guarantee", "too unsure")
        stream.finish = lambda: Answer("a", "", "refused", "fake", decision=decision)  # type: ignore[method-assign]
        stream.text = ""
        return stream

    chat = Conversation(ask)
    assert chat.take("one")
    assert chat.messages == []
    assert "refused: too unsure" in capsys.readouterr().err


def test_reset_forgets_all_but_the_system_message() -> None:
    model = FakeModel()
    chat = Conversation(model, system="Be brief.")
    chat.take("one")
    chat.take("/reset")
    chat.take("two")
    assert [m["content"] for m in model.seen[1]] == ["Be brief.", "two"]


def test_system_sets_the_message_and_starts_anew(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Conversation(FakeModel())
    chat.take("/system")
    assert "no system message" in capsys.readouterr().err
    chat.take("one")
    chat.take("/system Speak Latin.")
    assert chat.messages == [{"role": "system", "content": "Speak Latin."}]


def test_save_writes_the_conversation_and_never_over_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Conversation(FakeModel())
    chat.take("one")
    file = tmp_path / "talk.json"
    chat.take(f"/save {file}")
    assert json.loads(file.read_text())["messages"] == chat.messages
    chat.take(f"/save {file}")
    chat.take("/save")
    chat.take(f"/save {tmp_path}/no/such/folder")
    said = capsys.readouterr().err
    assert "is there already; name another file" in said
    assert "name a file: /save FILE" in said
    assert "cannot be written: No such file or directory" in said


def test_evidence_shows_the_figures_of_the_last_answer(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Conversation(FakeModel())
    chat.take("/evidence")
    assert "nothing was answered yet" in capsys.readouterr().err
    chat.take("one")
    chat.take("/evidence")
    assert re.search(r"mean log-probability +-0\.500 nats", capsys.readouterr().out)


def test_help_lists_every_command_and_a_mistyped_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    model = FakeModel()
    chat = Conversation(model)
    chat.take("/help")
    shown = capsys.readouterr().out
    assert all(name in shown for name in HELP)
    chat.take("/rest")
    assert "no command /rest. Did you mean /reset?" in capsys.readouterr().err
    assert not model.seen


def test_two_slashes_send_a_text_that_begins_with_one() -> None:
    model = FakeModel()
    Conversation(model).take("//etc is a folder")
    assert model.seen[0][-1]["content"] == "/etc is a folder"


def test_quit_ends_and_an_empty_line_does_nothing() -> None:
    model = FakeModel()
    chat = Conversation(model)
    assert chat.take("  \n")
    assert not chat.take("/quit")
    assert not model.seen


def test_an_error_is_told_takes_the_message_back_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Conversation(FakeModel())
    assert chat.take("too long")
    assert chat.turns == []
    assert "edge-runtime: error: too long for the context" in capsys.readouterr().err


def test_with_json_every_answer_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Conversation(FakeModel(), as_json=True)
    chat.take("one")
    chat.take("two")
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == [
        "answer 1",
        "answer 3",
    ]


def test_the_first_interrupt_is_noted_and_the_second_one_is_real() -> None:
    interrupt = Interrupt()
    before = signal.getsignal(signal.SIGINT)
    with interrupt.watching():
        signal.raise_signal(signal.SIGINT)
        assert interrupt()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with interrupt.watching():
        assert not interrupt(), "a new answer starts without the old interrupt"


class Terminal:
    """A program in a pseudo-terminal: what a person at a keyboard sees and types."""

    def __init__(self, code: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "dumb"
            # A test run that was started in the background ignores Ctrl-C, and children inherit that.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execv(sys.executable, [sys.executable, "-c", code])
        self.seen = ""
        self._ended: int | None = None

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended is None:
            os.kill(self.pid, signal.SIGKILL)
            self.exit_code()
        os.close(self.fd)

    def wait_for(self, wanted: str, timeout_s: float = 60) -> None:
        """Read until `wanted` has been shown; what stands before it is forgotten."""
        end = time.monotonic() + timeout_s
        while wanted not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"not shown within {timeout_s} s: {wanted!r}; shown: {self.seen!r}"
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.partition(wanted)[2]

    def interrupt_until(self, wanted: str) -> None:
        """Press Ctrl-C until `wanted` is shown.

        In the instant between the prompt's display and the wait for keys, Python notices an interrupt
        only with the next key: no person is that fast, but a test is.
        """
        for _ in range(60):
            self.type("\x03")
            try:
                self.wait_for(wanted, timeout_s=1)
            except AssertionError:
                continue
            return
        raise AssertionError(f"60 times Ctrl-C did not show {wanted!r}; shown: {self.seen!r}")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def exit_code(self) -> int:
        self._ended = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._ended


@pytest.mark.filterwarnings("ignore:.*forkpty.*:DeprecationWarning")
def test_ctrl_c_stops_an_answer_and_not_the_program_and_ctrl_d_ends_it(repository: Path) -> None:
    with Terminal(f"import sys; sys.path.insert(0, {str(repository)!r})\n{FAKE_PROGRAM}") as terminal:
        terminal.wait_for("fake: type a message, /help for commands, Ctrl-D to end")
        terminal.wait_for("> ")
        terminal.type("count\n")
        terminal.wait_for("n3 ")
        terminal.type("\x03")
        terminal.wait_for("cancelled")
        terminal.wait_for("> ")
        terminal.interrupt_until("Ctrl-D or /quit ends")
        terminal.wait_for("> ")
        terminal.type("again\n")
        terminal.wait_for("n3 ")
        terminal.type("\x03")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.exit_code() == 0
