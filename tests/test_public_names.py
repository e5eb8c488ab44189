"""What a package exports is written in `__all__`; its docstring says what it knows and what it does not."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("android_bridge", "edge_runtime", "model_zoo", "offload", "quantize")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def literal_all(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and getattr(target, "id", "") == "__all__":
            value: list[str] = ast.literal_eval(node.value) if node.value else []
            return value
    return None


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_exists(package: str) -> None:
    module = importlib.import_module(package)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_imports_for_its_users_it_exports(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package
        for alias in node.names
    }
    exported = set(literal_all(tree) or ())
    assert {name for name in imported if not name.startswith("_")} <= exported


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_name_in_a_modules_all_is_defined_in_it(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {
        getattr(target, "asname", None) or getattr(target, "name", None) or getattr(target, "id", None)
        for node in ast.walk(tree)
        for target in (
            node,
            *getattr(node, "names", ()),
            *getattr(node, "targets", ()),
            getattr(node, "target", None),
        )
        if isinstance(target, ast.alias | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Name)
    }
    assert set(literal_all(tree) or ()) <= defined


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_knows_and_what_it_does_not(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    docstring = (ast.get_docstring(tree) or "").lower()
    assert "knows" in docstring
    assert "does not know" in docstring
