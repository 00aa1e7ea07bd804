"""Reading the chapters' sources, for the tests."""

from collections.abc import Iterator

from icl_book.chapters import Chapter


def figure_cells(chapter: Chapter) -> Iterator[tuple[str, str]]:
    """The name of each figure that a chapter makes, and the code of its cell."""
    for cell in chapter.notebook().cells:
        if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
            yield name, cell.source
