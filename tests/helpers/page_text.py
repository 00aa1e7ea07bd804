"""The text of the book's pages, parsed: directives, figures, the blocks of text."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.front_matter import front_matter_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

from icl_book.provenance import ROOT

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "book").glob("*.md"))}

PARSER = MarkdownIt("commonmark").enable("table")
PARSER.use(front_matter_plugin).use(dollarmath_plugin, allow_labels=True, double_inline=True)
PARSER.use(myst_role_plugin).use(myst_block_plugin).use(colon_fence_plugin)


class Directive(NamedTuple):
    """A directive of MyST: ```{name} argument, options, content."""

    name: str
    argument: str
    options: dict
    content: str


def directive(token: Token) -> Directive | None:
    """The directive that a fence is, if it is one."""
    found = re.match(r"\{([\w:-]+)\}\s*(.*)", token.info) if token.type.endswith("fence") else None
    if not found:
        return None
    block = re.match(r"---\n(.*?)^---\n", token.content, re.S | re.M)
    lines = re.match(r"(?::[\w-]+:.*\n)*", token.content)
    source = block[1] if block else re.sub(r"^:([\w-]+):", r"\1:", lines[0], flags=re.M)
    return Directive(*found.groups(), yaml.safe_load(source) or {}, token.content[(block or lines).end() :])


def tokens(text: str) -> Iterator[Token]:
    """The blocks of a page, with those inside directives of text."""
    for token in PARSER.parse(text):
        yield token
        found = directive(token)
        if found and found.name not in ("code-cell", "math"):
            yield from tokens(found.content)


def directives(text: str, name: str) -> list[Directive]:
    """The directives of a page that have this name."""
    return [found for found in map(directive, tokens(text)) if found and found.name == name]


def figures(text: str) -> list[tuple[str, str, str]]:
    """Name, caption and alt text of every figure of a chapter."""
    cells = [cell.options.get("mystnb", {}) for cell in directives(text, "code-cell")]
    shown = [(cell["figure"], cell.get("image", {})) for cell in cells if "figure" in cell]
    return [
        (figure.get("name", ""), figure.get("caption", ""), image.get("alt", "")) for figure, image in shown
    ]
