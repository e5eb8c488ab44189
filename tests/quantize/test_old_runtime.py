"""Packages run on onnxruntime 1.23.2 too, the newest release for Python 3.10 (JetPack 6)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_graph import CASES, LLAMA, TOKENS, build, expected, feeds, relative

from quantize import Scheme

pytestmark = pytest.mark.heavy

RELEASE = "1.23.2"
HOME = os.environ.get("HOME", "")
"""The user's own, where settings of the package index may lie; the tests' HOME is empty."""

RUN = """
import json, sys
from pathlib import Path
import numpy as np
from edge_runtime import ort
from graph_runner import GraphRunner

assert ort.load().__version__ == sys.argv[4]
tokens, total = json.loads(sys.argv[2]), json.loads(sys.argv[3])
runner = GraphRunner(Path(sys.argv[1]), capacity=64)
more = {} if total is None else {"rope_length": np.array(total, np.int64)}
chunks = [(0, 13), (13, 30), *((i, i + 1) for i in range(30, len(tokens)))]
parts = [runner.feed(tokens[a:b], **more) for a, b in chunks]
names = ("logits", "topk_ids", "lse", "entropy")
found = {name: np.concatenate([part[name] for part in parts]) for name in names}
np.savez(Path(sys.argv[1]) / "out.npz", **found)
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with that release and nothing else of ours."""
    folder = tmp_path_factory.mktemp("old")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = subprocess.run(
        [python, "-m", "pip", "install", "-q", f"onnxruntime=={RELEASE}", "numpy"],
        env={**os.environ, "HOME": HOME},
        capture_output=True,
        text=True,
        check=False,
    )
    if install.returncode:
        pytest.skip(f"onnxruntime {RELEASE} cannot be installed here: {install.stderr.strip()[-200:]}")
    return python


def run_old(python: Path, package: Path, repository: Path, total: int | None) -> dict[str, np.ndarray]:
    """Outputs of that release for `TOKENS`: two chunks, then one token at a time."""
    path = os.pathsep.join([str(repository), str(repository / "tests" / "quantize")])
    arguments = [package, json.dumps(TOKENS), json.dumps(total), RELEASE]
    done = subprocess.run(
        [python, "-c", RUN, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(package / "out.npz") as found:
        return dict(found)


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_runs_on_the_old_release(
    tmp_path: Path, repository: Path, old_python: Path, case: str
) -> None:
    source, package = build(tmp_path, CASES[case], Scheme.named("fp32"))
    total = int(feeds(case, len(TOKENS))["rope_length"]) if feeds(case, 0) else None
    found = run_old(old_python, package, repository, total)
    wanted = expected(source, TOKENS)
    np.testing.assert_allclose(found["logits"], wanted, atol=1e-4)
    np.testing.assert_array_equal(found["topk_ids"][:, 0], found["logits"].argmax(-1))


@pytest.mark.parametrize("head_bits", [4, 8])
@pytest.mark.parametrize("name", ["int4", "int8"])
def test_integers_run_on_the_old_release(
    tmp_path: Path, repository: Path, old_python: Path, name: str, head_bits: int
) -> None:
    for level, bound in ((1, 1e-4), (4, 0.04)):
        scheme = Scheme.named(
            name, block_size=32, head_bits=head_bits, head_block_size=32, accuracy_level=level
        )
        source, package = build(tmp_path / str(level), LLAMA, scheme)
        found = run_old(old_python, package, repository, None)
        assert relative(found["logits"], expected(source, TOKENS, scheme)) < bound
