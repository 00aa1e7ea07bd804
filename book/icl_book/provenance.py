"""Where a result comes from: a hash of the code behind it, the commit, versions and device.

The same hash decides whether a chapter is stale. It covers the modules that can change the result, those
named and all that they import, and of them the meaning: comments, docstrings and layout do not count.
"""

import ast
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Whose code is hashed, where this process imports it from.
PACKAGES = {"icl_lib": Path(find_spec("icl_lib").origin).parent, "icl_book": Path(__file__).resolve().parent}
COMPUTE = ("torch", "numpy", "scipy", "pandas", "matplotlib", "seaborn")  # what numbers and figures depend on


def home() -> Path:
    """The checkout; where the package was installed without one, the working directory."""
    return ROOT if (ROOT / "_toc.yml").exists() else Path.cwd()


def paper_file(chapter: str) -> Path:
    """Where a chapter's committed results of the paper profile are, which takes an accelerator."""
    return home() / "book" / "data" / "paper_profile" / f"{chapter}.json"


def file_of(module: str) -> Path | None:
    """The file of a module of `PACKAGES`, by its dotted name; None if there is none."""
    package, *rest = module.split(".")
    if package not in PACKAGES:
        return None
    place = PACKAGES[package].joinpath(*rest)
    files = [place.with_suffix(".py")] if rest else []
    return next((file for file in [*files, place / "__init__.py"] if file.exists()), None)


@cache
def imported_modules(source: str, module: str = "") -> set[str]:
    """Dotted names of the modules of `PACKAGES` that Python source imports, relative imports among them.

    `module` is the name of the module that the source is of, for its relative imports.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if _is_package(module) else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            found |= {_home_of(base, alias.name) for alias in node.names}
    return {name for name in found if file_of(name)}


def _is_package(module: str) -> bool:
    file = file_of(module)
    return file is not None and file.name == "__init__.py"


def _home_of(base: str, name: str) -> str:
    """The module that `from base import name` needs: a submodule, one that base hands on lazily, or base."""
    if file_of(f"{base}.{name}"):
        return f"{base}.{name}"
    if _is_package(base):
        for node in ast.parse(file_of(base).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_PUBLIC":
                handed_on = ast.literal_eval(node.value)
                return next((f"{base}.{module}" for module in handed_on if name in handed_on[module]), base)
    return base


def module_closure(names: Iterable[str]) -> list[str]:
    """The named modules, their packages, and every module of `PACKAGES` that they import, sorted."""
    closure, open_names = set(), set(names)
    while open_names:
        name = open_names.pop()
        if name not in closure and (file := file_of(name)):
            closure.add(name)
            open_names |= imported_modules(file.read_text(encoding="utf-8"), name)
            open_names |= {name.rpartition(".")[0]} - {""}
    return sorted(closure)


def loaded_modules() -> list[str]:
    """The modules of `PACKAGES` that this process has imported: what a running chapter depends on."""
    return sorted(name for name in list(sys.modules) if file_of(name))


@cache
def meaning(source: str) -> str:
    """`store.meaning` of source, taken once: chapters share most of their modules."""
    from icl_lib import store  # with torch, which takes seconds to import

    return store.meaning(source)


def library_hash(names: Iterable[str]) -> str:
    """A hash of the meaning of the named modules and of all that they import (16 hex digits)."""
    texts = {name: file_of(name).read_text(encoding="utf-8") for name in module_closure(names)}
    meanings = "\n".join(f"{name} {meaning(text)}" for name, text in texts.items())
    return hashlib.sha256(meanings.encode()).hexdigest()[:16]


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
    """Python and the packages that numbers and figures depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in COMPUTE}
