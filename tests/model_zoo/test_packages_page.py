"""docs/packages.md: every key of the manifest is there, and every command in it runs."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import model_zoo
from edge_runtime.cli import cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "packages.md"
COMMANDS = re.findall(r"^\$ edge-runtime (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_key_of_the_manifest_is_described() -> None:
    schema = json.loads(
        Path(model_zoo.__file__).with_name("manifest.schema.json").read_text(encoding="utf-8")
    )
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert list(rows) == schema["required"]

    def keys(node: dict[str, Any]) -> set[str]:
        children = dict(node.get("properties", {}))
        if isinstance(node.get("additionalProperties"), dict):
            children.update(node["additionalProperties"].get("properties", {}))
        return set(children).union(*(keys(child) for child in children.values()))

    for name, node in schema["properties"].items():
        missing = {key for key in keys(node) if f"`{key}`" not in rows[name]}
        assert not missing, f"the row of {name} lacks {sorted(missing)}"


def test_every_command_of_the_page_runs(
    models: Path, tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "shipped" / "pocket")
    make(models / "my-model")
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        result = CliRunner().invoke(cli, shlex.split(command), prog_name="edge-runtime")
        assert result.exit_code == 0, f"{command}\n{result.output}"


def test_the_example_of_writing_a_package_runs(
    tmp_path: Path, fields: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"weights": b"w" * 100, "graph": b"g", "fields": fields()}
    exec(example, names)
    assert names["package"].manifest == names["manifest"]
