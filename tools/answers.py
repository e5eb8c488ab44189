"""Answers of a package, kept in a file as they come: what was answered once is not computed again.

The file is JSON lines. The first says whose answers they are (the manifest's SHA-256), each further one is
an answer: messages, limit of tokens, text, evidence, seconds. A run that is killed loses at most the one that
it was writing. Answers are greedy, so they depend on nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from edge_runtime.evaluation.marked import Asker, Messages
from edge_runtime.sampling import SamplingParams
from model_zoo import open_package
from offload.types import Evidence

FORMAT = 1


class Model(Protocol):
    """What is needed of `edge_runtime.model.LoadedModel`."""

    def prompt(self, messages: Messages) -> list[int]: ...

    def generate(self, prompt: list[int], params: SamplingParams) -> Any: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Answer:
    """One answer; `seconds` is from the messages to the last token."""

    text: str
    evidence: Evidence
    seconds: float


class AnswerBook:
    """The answers of one package. The model is loaded when the first answer is missing.

    Args:
        sha256: of the package's manifest; the file is begun anew when it holds answers of another.
        path: the file.
        opened: loads the model.
        clock: seconds.
    """

    def __init__(
        self,
        sha256: str,
        path: Path,
        opened: Callable[[], Model],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.path, self._open, self._clock = path, opened, clock
        self._model: Model | None = None
        self._stack = ExitStack()
        self._head = {"format": FORMAT, "manifest_sha256": sha256}
        self._held: dict[str, Answer] = {}
        self._resume()
        self._file = self._stack.enter_context(path.open("a", encoding="utf-8"))

    @classmethod
    def of(cls, package: Path | str, path: Path, threads: int = 1) -> AnswerBook:
        """The answers of a package by name or folder, computed with `threads`."""
        from edge_runtime.model import LoadedModel

        found = open_package(package)
        return cls(found.manifest_sha256, path, lambda: LoadedModel.open(found, threads=threads))

    def _resume(self) -> None:
        """Read what is there; a line that was cut while it was written is cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.decode("utf-8").split("\n")[:-1]
        if not lines or json.loads(lines[0]) != self._head:
            self.path.write_text(json.dumps(self._head) + "\n", encoding="utf-8")
            return
        if len(whole) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for line in lines[1:]:
            row = json.loads(line)
            self._held[_key(row["messages"], row["max_tokens"])] = Answer(
                row["text"], Evidence.from_dict(row["evidence"]), row["seconds"]
            )

    def __len__(self) -> int:
        return len(self._held)

    def ask(self, messages: Messages, max_tokens: int) -> Answer:
        """The answer to a conversation, from the file or from the model."""
        key = _key(messages, max_tokens)
        found = self._held.get(key)
        if found is not None:
            return found
        if self._model is None:
            self._model = self._open()
            self._stack.callback(self._model.close)
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        began = self._clock()
        done = self._model.generate(self._model.prompt(messages), params)
        found = Answer(done.text, done.evidence, self._clock() - began)
        row = {
            "messages": messages,
            "max_tokens": max_tokens,
            "text": found.text,
            "evidence": found.evidence.to_dict(),
            "seconds": round(found.seconds, 6),
        }
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()
        self._held[key] = found
        return found

    def asker(self, max_tokens: int) -> Asker:
        """For `edge_runtime.evaluation.ask`."""

        def answer(messages: Messages) -> tuple[str, Evidence]:
            found = self.ask(messages, max_tokens)
            return found.text, found.evidence

        return answer

    def __enter__(self) -> AnswerBook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _key(messages: Messages, max_tokens: int) -> str:
    return json.dumps([messages, max_tokens], ensure_ascii=False)
