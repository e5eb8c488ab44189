"""`edge-runtime bench`: the figures are what their definitions say."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.cli.bench import machine, measure, steps_of
from edge_runtime.engines.base import EngineInfo, Scores

PREFILL_S_PER_TOKEN = 0.001
DECODE_S = 0.01


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeSequence:
    """Takes a known time per token and always prefers token 1."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.tokens: list[int] = []
        self.closed = False

    @property
    def length(self) -> int:
        return len(self.tokens)

    def forward(self, tokens: Sequence[int], *, num_logits: int = 1, want_logits: bool = False) -> Scores:
        self._clock.now += DECODE_S if len(tokens) == 1 else PREFILL_S_PER_TOKEN * len(tokens)
        self.tokens += tokens
        ids = np.tile(np.array([1, 0], np.int64), (num_logits, 1))
        row = np.zeros(num_logits, np.float32)
        return Scores(ids, np.tile(np.array([2, 1], np.float32), (num_logits, 1)), row + 3, row + 0.5)

    def rewind(self, length: int) -> None:
        del self.tokens[length:]

    def close(self) -> None:
        self.closed = True


class FakeEngine:
    def __init__(self, context_length: int) -> None:
        self.clock = FakeClock()
        self.info = EngineInfo("fake", "fake", 50, context_length, 2, 1)
        self.made: list[FakeSequence] = []

    def new_sequence(self) -> FakeSequence:
        self.made.append(FakeSequence(self.clock))
        return self.made[-1]


def test_speeds_are_tokens_over_the_time_they_took() -> None:
    engine = FakeEngine(2048)
    speed = measure(engine, runs=3, tokens=16, clock=engine.clock)  # type: ignore[arg-type]
    assert speed.decode == pytest.approx(1 / DECODE_S, rel=0.01)
    assert len(speed.decode_runs) == 3, "the warm-up is not counted"
    assert speed.decode_tokens == 16
    assert set(speed.prefill) == {256, 1024}
    assert speed.prefill[1024] == pytest.approx(1 / PREFILL_S_PER_TOKEN, rel=0.01)
    assert speed.ttft_s[256] == pytest.approx(256 * PREFILL_S_PER_TOKEN, rel=0.01)
    assert all(sequence.closed for sequence in engine.made)


def test_a_short_context_bounds_what_is_measured() -> None:
    engine = FakeEngine(64)
    speed = measure(engine, runs=1, tokens=100, clock=engine.clock)  # type: ignore[arg-type]
    assert set(speed.prefill) == {63}
    assert speed.decode_tokens == 31
    assert all(len(sequence.tokens) <= 64 for sequence in engine.made)


@pytest.mark.parametrize("context_length", [64, 512, 4096])
def test_progress_counts_every_run(context_length: int) -> None:
    engine, steps = FakeEngine(context_length), list[str]()
    measure(engine, runs=2, tokens=4, clock=engine.clock, step=steps.append)  # type: ignore[arg-type]
    assert len(steps) == steps_of(context_length, 2)


def test_the_machine_is_named_by_its_board_and_processor(tmp_path: Path) -> None:
    (tmp_path / "device-tree").mkdir()
    (tmp_path / "device-tree" / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some Core 7\n")
    found = machine(tmp_path)
    assert (found["board"], found["processor"]) == ("Raspberry Pi 5 Model B Rev 1.0", "Some Core 7")
    assert machine(tmp_path / "nowhere")["board"] is None
