"""The button that opens a chapter on Binder: there with the setting, absent without it."""

from urllib.parse import parse_qs, unquote, urlparse

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from sphinx.testing.util import SphinxTestApp

from icl_book.build import CONFIG
from icl_book.chapters import BOOK
from icl_book.provenance import ROOT

ADDRESS = "https://git.example.org/someone/a book.git"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


PAGES = {"book/01_one": {}, "book/02_two": {"reads": "all"}}


@pytest.fixture
def links(request, tmp_path, monkeypatch):
    """The addresses on Binder that the pages of a small book link to, with the setting of the test."""
    monkeypatch.syspath_prepend(BOOK / "_ext")
    (tmp_path / "book").mkdir()
    cells = [nbformat.v4.new_markdown_cell("# A title")]
    for name, metadata in PAGES.items():
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL, **metadata})
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    (tmp_path / "plain.md").write_text("# Plain\n\n```{toctree}\nbook/01_one\nbook/02_two\n```\n")
    (tmp_path / "conf.py").write_text(
        "extensions = ['myst_nb', 'sphinx_book_theme', 'launch']\nhtml_theme = 'sphinx_book_theme'\n"
        f"root_doc = 'plain'\nnb_execution_mode = 'off'\nrepository_address = {request.param!r}\n"
    )
    app = SphinxTestApp("html", tmp_path)
    app.build()
    app.cleanup()
    found = {}
    for name in [*PAGES, "plain"]:
        soup = BeautifulSoup((app.outdir / f"{name}.html").read_text(), "html.parser")
        found[name] = {link["href"] for link in soup.find_all("a", href=True) if "binder" in link["href"]}
        assert "binder" not in str(soup.find_all(["script", "link", "img"]))
    return found


@pytest.mark.parametrize("links", [ADDRESS], indirect=True)
def test_with_an_address_a_chapter_opens_on_binder(links):
    (link,) = links.pop("book/01_one")
    place, query = urlparse(link), parse_qs(urlparse(link).query)
    kind, version, provider, repository, ref = place.path.split("/")
    assert (place.scheme, place.netloc) == ("https", "mybinder.org")
    assert (kind, version, provider, unquote(repository), ref) == ("", "v2", "git", ADDRESS, "HEAD")
    assert query == {"labpath": ["book/01_one.md"]}  # the text notebook: no .ipynb is in the repository
    # The one needs a book, the other is no notebook.
    assert links == {"book/02_two": set(), "plain": set()}


@pytest.mark.parametrize("links", [""], indirect=True)
def test_without_an_address_there_is_no_link(links):
    assert links == {"book/01_one": set(), "book/02_two": set(), "plain": set()}


def test_the_book_has_the_setting_and_binder_installs_the_lock_and_opens_text_as_notebooks():
    assert "repository_address" in yaml.safe_load(CONFIG.read_text())["sphinx"]["config"]
    folder = ROOT / ".binder"
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["-r ../requirements.lock", "-e ."]
    assert (folder / "postBuild").stat().st_mode & 0o100
