"""Answers of a package, kept in a file as they come: what was answered once is not computed again.

The file is JSON lines. The first says whose answers they are, each further one is an answer: messages, limit
of tokens, text, evidence, seconds. A run that is killed loses at most the one it was writing. Answers are
greedy, so they depend on what computes alone: card, licence and figures of a package have no part in them.
"""

from __future__ import annotations

import fcntl
import hashlib
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
from model_zoo import Manifest, open_package
from offload.types import Evidence

FORMAT = 1
COMPUTE = ("model.", "tokenizer.json", "chat_template.jinja")
"""Beginnings of the names of a package's files that an answer depends on."""


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


def identity_of(manifest: Manifest) -> str:
    """SHA-256 of all that an answer depends on: graph, weights, tokenizer, template, end tokens."""
    parts = {
        "files": {n: f.sha256 for n, f in manifest.files.items() if n.startswith(COMPUTE)},
        "engine": [manifest.engine, dict(manifest.engine_options)],
        "end": sorted(manifest.generation.eos_token_ids),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class AnswerBook:
    """The answers of one package. The model is loaded when the first answer is missing.

    Args:
        identity: of the weights; the file is begun anew when it holds answers of others.
        path: the file. One process writes it at a time.
        opened: loads the model.
        clock: seconds.

    Raises:
        BlockingIOError: another process writes the file; names it.
    """

    def __init__(
        self,
        identity: str,
        path: Path,
        opened: Callable[[], Model],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.path, self._open, self._clock = path, opened, clock
        self._model: Model | None = None
        self._stack = ExitStack()
        self._head = {"format": FORMAT, "identity": identity}
        self._held: dict[str, Answer] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._stack.enter_context(path.open("a", encoding="utf-8"))
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stack.close()
            raise BlockingIOError(f"{path} is being written by another run; wait for it to end") from error
        self._resume()

    @classmethod
    def of(cls, package: Path | str, folder: Path, threads: int = 1) -> AnswerBook:
        """The answers of a package by name or folder, computed with `threads`, in a file of their own."""
        from edge_runtime.model import LoadedModel

        found = open_package(package)
        identity = identity_of(found.manifest)
        path = folder / f"{found.manifest.id}-{identity[:12]}.jsonl"
        return cls(identity, path, lambda: LoadedModel.open(found, threads=threads))

    def _resume(self) -> None:
        """Read what is there; a line that was cut while it was written is cut off."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.decode("utf-8").split("\n")[:-1]
        if not lines or json.loads(lines[0]) != self._head:
            self._file.truncate(0)
            self._file.write(json.dumps(self._head) + "\n")
            self._file.flush()
            return
        self._file.truncate(len(whole))
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
