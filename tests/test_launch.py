"""The button that opens a chapter on Binder: there with the setting, absent without it."""

import io
from urllib.parse import parse_qs, unquote, urlparse

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from icl_lib.book import CONFIG
from icl_lib.chapters import BOOK
from icl_lib.provenance import ROOT

ADDRESS = "https://git.example.org/someone/a book.git"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


@pytest.fixture
def links(tmp_path, monkeypatch):
    """Renders three pages with the setting; which addresses outside the book each page then links to."""
    monkeypatch.syspath_prepend(BOOK / "_ext")
    source = tmp_path / "src"
    (source / "book").mkdir(parents=True)
    cell = nbformat.v4.new_markdown_cell("# A title")
    for name, metadata in {"01_one": {}, "02_two": {"reads": "all"}}.items():
        notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": KERNEL, **metadata})
        nbformat.write(notebook, source / "book" / f"{name}.ipynb")
    (source / "plain.md").write_text("# Plain\n\n```{toctree}\nbook/01_one\nbook/02_two\n```\n")

    def render(address):
        settings = {
            "extensions": ["myst_nb", "sphinx_book_theme", "launch"],
            "html_theme": "sphinx_book_theme",
            "root_doc": "plain",
            "nb_execution_mode": "off",
            "repository_address": address,
        }
        out = tmp_path / "out"
        with patch_docutils(), docutils_namespace():
            app = Sphinx(
                source,
                None,
                out,
                tmp_path / "trees",
                "html",
                settings,
                status=None,
                warning=io.StringIO(),
                freshenv=True,
            )
            app.build(force_all=True)
        found = {}
        for page in ("book/01_one", "book/02_two", "plain"):
            soup = BeautifulSoup((out / f"{page}.html").read_text(), "html.parser")
            found[page] = {link["href"] for link in soup.find_all("a", href=True) if "binder" in link["href"]}
            assert "binder" not in str(soup.find_all(["script", "link", "img"]))
        return found

    return render


def test_with_an_address_a_chapter_opens_on_binder(links):
    found = links(ADDRESS)
    (link,) = found["book/01_one"]
    place, query = urlparse(link), parse_qs(urlparse(link).query)
    kind, version, provider, repository, ref = place.path.split("/")
    assert (place.scheme, place.netloc) == ("https", "mybinder.org")
    assert (kind, version, provider, unquote(repository), ref) == ("", "v2", "git", ADDRESS, "HEAD")
    assert query == {"labpath": ["book/01_one.md"]}  # the text notebook: no .ipynb is in the repository
    assert found["book/02_two"] == found["plain"] == set()  # the one needs a book, the other is no notebook


def test_without_an_address_there_is_no_link(links):
    assert links("") == {"book/01_one": set(), "book/02_two": set(), "plain": set()}


def test_the_book_itself_has_the_setting():
    assert "repository_address" in yaml.safe_load(CONFIG.read_text())["sphinx"]["config"]


def test_binder_installs_the_lock_and_opens_text_as_notebooks():
    folder = ROOT / ".binder"
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["-r ../requirements.lock", "-e ."]
    assert (folder / "postBuild").stat().st_mode & 0o100
