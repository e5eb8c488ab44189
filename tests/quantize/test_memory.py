"""The promise that a small device can quantize its own model: memory grows with the slice, not with the
model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.make_checkpoint import PRESETS, make_checkpoint

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(
    not STATUS.exists(), reason="peak memory is read from /proc, which is Linux's"
)

MEASURED = """
import json, sys
from pathlib import Path
from quantize import Scheme, quantize_checkpoint

quantize_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), scheme=Scheme.named(sys.argv[3]))
# Not getrusage: its peak includes that of the process this one was forked from.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"peak": int(peak.split()[1]) * 1024}))
"""

SHAPE = {
    **PRESETS["tiny"],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
}
MIB = 1 << 20


def peak(source: Path, out: Path, scheme: str, repository: Path) -> int:
    """Peak resident bytes of a fresh process that quantizes `source`."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, source, out, scheme],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(json.loads(run.stdout)["peak"])


@pytest.mark.parametrize("scheme", ["int4", "fp32"])
def test_peak_memory_does_not_grow_with_the_number_of_layers(
    tmp_path: Path, repository: Path, scheme: str
) -> None:
    peaks = []
    for layers in (2, 8):
        source = make_checkpoint(tmp_path / f"hf{layers}", {**SHAPE, "num_hidden_layers": layers})
        peaks.append(peak(source, tmp_path / f"out{layers}", scheme, repository))
    added = 6 * (2 * 768 * 768 + 2 * 256 * 768 + 3 * 3072 * 768) * 4
    assert added > 190 * MIB  # float32 bytes of the six layers
    assert peaks[1] - peaks[0] < 10 * MIB
    assert max(peaks) < 150 * MIB


@pytest.mark.heavy
def test_a_half_billion_parameters_take_less_than_250_mib(tmp_path: Path, repository: Path) -> None:
    source = make_checkpoint(tmp_path / "hf", PRESETS["qwen2.5-0.5b"])
    assert peak(source, tmp_path / "out", "int4", repository) < 250 * MIB
