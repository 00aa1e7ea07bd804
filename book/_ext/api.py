"""The API page's docstrings as Sphinx reads them: they are plain text, where stars and bars are no markup."""

import re

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Prepare each docstring before napoleon reads its sections."""
    app.connect("autodoc-process-docstring", as_text, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def as_text(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Escape what would be markup; an indented block after a colon is shown as it stands."""
    literal = False
    for place, line in enumerate(lines):
        if literal and line.strip() and not line.startswith(" "):
            literal = False
        if literal:
            continue
        following = [*lines[place + 1 : place + 3], "", ""]
        opens = line.endswith(":") and not following[0].strip() and following[1].startswith("    ")
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[place] = "".join(parts) + ":" * opens
        literal = opens
