"""The wheel holds what a user needs and nothing else, and works where nothing else is installed."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("android_bridge", "edge_runtime", "model_zoo", "offload", "quantize")


USERS_HOME = os.environ.get("HOME", "")
"""The user's own, where pip finds its settings and cache; the HOME of a test is empty."""


def run(*command: str | Path, cwd: Path, home: str | Path = USERS_HOME) -> str:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=900,
        env={**os.environ, "HOME": str(home)},
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the source tree stays clean."""
    source = Path(__file__).resolve().parent.parent
    copy = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "tools", "tests"):
        shutil.copytree(source / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(source / name, copy / name)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, copy, cwd=out)
    (built,) = out.glob("edge_runtime-*.whl")
    return built


@pytest.mark.heavy
def test_the_wheel_holds_the_packages_and_the_shipped_models_and_no_tools_or_tests(
    wheel: Path, repository: Path
) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert folders == set(PACKAGES)
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
        modules = {str(path.relative_to(repository)) for path in (repository / package).rglob("*.py")}
        assert modules <= names
    shipped = [path for path in (repository / "model_zoo" / "packages").rglob("*") if path.is_file()]
    assert {"manifest.json", "MODEL_CARD.md", "LICENSE"} <= {path.name for path in shipped}
    assert {str(path.relative_to(repository)) for path in shipped} <= names
    assert "model_zoo/manifest.schema.json" in names


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_a_fresh_environment_with_the_wheel_alone_answers_on_the_device(
    wheel: Path, tmp_path: Path, home: Path
) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    binaries = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(binaries / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    words = "turn off the lights in the kitchen"
    printed = run(binaries / "edge-runtime", "run", "--json", words, cwd=tmp_path, home=home)
    answer = json.loads(printed)
    assert answer["source"] == "device"
    assert answer["evidence"]["n_scored"] > 0
    assert not list(home.rglob("*"))
    listing = run(binaries / "edge-runtime", "--help", cwd=tmp_path)
    for verb in ("run", "chat", "bench", "models", "quantize", "evaluate", "config", "completion"):
        assert f"\n  {verb} " in listing
    assert "cannot be loaded" not in listing
