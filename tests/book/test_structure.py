"""The library knows nothing of the book, studies nothing of the build, and no imports run in circles."""

from graphlib import TopologicalSorter

from icl_book.provenance import ROOT, file_of, imported_modules, module_closure

PYTHON = [*(ROOT / "icl_lib").glob("*.py"), *(ROOT / "book/icl_book").rglob("*.py")]
FILES = [path for path in PYTHON if path.stem != "__init__"]
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("book.") for path in FILES]
IMPORTS = {name: imported_modules(path.read_text(), name) for name, path in zip(NAMES, FILES, strict=True)}
BUILD = ("build", "chapters", "ledger", "results", "papers", "about", "figures")


def test_imports_run_one_way():
    assert all(file_of(name) for name in IMPORTS)
    for name, imported in IMPORTS.items():
        if name.startswith("icl_lib"):
            assert not [other for other in imported if other.startswith("icl_book")], name
        if name.startswith("icl_book.studies"):
            assert not {f"icl_book.{part}" for part in BUILD} & set(module_closure(imported)), name
    list(TopologicalSorter(IMPORTS).static_order())  # raises for a circle
