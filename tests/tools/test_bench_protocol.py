"""Workers: requests, answers, errors, and that an idle worker is stopped."""

import io
import json
import os
import sys
import time
from pathlib import Path

import pytest

from tools.bench.protocol import Worker, WorkerError, process_cpu, serve

FAKE = '''
import os, sys
from tools.bench.protocol import serve

class Counting:
    """Prefill gives the prompt's length, a step one more than its token."""
    def __init__(self, options):
        print("noise on standard output")
        if options.get("broken"):
            raise RuntimeError("no such model")
        self.options = options
    def prefill(self, tokens):
        return len(tokens)
    def step(self, token):
        if self.options.get("dies"):
            os._exit(7)
        return token + 1
    def info(self):
        return {"version": "1"}

with os.fdopen(int(sys.argv[1]), "w") as answers:
    serve({"counting": Counting}, sys.stdin, answers)
'''

needs_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


@pytest.fixture
def start(tmp_path, repository):
    workers = []

    def begin(**options):
        script = tmp_path / "fake.py"
        script.write_text(FAKE)
        worker = Worker(
            "fake",
            [sys.executable, str(script)],
            log=tmp_path / "fake.log",
            environment={"PYTHONPATH": str(repository)},
        )
        workers.append(worker)
        return worker, lambda: worker.ask("load", adapter="counting", options=options)

    yield begin
    for worker in workers:
        worker.close()


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_block_is_one_prefill_warm_steps_and_counted_steps(start):
    worker, load = start()
    assert load()["info"] == {"version": "1"}
    answer = worker.ask("block", prompt=[5, 6, 7], decode=4, warm=2)
    assert answer["tokens"] == [3, 4, 5, 6, 7, 8, 9]
    assert len(answer["decode_s"]) == 4
    assert answer["prefill_s"] >= 0


@needs_linux
def test_an_idle_worker_is_stopped_and_wakes_for_the_next_request(start):
    worker, load = start()
    load()
    deadline = time.monotonic() + 20
    while state(worker.pid) != "T" and time.monotonic() < deadline:
        os.sched_yield()
    assert state(worker.pid) == "T"
    assert worker.ask("block", prompt=[1], decode=1)["tokens"] == [1, 2]


@needs_linux
def test_memory_and_cpu_of_a_worker_can_be_read(start):
    worker, load = start()
    load()
    memory = worker.ask("memory")
    assert memory["peak"] >= memory["anon"] > 0
    assert process_cpu(worker.pid) >= 0
    assert process_cpu(2**22 + 1) is None


def test_what_an_engine_raises_is_told_with_its_name_and_the_log(start, tmp_path):
    _, load = start(broken=True)
    with pytest.raises(
        WorkerError, match=r"fake: RuntimeError: no such model \(at 'load'\); see .*fake\.log"
    ):
        load()
    assert "no such model" in (tmp_path / "fake.log").read_text()


def test_a_worker_that_dies_is_told_with_its_status(start):
    worker, load = start(dies=True)
    load()
    with pytest.raises(WorkerError, match="fake: the worker ended with status 7 at 'block'"):
        worker.ask("block", prompt=[1], decode=1)


def test_a_block_before_load_is_an_error():
    answers = io.StringIO()
    serve({}, io.StringIO('{"op": "block"}\n{"op": "quit"}\n'), answers)
    (line,) = answers.getvalue().splitlines()
    assert json.loads(line) == {"ok": False, "error": "WorkerError: a block was asked for before load"}
