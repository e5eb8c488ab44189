"""The one direction of imports (docs/architecture.md), read from the syntax tree of every module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ALLOWED = {
    "offload": set(),
    "model_zoo": set(),
    "edge_runtime": {"offload", "model_zoo"},
    "quantize": {"edge_runtime", "model_zoo"},
    "android_bridge": {"edge_runtime"},
}
OURS = {*ALLOWED, "tools", "tests"}

HEAVY = {
    "huggingface_hub",
    "matplotlib",
    "mlc_llm",
    "optimum",
    "ray",
    "sklearn",
    "torch",
    "transformers",
    "tvm",
}
"""Optional or heavy: imported inside the function that needs them, never while our modules are imported."""

ORT_IMPORTER = ROOT / "edge_runtime" / "ort.py"
IMPORT_CALLS = {"import_module", "__import__", "importorskip", "find_spec"}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(tree: ast.AST, *, deep: bool) -> Iterator[tuple[str, int]]:
    """Top-level names that a module imports, with lines; `deep` looks into functions too.

    A shallow walk follows class bodies, `if` and `try` (they run at import) but not `if TYPE_CHECKING:`.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node.lineno
        elif isinstance(node, ast.Call) and node.args and _called(node) in IMPORT_CALLS:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value.split(".")[0], node.lineno
        if not deep and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if not deep and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from imports(node, deep=deep)


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_along_the_arrows(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for name, line in imports(parsed(path), deep=True)
        if name in OURS - {package} - ALLOWED[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_modules_are_imported_only_where_they_are_needed() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name} while it is itself imported"
        for path in sources(*ALLOWED)
        for name, line in imports(parsed(path), deep=False)
        if name in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_onnxruntime_is_imported_in_one_place_where_its_usage_upload_is_switched_off_first() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources(*OURS)
        if path != ORT_IMPORTER
        for name, line in imports(parsed(path), deep=True)
        if name == "onnxruntime"
    ]
    assert not wrong, "import onnxruntime through edge_runtime.ort.load() here: " + ", ".join(wrong)


def test_the_walk_sees_what_it_must() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import torch
try:
    import optimum.exporters
except ImportError:
    optimum = None
class A:
    import tvm
def f():
    import ray
    importlib.import_module("transformers.models")
"""
    tree = ast.parse(source)
    assert {name for name, _ in imports(tree, deep=False)} == {"typing", "optimum", "tvm"}
    assert {name for name, _ in imports(tree, deep=True)} >= {"torch", "ray", "transformers"}
