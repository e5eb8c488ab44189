"""Nothing is written home and nothing is told to anybody: onnxruntime's upload of usage data stays off."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime import ort
from edge_runtime.errors import EngineError, RuntimeVersionError


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def environment(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing: no XDG folders, no telemetry switch."""
    kept = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ
    }
    return {**kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def test_an_answer_leaves_home_empty(home: Path, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "run", "--json", "turn off the lights in the kitchen"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=repository,
        env=environment(home),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"] == "device"
    assert files_below(home) == []


def test_an_answer_needs_no_network(home: Path, repository: Path) -> None:
    isolated = ["unshare", "--map-root-user", "--net"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*isolated, "true"], capture_output=True).returncode != 0
    ):
        pytest.skip("this user may not make a network namespace (unshare --net)")
    done = subprocess.run(
        [*isolated, sys.executable, "-m", "edge_runtime", "run", "--json", "turn on the fan"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=repository,
        env=environment(home),
    )
    assert done.returncode == 0, done.stderr


def test_the_switch_is_set_before_the_import_whatever_the_environment_said(
    home: Path, repository: Path
) -> None:
    code = (
        "import os, sys\n"
        "class Spy:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Spy())\n"
        "from edge_runtime import ort\n"
        "ort.load()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=repository,
        env={**environment(home), "ORT_DISABLE_TELEMETRY": "0"},
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert files_below(home) == []


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("1.21.0", "illegal instruction on Cortex-A72"),
        ("1.22.1", "too old: this release needs 1.23.0 or newer"),
        ("1.20.0+cu12", "too old"),
    ],
)
def test_a_release_that_is_known_to_fail_is_refused_with_the_reason_and_the_way_out(
    version: str, reason: str
) -> None:
    with pytest.raises(RuntimeVersionError) as caught:
        ort.check_version(version)
    assert f"onnxruntime {version} is" in str(caught.value)
    assert reason in str(caught.value)
    assert "pip install 'onnxruntime>=1.23.0'" in str(caught.value)


@pytest.mark.parametrize("version", ["1.23.0", "1.23.2", "1.32.0", "2.0.0rc1"])
def test_other_releases_are_taken(version: str) -> None:
    ort.check_version(version)


def test_a_missing_onnxruntime_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="Install it with: pip install onnxruntime"):
        ort.load()
