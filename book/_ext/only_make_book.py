"""Refuse a build that the driver did not start: it would show no results."""

import os

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Go on only below `make book`, which runs the chapters before it renders them."""
    if "ICL_DRIVER" not in os.environ:
        raise SystemExit("This book runs its chapters before it builds its pages. Type: make book")
    return {"parallel_read_safe": True}
