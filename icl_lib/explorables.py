"""Explorables: what a chapter leaves in its page for the reader to move.

The scripts are in book/_static/explorables/. Data go into the page itself: a page that was opened from disk
may not read other files.
"""

import json
from collections.abc import Mapping

from icl_lib import checks

NAMES = ("preprocess", "heads", "two_heads")


def show(name: str, data: Mapping[str, object], digits: int = 6):
    """The place of an explorable, with its data: numbers, lists and tensors, to so many significant digits.

    Outside the book's pages, where its scripts are not found, it says where to go.
    """
    from IPython.display import HTML  # needed by the book alone

    checks.one_of("name", name, NAMES)
    scripts = "".join(
        f'<script src="../_static/explorables/{part}.js"></script>' for part in ("math", "page", name)
    )
    return HTML(
        f'<div class="explorable" data-explorable="{name}">'
        '<p class="explorable-fallback">Here the page of the book is interactive. It takes JavaScript;'
        " the figure above shows the same, at rest.</p>"
        f'<script type="application/json">{json.dumps(_plain(data, digits), separators=(",", ":"), allow_nan=False)}</script>'
        f"</div>{scripts}"
    )


def _plain(value: object, digits: int) -> object:
    """Tensors and arrays as lists, floats rounded."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(part, digits) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, digits) for part in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
