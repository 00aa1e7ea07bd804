"""A button that opens a chapter on Binder, in a copy of the book that has a public address.

`repository_address` in _config.yml is that of the repository, one that git can clone. Without one there is
no button. It is a link and no more: the page loads nothing from anywhere.
"""

from urllib.parse import quote

from sphinx.application import Sphinx

BINDER = "https://mybinder.org/v2/git/{repository}/HEAD?labpath={file}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the setting and, after the theme has made its own buttons, ours."""
    app.add_config_value("repository_address", "", "html", str)
    app.connect("html-page-context", add_button, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_button(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Add it to chapters that run by themselves; those that read others' results need a whole book."""
    about, address = app.env.metadata.get(page, {}), app.config.repository_address
    if address and "kernelspec" in about and "reads" not in about:
        button = {
            "type": "link",
            "text": "Binder",
            "tooltip": "Run this chapter on Binder",
            "icon": "fas fa-rocket",
            "label": "launch-binder",
            "url": binder(address, page),
        }
        context["header_buttons"].insert(0, button)


def binder(repository: str, page: str) -> str:
    """The address that opens a page's text notebook, book/NN_name.md, in JupyterLab on Binder."""
    return BINDER.format(repository=quote(repository, safe=""), file=quote(f"{page}.md", safe=""))
