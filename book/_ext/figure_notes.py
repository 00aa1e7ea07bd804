"""Puts the downloads under a chapter's title, and below each figure its data and how it was made.

All of it comes from the chapter's results file, which the driver lays into _static/downloads.
"""

import json
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

DOWNLOADS = "_static/downloads"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the notes when a page's references are resolved."""
    app.connect("doctree-resolved", add_notes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_notes(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Add the notes to a chapter; pages that are no chapters have no results and stay as they are."""
    chapter = page.split("/")[-1]
    results = Path(app.srcdir) / "book" / DOWNLOADS / f"{chapter}.json"
    if not results.exists() or app.builder.format != "html":
        return
    found = json.loads(results.read_text())
    folder = f"{'../' * page.count('/')}{DOWNLOADS}"
    title = next(doctree.findall(nodes.title))
    title.parent.insert(title.parent.index(title) + 1, _raw(_downloads(folder, chapter)))
    for figure in list(doctree.findall(nodes.figure)):
        for name in set(figure["ids"] + figure["names"]).intersection(found.get("figures", {})):
            note = (
                '<details class="made-by"><summary>Data, and how this figure was made</summary>'
                f'<p><a href="{folder}/{name}.csv" download>What the figure shows (CSV)</a>, '
                f'<a href="{folder}/{chapter}.json" download>all results of the chapter (JSON)</a></p>'
                f"{_made_by(found['provenance'])}</details>"
            )
            figure.parent.insert(figure.parent.index(figure) + 1, _raw(note))


def _raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


def _downloads(folder: str, chapter: str) -> str:
    return (
        '<p class="downloads">Download: '
        f'<a href="{folder}/{chapter}.ipynb" download>this chapter as a notebook</a>, '
        f'<a href="{folder}/{chapter}.json" download>its results</a></p>'
    )


def _made_by(about: dict) -> str:
    """The provenance of a results file as a list of terms."""
    settings = {name: value for name, value in about["settings"].items() if name != "seeds"}
    terms = {
        "Settings": "; ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items()),
        "Seeds": about["seeds"],
        "Device": about["device"],
        "Time": f"{about['seconds']:.0f} s for all of the chapter but models from the store",
        "Library": about["library"],
        "Commit": about["commit"],
        "Versions": ", ".join(f"{name} {value}" for name, value in about["versions"].items()),
    }
    rows = [
        f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in terms.items() if value is not None
    ]
    command = f"<dt>Again</dt><dd><code>{escape(about['command'])}</code></dd>"
    return f"<dl>{''.join(rows)}{command}</dl>"
