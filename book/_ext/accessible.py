"""Mends what the theme, Sphinx and MyST-NB put in the way of readers with a keyboard or a screen reader.

Each rule of axe-core that the browser tests found broken has its repair here, or in _static/reading.js. One
that a later version of the theme no longer needs does nothing.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

REPAIRS = [
    # The label of a folded cell hid what its summary says: "Show code cell source".
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # That of the search button hid its shortcut.
    (r'(<button class="btn search-button-field [^>]*) aria-label="[^"]*"', r"\1"),
    # The pictures in the colour mode's button had names beside that of the button.
    (r'(<i class="theme-switch [^>]*) title="[^"]*"', r"\1"),
    # The entries of the bibliography, in a list, were no items of it.
    (r'role="doc-biblioentry"', 'role="listitem"'),
    # All exercises of a page, all their solutions and all its algorithms had the same id.
    (r' id="(exercise|solution|proof)-content"', ""),
    # The first page bears the book's title: its window need not say it twice.
    (r"<title>(.*?) &#8212; \1</title>", r"<title>\1</title>"),
]


def setup(app: Sphinx) -> dict[str, bool]:
    """Mend the pages after they are written."""
    app.connect("build-finished", mend_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mend_all(app: Sphinx, error: Exception | None) -> None:
    """Repair every page of the book."""
    if error or app.builder.format != "html":
        return
    for name in app.env.found_docs | {"search"}:
        file = Path(app.builder.get_outfilename(name))
        text = file.read_text(encoding="utf-8")
        for wrong, right in REPAIRS:
            text = re.sub(wrong, right, text)
        file.write_text(text, encoding="utf-8")
