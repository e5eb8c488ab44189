"""A package of a few bytes, and the folders that the tests write to."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model_zoo import PackageWriter

WEIGHTS = bytes(range(256)) * 20


def manifest_fields(**changes: Any) -> dict[str, Any]:
    """Every key that a writer must give, as JSON values."""
    fields: dict[str, Any] = {
        "id": "tiny",
        "architecture": "llama",
        "quantization": {"scheme": "int4", "method": "rtn", "bits": 4, "block_size": 32},
        "context_length": 512,
        "vocab_size": 300,
        "parameters": 12_345,
        "engine": "onnx",
        "engine_options": {"graph": "fused", "version": 1},
        "memory": {"weights_bytes": 5_120, "kv_bytes_per_token": 64, "runtime_bytes": 1_000},
        "licence": {"id": "Apache-2.0", "attribution": ["Data by the Example Project, CC BY 4.0"]},
        "source": {
            "repository": "example/tiny",
            "exporter": "test",
            "exporter_version": "1.0",
            "created": "2026-01-31T12:00:00Z",
        },
        "generation": {"eos_token_ids": [2], "bos_token_id": 1, "defaults": {"temperature": 0.0}},
        "evaluation": {"frames": {"accuracy": {"value": 0.5, "interval": [0.4, 0.6]}}},
    }
    return {**fields, **changes}


@pytest.fixture
def fields() -> Callable[..., dict[str, Any]]:
    return manifest_fields


@pytest.fixture
def make() -> Callable[..., Path]:
    """Write a small package: `make(folder, weights=…, **changes of the manifest)`."""

    def write(folder: Path, weights: bytes = WEIGHTS, overwrite: bool = False, **changes: Any) -> Path:
        with PackageWriter(folder, overwrite=overwrite) as writer:
            writer.add("model.onnx", weights)
            writer.add("tokenizer.json", "{}")
            writer.add("docs/LICENSE", "Apache-2.0")
            writer.commit(manifest_fields(**{"id": folder.name, **changes}))
        return folder

    return write


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's models folder, empty; nothing is shipped."""
    folder = tmp_path / "models"
    monkeypatch.setenv("EDGE_MODELS_DIR", str(folder))
    monkeypatch.setattr("model_zoo.store.shipped_dir", lambda: tmp_path / "shipped")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("a file system of 1 MiB needs the right to mount one (root)")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"a file system of 1 MiB needs the right to mount one: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)
