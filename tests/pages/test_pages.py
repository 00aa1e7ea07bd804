"""The rendered pages: what their files say, and what a reader's browser makes of them.

They are those of the smoke book, or those in `$ICL_PAGES`. A browser opens every page twice, so that each
theme, each width and each way to reach the pages has its turn.
"""

import re
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
from bs4 import BeautifulSoup
from sphinx_external_toc.parsing import parse_toc_yaml
from visiting import MISSING, WIDTHS, visit

from icl_book.chapters import TOC
from icl_book.provenance import ROOT

pytestmark = pytest.mark.browser

CHAPTERS = list(parse_toc_yaml(TOC))
PAGES = [*CHAPTERS, "search"]
AXE = ROOT / "node_modules/axe-core/axe.min.js"
MOST_BYTES = 3_000_000
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def each_page(*ways):
    """Parameters: every page in every way. What is asked of one page in one way stays on one worker."""
    for way, name in product(ways, PAGES):
        label = " ".join(map(str, [name, *way]))
        yield pytest.param((name, *way), id=label, marks=pytest.mark.xdist_group(label))


@cache
def parsed(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(), "html.parser")


@cache
def ids(file: Path) -> set[str]:
    return set(re.findall(r'<[^>]* id="([^"]+)"', file.read_text()))


# ------------------------------------------------------------------------------------ the pages' files


@pytest.fixture(params=each_page(()), scope="module")
def file(request, pages) -> Path:
    return pages / f"{request.param[0]}.html"


def test_every_page_is_tested_and_has_its_own_title_and_the_first_leads_to_the_book(pages):
    found = {str(path.relative_to(pages).with_suffix("")) for path in pages.rglob("*.html")}
    assert {name for name in found if not name.startswith("_static/")} - {"index"} <= set(PAGES)
    refresh = parsed(pages / "index.html").find("meta", {"http-equiv": "Refresh"})
    assert refresh["content"] == f"0; url={CHAPTERS[0]}.html"
    titles = Counter(parsed(pages / f"{name}.html").title.get_text() for name in PAGES)
    assert [title for title, times in titles.items() if times > 1] == []


def test_links_lead_somewhere(file, pages):
    """Every file that the page loads is there, and so is what a link within the book names, once."""
    seen = Counter(element["id"] for element in parsed(file).find_all(id=True))
    assert [name for name, times in seen.items() if times > 1] == [], file.name
    loaded = [script["src"] for script in parsed(file).find_all("script", src=True)]
    loaded += [link["href"] for link in parsed(file).find_all("link", rel=["stylesheet", "preload"])]
    assert len(loaded) > 5
    wrong = [path for path in loaded if not (file.parent / path.split("?")[0]).resolve().is_file()]
    for link in parsed(file).find_all("a", href=True):
        address, place = urldefrag(urljoin(file.as_uri(), link["href"]))
        if urlparse(address).scheme != "file":
            continue
        target = Path(unquote(urlparse(address).path))
        if not target.is_file() or not target.is_relative_to(pages):
            wrong.append(f"{link}: no such file")
        elif place and unquote(place) not in ids(target):
            wrong.append(f"{link}: no such place in {target.name}")
    assert wrong == [], file.name


def test_the_page_says_what_it_is(file, pages):
    """A title, a description, what a shared link shows, and an icon."""
    page = parsed(file)
    title = page.title.get_text().strip()
    words = re.sub(r"\s+", " ", page.find("h1").find(string=re.compile(r"[A-Za-z]"))).strip()
    assert words in title, file.name
    parts = title.split(" — ")
    assert len(parts) == len(set(parts)), f"{file.name}: {title!r} says the same twice"
    said = {meta.get("name") or meta.get("property"): meta.get("content") for meta in page.find_all("meta")}
    for name in ("description", "og:title", "og:description", "og:type", "og:image"):
        assert said.get(name), f"{file.name}: no {name}"
    description = said["description"]
    assert 20 <= len(description) <= 320, f"{file.name}: {description!r}"
    assert not re.search(r"[{}\\$]", description), f"{file.name}: {description!r}"
    icon = page.find("link", rel="icon")
    assert (file.parent / icon["href"]).resolve().is_file(), f"{file.name}: {icon}"
    assert page.html["lang"] == "en", file.name


def test_pictures_say_what_they_show(file):
    """An alternative text of several words, not the name of a file."""
    for picture in parsed(file).find_all("img"):
        alt = picture.get("alt", "")
        assert len(alt.split()) >= 3, f"{file.name}: {picture}"
        assert not re.search(r"[0-9a-f]{16}|\.(png|svg|jpe?g)\b|_images", alt), f"{file.name}: {picture}"


# ----------------------------------------------------------------------------------------- in a browser

WAYS = [("http", "light", 1280), ("file", "dark", 390)]


@pytest.fixture(params=each_page(*WAYS), scope="module")
def seen(request, browser, pages, site):
    """A page in a reader's browser."""
    name, scheme, theme, width = request.param
    home = {"http": site, "file": f"{pages.as_uri()}/"}[scheme]
    seen = visit(browser, home, name, theme, width)
    yield seen
    seen.page.context.close()


def test_nothing_fails_nothing_is_missing_and_no_other_host_is_asked(seen):
    assert seen.failed == [], seen
    assert seen.errors == [], seen
    assert {what: found for what, found in seen.page.evaluate(MISSING).items() if found} == {}, seen
    allowed = (seen.home, "data:", "blob:")
    assert [address for address in sorted(seen.asked) if not address.startswith(allowed)] == [], seen
    colour = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 18, 18)"}[seen.theme]
    assert seen.page.evaluate(BACKGROUND) == colour, seen


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_sideways(seen, width):
    found = seen.sideways(width)
    assert found["elements"] == [], f"{seen} at {width} px"
    assert found["page"] <= width, f"{seen} at {width} px"
    if width == max(WIDTHS):  # on a phone a long formula or line of code scrolls in its box
        assert found["formulas"] == [], f"{seen} at {width} px"
        assert found["listings"] == [], f"{seen} at {width} px"


def test_the_page_is_small(seen, pages):
    """What it loads, without the theme's and MathJax's files."""
    apart = tuple(f"{seen.home}_static/{folder}/" for folder in ("mathjax", "scripts", "styles", "vendor"))
    asked = [address for address in seen.asked if not address.startswith(apart)]
    files = [pages / unquote(urlparse(address.removeprefix(seen.home)).path) for address in asked]
    sizes = {file.name: file.stat().st_size for file in files if file.is_file()}
    assert sum(sizes.values()) < MOST_BYTES, f"{seen}: {sizes}"


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (make test installs it where npm is)")
def test_nobody_is_shut_out(seen):
    """axe-core finds nothing serious that bars readers with a keyboard, a screen reader or weak eyes."""
    problems = [
        f"{rule['id']}, {node['target']}: {node['html'][:200]}\n{node['failureSummary']}"
        for rule in seen.barriers(AXE)
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
    assert not problems, "\n".join([str(seen), *problems])


# What only serves a screen, as a reader of the printed page would see it.
OUT_OF_PLACE = """() => {
  const furniture = ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer, " +
    "details:not([open]), .toggle-button, button.copybtn";
  const shown = [...document.querySelectorAll(furniture)].filter((one) => one.checkVisibility());
  const cut = [...document.querySelectorAll("pre")].filter((code) => code.scrollWidth > code.clientWidth + 1);
  return [...shown, ...cut].map((one) => one.outerHTML.slice(0, 200));
}"""


@pytest.mark.parametrize("name", CHAPTERS[:3])
def test_a_printed_page_has_paper_s_colours_and_no_furniture(browser, site, name):
    with browser.new_context(color_scheme="dark", viewport={"width": 700, "height": 1000}) as context:
        page = context.new_page()
        page.goto(f"{site}{name}.html")
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(OUT_OF_PLACE) == [], name
        assert page.evaluate(BACKGROUND) == "rgb(255, 255, 255)", name
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        page.emulate_media(media="screen", color_scheme="dark")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark", name
