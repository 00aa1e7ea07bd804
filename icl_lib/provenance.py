"""Where a result comes from: a hash of the code behind it, the commit, versions and device.

The same hash decides whether a chapter is stale and whether a stored model may be used again,
so it covers just the modules that can change the result: those named, and what they import.
"""

import ast
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parent


def home() -> Path:
    """The checkout; where the package was installed without one, the working directory."""
    return ROOT if (ROOT / "_toc.yml").exists() else Path.cwd()


def paper_file(chapter: str) -> Path:
    """Where a chapter's committed results of the paper profile are, which takes an accelerator."""
    return home() / "book" / "data" / "paper_profile" / f"{chapter}.json"


def imported_modules(source: str) -> set[str]:
    """Names of the `icl_lib` modules that a piece of Python source imports, without the prefix."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            names = [f"{PACKAGE.name}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        else:
            continue
        parts = [name.split(".") for name in names]
        found |= {part[1] for part in parts if part[0] == PACKAGE.name and len(part) > 1}
    return found


def module_closure(names: Iterable[str]) -> list[str]:
    """The named `icl_lib` modules and every module that they import, sorted."""
    closure, open_names = set(), set(names)
    while open_names:
        name = open_names.pop()
        if name not in closure:
            closure.add(name)
            open_names |= _imports_of(name)
    return sorted(closure)


@cache
def _imports_of(name: str) -> set[str]:
    return imported_modules((PACKAGE / f"{name}.py").read_text())


def loaded_modules() -> list[str]:
    """The `icl_lib` modules that this process has imported: what a running chapter depends on."""
    parts = [name.split(".") for name in list(sys.modules)]
    return sorted(part[1] for part in parts if part[0] == PACKAGE.name and len(part) == 2)


def library_hash(names: Iterable[str]) -> str:
    """A hash of the source of the named modules and of all that they import (16 hex digits)."""
    digest = hashlib.sha256()
    for name in module_closure(names):
        digest.update(name.encode() + b"\0" + (PACKAGE / f"{name}.py").read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def git_commit() -> str:
    """The checkout's commit, with `+` when files differ from it; `unknown` outside a checkout."""
    try:
        options = dict(cwd=ROOT, capture_output=True, text=True, check=True)
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **options).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if dirty else "")


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    packages = ("torch", "numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
