"""What every test shares: a home of its own, no usage upload, and where the measured data lie.

A test marked `heavy` needs torch, transformers, an environment of its own or minutes of time: `make test`
leaves those out, `make test-all` runs them.
"""

import os

# Before anything can import onnxruntime: it reads this once, while it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from pathlib import Path

import pytest

XDG = ("CONFIG", "DATA", "STATE", "CACHE")
KEPT = ("EDGE_DATA_DIR", "EDGE_TEST_")
"""Variables that are settings of the tests themselves, not of the program under test."""


@pytest.fixture(scope="session")
def font_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for matplotlib's font cache: with a HOME per test it would be built again each time."""
    return tmp_path_factory.mktemp("matplotlib")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, font_cache: Path) -> Path:
    """An empty HOME with no configuration, so that a test neither reads nor writes the user's own files."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("MPLCONFIGDIR", str(font_cache))
    for kind in XDG:
        monkeypatch.delenv(f"XDG_{kind}_HOME", raising=False)
    for name in [name for name in os.environ if name.startswith("EDGE_") and not name.startswith(KEPT)]:
        monkeypatch.delenv(name)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public benchmark data named by EDGE_DATA_DIR (`hwu64/`, `ha_intents/`, `clinc150/` …)."""
    named = os.environ.get("EDGE_DATA_DIR")
    if not named:
        pytest.skip(
            "EDGE_DATA_DIR is not set: it names the folder with hwu64, ha_intents and the other data sets"
        )
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"EDGE_DATA_DIR names {folder}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parent.parent
