"""The code of the chapters: short, open where the method is, never cut; what it says of the prose is so."""

import ast
import re
from statistics import median

import pytest
from page_text import PAGES

from icl_book import chapters

CHAPTERS = {name: one for name, one in chapters.load_chapters().items() if name[:2].isdigit()}
WIDEST = 80  # characters; more would be cut in a window of 1280 pixels


def cells(name):
    """The lines of code of each cell, and whether it is open; without blank lines."""
    for cell in CHAPTERS[name].notebook().cells:
        if cell.cell_type == "code":
            tags = set(cell.metadata.get("tags", []))
            is_open = not tags & {"hide-input", "hide-cell", "remove-input", "remove-cell"}
            yield [line for line in cell.source.splitlines() if line.strip()], is_open


def test_cells_are_short_and_half_of_the_code_is_open():
    every = [cell for name in CHAPTERS for cell in cells(name)]
    sizes = [len(lines) for lines, _ in every]
    assert median(sizes) <= 8
    assert max(sizes) <= 25
    assert 2 * sum(len(lines) for lines, is_open in every if is_open) >= sum(sizes)


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_line_of_code_is_cut(name):
    listings = re.findall(r"^```(?:\{code-cell\}[^\n]*|bash|python)\n(.*?)^```$", PAGES[name], re.S | re.M)
    shown = [
        line for text in listings for line in re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S).split("\n")
    ]
    assert not [line for line in shown if len(line) > WIDEST]


@pytest.mark.parametrize("name", CHAPTERS)
def test_sentences_that_are_backed_stand_in_the_prose(name):
    """Word by word, but for the breaks of lines."""
    cells = CHAPTERS[name].notebook().cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    metadata = [cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "") for cell in cells]
    prose = " ".join([*(cell.source for cell in cells if cell.cell_type == "markdown"), *metadata])
    prose = " ".join(prose.split())
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "holds":
            sentence = ast.literal_eval(node.args[0])
            assert sentence in prose, sentence
