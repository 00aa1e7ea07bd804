"""What a page tells search engines and link previews: its first paragraph and its first figure."""

import re
from html import escape, unescape

from docutils import nodes
from sphinx.application import Sphinx

LONGEST = 300  # characters of a description


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the tags to the head of every page."""
    app.connect("html-page-context", add_tags)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_tags(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Description, title and picture; previews want its whole address, which takes `html_baseurl`."""
    tags = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": unescape(re.sub("<[^>]*>", "", context.get("title") or app.config.html_title)),
        "og:description": _description(doctree) or app.config.html_title,
        "twitter:card": "summary_large_image",
    }
    picture = _picture(app, doctree) or _picture(app, app.env.get_doctree(app.config.root_doc))
    address = app.config.html_baseurl.rstrip("/")
    if picture:
        tags["og:image"] = f"{address}/{picture}" if address else context["pathto"](picture, 1)
    if address:
        tags["og:url"] = f"{address}/{app.builder.get_target_uri(page)}"
    lines = [f'<meta property="{name}" content="{escape(value)}" />' for name, value in tags.items()]
    lines.append(f'<meta name="description" content="{escape(tags["og:description"])}" />')
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def _description(doctree: nodes.document | None) -> str:
    """The first paragraph of a page as plain text, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        text = re.sub(r"[\\{}]", "", " ".join(paragraph.astext().split()))  # formulas without their marks
        return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"
    return ""


def _picture(app: Sphinx, doctree: nodes.document | None) -> str:
    """The place of a page's first figure, as it is after the build."""
    for image in doctree.findall(nodes.image) if doctree else ():
        if image["uri"] in app.env.images:
            return f"{app.builder.imagedir}/{app.env.images[image['uri']][1]}"
    return ""
