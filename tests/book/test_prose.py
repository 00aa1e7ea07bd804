"""The text of the book: commands that run, figures that can be read aloud, labels, symbols, references."""

import re
import shlex
import tokenize
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from page_text import PAGES, figures

from icl_book import chapters, parameters
from icl_book.provenance import PACKAGES, ROOT

CHAPTERS = {name: one for name, one in chapters.load_chapters().items() if name[:2].isdigit()}


def commands() -> list[tuple[str, str]]:
    """Every `make chapter` of the book and the README: page, command."""
    texts = PAGES | {"README": (ROOT / "README.md").read_text()}
    pattern = r"^ *(make chapter .*)$|`(make chapter [^`]*)`"
    texts = {name: re.sub(r"\\\n\s*", "", text) for name, text in texts.items()}  # a line may go on
    found = [(name, a or b) for name, text in texts.items() for a, b in re.findall(pattern, text, re.M)]
    return [(name, command) for name, command in found if "CHAPTER=..." not in command]


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_are_accepted(page, command, tmp_path):
    """By the driver's own reading and checking, with the values that the profile adds."""
    given = dict(word.split("=", 1) for word in shlex.split(command)[2:])
    assert set(given) == {"CHAPTER", "ARGS"}, page
    chapter = CHAPTERS[given["CHAPTER"]]
    source = tmp_path / f"{chapter.name}.ipynb"
    nbformat.write(chapter.notebook(), source)
    flags = chapters.read_flags(source, shlex.split(given["ARGS"]))  # make's shell splits them again
    assert flags
    profile = flags.pop("profile", "laptop")
    parameters.resolve(chapter.name, profile, **flags)


def test_figures_say_what_they_show():
    shown = [(page, *figure) for page in CHAPTERS for figure in figures(PAGES[page])]
    for page, name, caption, alt in shown:
        assert name.startswith("fig-"), page
        for text in (caption, alt):
            assert len(text.split()) >= 8, (page, name)  # not empty, and no hash or file name
    for column in (1, 2, 3):
        assert not [text for text, times in Counter(row[column] for row in shown).items() if times > 1]


def identifiers() -> set[str]:
    """The names in the library's code, and its strings of one word: keys of weights."""
    found = set()
    for path in (*PACKAGES["icl_lib"].glob("*.py"), *PACKAGES["icl_book"].rglob("*.py")):
        for token in tokenize.generate_tokens(path.open().readline):
            if token.type in (tokenize.NAME, tokenize.STRING):
                found.add(token.string.strip("\"'"))
    return found


def symbols() -> list[list[str]]:
    """The rows of the table of symbols: symbol, code, shape, meaning."""
    rows = re.findall(r"^\|(.*)\|$", PAGES["symbols"], re.M)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]
    return [row for row in cells if row[0] != "symbol" and not row[0].startswith("---")]


def test_the_table_of_symbols_has_the_names_of_the_code():
    known = identifiers()
    rows = symbols()
    assert len(rows) > 30
    for symbol, code, shape, meaning in rows:
        assert all((symbol, shape, meaning))
        names = re.findall(r"`([^`]+)`", code)
        assert names, symbol
        for name in names:
            assert set(re.findall(r"[A-Za-z_]\w*", name)) <= known, (symbol, name)


def test_the_bibliography_has_what_is_cited():
    keys = re.findall(r"^@\w+\{(\w+),", Path(ROOT / "book/references.bib").read_text(), re.M)
    cited = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", "\n".join(PAGES.values()))
    assert sorted(keys) == sorted({key.strip() for group in cited for key in group.split(",")})
