"""The library's shape: imports run one way, modules stay short, public things say what they are."""

import ast
from graphlib import TopologicalSorter

import pytest

from icl_lib.provenance import PACKAGE, imported_modules

MODULES = {path.stem: path.read_text() for path in PACKAGE.glob("*.py") if path.stem != "__init__"}


def test_imports_have_no_circle():
    order = list(
        TopologicalSorter({name: imported_modules(text) for name, text in MODULES.items()}).static_order()
    )
    assert sorted(order) == sorted(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_short_and_public_things_have_docstrings(name):
    assert len(MODULES[name].splitlines()) <= 300
    tree = ast.parse(MODULES[name])
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            nested = any(
                node in getattr(f, "body", []) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)
            )
            assert nested or ast.get_docstring(node), f"{name}.{node.name}"
