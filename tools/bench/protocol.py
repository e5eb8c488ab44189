"""Engines in processes of their own: JSON lines over stdin and a private descriptor.

Standard output of a worker belongs to the libraries in it, which print to it; answers therefore go through
a pipe whose descriptor number is the worker's first argument. A worker is stopped (SIGSTOP) whenever it has
nothing to do: inference libraries keep threads spinning for a while after a step, and these would run into
the next engine's measurement.

Request: `{"op": NAME, …}`. Answer: `{"ok": true, …}` or `{"ok": false, "error": TEXT}`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

__all__ = ["Adapter", "Worker", "WorkerError", "memory", "process_cpu", "serve"]


class WorkerError(RuntimeError):
    """A worker failed; the message names it and carries its own words."""


class Adapter(Protocol):
    """What an engine does in a benchmark. Loading is the constructor's work."""

    def prefill(self, tokens: Sequence[int]) -> int:
        """Start afresh with this prompt and return the most likely next token, evidence computed when asked
        for.
        """
        ...

    def step(self, token: int) -> int:
        """Append one token and return the most likely next one."""
        ...

    def info(self) -> dict[str, Any]:
        """Versions and settings worth printing beside the figures."""
        ...


# --- inside a worker -----------------------------------------------------------------------------------


def memory(pid: int | str = "self") -> dict[str, int]:
    """Resident memory of a process in bytes: `peak`, `anon`, `file` (Linux; empty elsewhere). See proc(5)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {"peak": "VmHWM", "anon": "RssAnon", "file": "RssFile"}
    return {key: int(fields[name].split()[0]) * 1024 for key, name in names.items() if name in fields}


def run_block(adapter: Adapter, prompt: Sequence[int], decode: int, warm: int) -> dict[str, Any]:
    """One prefill, `warm` uncounted steps, `decode` counted ones. Times in seconds."""
    clock = time.perf_counter
    start = clock()
    token = adapter.prefill(prompt)
    prefill_s = clock() - start
    picked = [token]
    for _ in range(warm):
        token = adapter.step(token)
        picked.append(token)
    times = []
    for _ in range(decode):
        start = clock()
        token = adapter.step(token)
        times.append(clock() - start)
        picked.append(token)
    return {"prefill_s": prefill_s, "decode_s": times, "tokens": picked}


def serve(adapters: Mapping[str, Any], requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until `quit` or the end of input.

    `adapters` maps a name to a callable(options) → Adapter.
    """
    adapter: Adapter | None = None

    def load(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal adapter
        before = memory()
        start = time.perf_counter()
        adapter = adapters[request["adapter"]](request["options"])
        return {"load_s": time.perf_counter() - start, "before": before, "info": adapter.info()}

    def block(request: dict[str, Any]) -> dict[str, Any]:
        if adapter is None:
            raise WorkerError("a block was asked for before load")
        return run_block(adapter, request["prompt"], request["decode"], request.get("warm", 0))

    operations = {"load": load, "block": block, "memory": lambda _: memory()}
    for line in requests:
        request = json.loads(line)
        if request["op"] == "quit":
            break
        try:
            answer = {"ok": True, **operations[request["op"]](request)}
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is reported to the driver, which decides
            traceback.print_exc()
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


# --- in the driver -------------------------------------------------------------------------------------


def process_cpu(pid: int) -> float | None:
    """User and system seconds of a process with all its threads (Linux), or `None`."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Worker:
    """One worker process, stopped whenever it is not asked anything. Use as a context manager."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ):
        self.name = name
        self.log = log
        read, write = os.pipe()
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [*command, str(write)],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                pass_fds=(write,),
                text=True,
                env={**os.environ, **(environment or {})},
            )
        os.close(write)
        self._answers = os.fdopen(read, encoding="utf-8")

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Wake the worker, send one request, stop it again and return its answer.

        Raises:
            WorkerError: the worker ended or answered with an error; names the log file.
        """
        assert self._process.stdin is not None
        self._signal("SIGCONT")
        try:
            self._process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(
                f"{self.name}: the worker ended with status {self._process.wait()} at {op!r}; see {self.log}"
            )
        self._signal("SIGSTOP")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise WorkerError(f"{self.name}: {answer['error']} (at {op!r}); see {self.log}")
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()  # also ends a stopped process
        self._process.wait()
        self._answers.close()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                print(f"{self.name}: a request was still unsent when the worker ended", file=sys.stderr)

    def _signal(self, name: str) -> None:
        if hasattr(signal, name) and self._process.poll() is None:
            os.kill(self._process.pid, getattr(signal, name))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
