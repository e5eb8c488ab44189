"""The engines side by side: what runs them, and one block of any of them."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench import protocol
from tools.bench.machine import busy_cpu
from tools.bench.prepare import ROOT, Variant, Workspace
from tools.bench.protocol import Worker, process_cpu
from tools.bench.stats import Block

__all__ = ["Bench", "CLoop", "Spec", "specs"]

WARM_STEPS = 3


@dataclass(frozen=True, slots=True)
class Spec:
    """One engine: its row name, the adapter and its options, and the interpreter that runs it.

    `group` is `ours` or the peer's name; `evidence` says whether a token's evidence is part of the figures.
    """

    name: str
    group: str
    adapter: str
    options: dict[str, Any]
    python: Path
    evidence: bool
    weight_bytes: int | None = None


def specs(
    workspace: Workspace,
    shape: str,
    threads: int,
    *,
    variants: Sequence[Variant],
    peers: Sequence[str],
    longest: int,
    llama_bench: Path | None,
    weight_bytes: Callable[[Path], int],
) -> list[Spec]:
    """The engines to compare.

    `longest` is the most tokens a sequence will hold; `peers` of genai, llama, transformers.
    """
    here = Path(sys.executable)
    out = []
    for what in variants:
        package = workspace.package(shape, what)
        options = {"package": str(package), "threads": threads}
        out.append(
            Spec(f"edge-runtime {what.title}", "ours", "ours", options, here, True, weight_bytes(package))
        )
    other = workspace.peer_python or here
    if "genai" in peers:
        folder = workspace.genai(shape)
        for evidence in (False, True):
            options = {"folder": str(folder), "threads": threads, "evidence": evidence, "max_length": longest}
            name = f"onnxruntime-genai int4{' + evidence' if evidence else ''}"
            out.append(Spec(name, "onnxruntime-genai", "genai", options, other, evidence))
    for kind in ("Q4_0", "Q4_K_M"):
        if "llama" in peers:
            model = workspace.gguf(shape, kind)
            size = workspace.gguf_facts(shape)[kind]["bytes_per_token"]
            for evidence in (False, True):
                options = {"model": str(model), "threads": threads, "evidence": evidence, "context": longest}
                name = f"llama-cpp-python {kind}{' + evidence' if evidence else ''}"
                out.append(Spec(name, f"llama-cpp-python {kind}", "llama", options, other, evidence, size))
            if llama_bench is not None:
                options = {"program": str(llama_bench), "model": str(model), "threads": threads}
                name = f"llama-bench {kind}"
                out.append(Spec(name, name, "llama-bench", options, other, False, size))
    if "transformers" in peers:
        options = {"checkpoint": str(workspace.checkpoint(shape)), "threads": threads}
        out.append(Spec("transformers fp32", "transformers fp32", "transformers", options, other, False))
    return out


class CLoop:
    """llama.cpp's own loop, without Python: one process per figure, each warmed up by the program itself."""

    def __init__(self, options: dict[str, Any], log: Path) -> None:
        self._options = options
        self._log = log

    def block(self, prompt: int, decode: int) -> tuple[float, list[float], float]:
        """(prefill seconds, seconds per step (mean, repeated), CPU seconds of the processes).

        The steps are measured behind a context of `prompt` tokens, as for every other engine.
        """
        before = _children_cpu()
        prefill = self._run("-p", str(prompt), "-n", "0")
        steps = self._run("-p", "0", "-n", str(decode), "-d", str(prompt))
        return prefill, [steps / decode] * decode, _children_cpu() - before

    def peak_memory(self, prompt: int, decode: int) -> dict[str, int]:
        """Peak resident bytes of one process that reads a prompt and decodes."""
        command = self._command("-p", str(prompt), "-n", str(decode))
        peak = 0
        with self._log.open("ab") as sink:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sink)
            # What wait4 tells would include what this process held when it forked, so the high-water mark is
            # read while the program runs.
            while process.poll() is None:
                peak = max(peak, protocol.memory(process.pid).get("peak", 0))
                time.sleep(0.01)
        if process.returncode != 0:
            state = process.returncode
            raise RuntimeError(f"{' '.join(command)} failed with status {state}; see {self._log}")
        return {"peak": peak} if peak else {}

    def _command(self, *arguments: str) -> list[str]:
        o = self._options
        return [o["program"], "-m", o["model"], "-t", str(o["threads"]), "-r", "1", "-o", "json", *arguments]

    def _run(self, *arguments: str) -> float:
        command = self._command(*arguments)
        with self._log.open("ab") as sink:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=sink, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed with status {done.returncode}; see {self._log}")
        (result,) = json.loads(done.stdout)
        return float(result["samples_ns"][0]) / 1e9


@dataclass(slots=True)
class Bench:
    """Runs blocks of named engines; workers stay loaded and are stopped between their blocks."""

    specs: Sequence[Spec]
    decode: int
    vocab: int
    logs: Path
    seed: int = 0
    nice: int = 0
    workers: dict[str, Worker | CLoop] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)

    def open(self) -> None:
        """Start and load every engine, one after the other."""
        for spec in self.specs:
            self.workers[spec.name], self.facts[spec.name] = self._start(spec)

    def close(self) -> None:
        """End every process."""
        for worker in self.workers.values():
            if isinstance(worker, Worker):
                worker.close()
        self.workers.clear()

    def prompt(self, length: int, round_number: int) -> list[int]:
        """Token ids of a prompt: the same for every engine, another in every round."""
        rng = np.random.default_rng([self.seed, length, round_number])
        return [int(i) for i in rng.integers(3, self.vocab, length)]

    def block(self, name: str, round_number: int, prompt: int) -> Block:
        """One block of one engine, with the CPU time that others used meanwhile."""
        worker = self.workers[name]
        start, busy, own = time.perf_counter(), busy_cpu(), self._own_cpu(worker)
        if isinstance(worker, CLoop):
            prefill, steps, used = worker.block(prompt, self.decode)
        else:
            ids = self.prompt(prompt, round_number)
            answer = worker.ask("block", prompt=ids, decode=self.decode, warm=WARM_STEPS)
            prefill, steps = answer["prefill_s"], answer["decode_s"]
            used = self._own_cpu(worker) - own
        wall, after = time.perf_counter() - start, busy_cpu()
        others = None if busy is None or after is None else max(0.0, after - busy - used) / wall
        return Block(name, round_number, prompt, prefill, tuple(steps), others)

    def memory(self, spec: Spec, prompt: int) -> dict[str, Any]:
        """Load time and memory in a fresh process that reads one prompt and decodes. Bytes and seconds."""
        if spec.adapter == "llama-bench":
            return CLoop(spec.options, self.logs / "llama-bench.log").peak_memory(prompt, self.decode)
        worker, facts = self._start(spec)
        assert isinstance(worker, Worker)
        with worker:
            worker.ask("block", prompt=self.prompt(prompt, 0), decode=self.decode)
            return {"load_s": facts["load_s"], **worker.ask("memory")}

    def _start(self, spec: Spec) -> tuple[Worker | CLoop, dict[str, Any]]:
        if spec.adapter == "llama-bench":
            return CLoop(spec.options, self.logs / "llama-bench.log"), {}
        log = self.logs / f"{spec.name.replace(' ', '-').replace(',', '')}.log"
        command = [str(spec.python), "-m", "tools.bench.adapters"]
        if self.nice:
            command = ["nice", "-n", str(self.nice), *command]
        environment = {"PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
        worker = Worker(spec.name, command, log=log, environment=environment)
        try:
            return worker, worker.ask("load", adapter=spec.adapter, options=spec.options)
        except BaseException:
            worker.close()
            raise

    @staticmethod
    def _own_cpu(worker: Worker | CLoop) -> float:
        """CPU seconds of the driver and of the worker."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        own = usage.ru_utime + usage.ru_stime
        return own + (process_cpu(worker.pid) or 0.0 if isinstance(worker, Worker) else 0.0)


def _children_cpu() -> float:
    """User and system seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
