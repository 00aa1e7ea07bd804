"""Reading the chapters' sources, for the tests."""

import ast
from collections.abc import Callable, Iterator

from icl_book.chapters import Chapter, load_chapters


def figure_cells(chapter: Chapter) -> Iterator[tuple[str, str]]:
    """The name of each figure that a chapter makes, and the code of its cell."""
    for cell in chapter.notebook().cells:
        if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
            yield name, cell.source


def functions(chapter: str, **values: object) -> dict[str, Callable]:
    """The functions that a chapter defines, by name; `values` are the chapter's names that they use."""
    cells = load_chapters()[chapter].notebook().cells
    statements = [node for cell in cells if cell.cell_type == "code" for node in ast.parse(cell.source).body]
    defined = [node for node in statements if isinstance(node, ast.FunctionDef)]
    exec(compile(ast.Module(defined, []), chapter, "exec"), values)
    return {node.name: values[node.name] for node in defined}
