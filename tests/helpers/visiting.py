"""A visit of a page in a browser: what it asks for, what goes wrong, how it looks."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

WIDTHS = (390, 1280)  # a phone and a laptop, CSS pixels
HEIGHT = 900

# What is folded is opened, to be seen too; then all that the page still has to do by itself: its mathematics,
# pictures that wait for the reader to come near, and letters.
SETTLED = """async () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const button of document.querySelectorAll(".toggle-button-hidden")) button.click();
  await globalThis.MathJax?.startup?.promise;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  await document.fonts.ready;
}"""

# What should be shown and is not, by kind.
MISSING = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const text = (element) => element.textContent;
  return {
    "formulas not rendered": all(".math").filter((place) => !place.querySelector("mjx-container")).map(text),
    "formulas with errors": all("mjx-merror, [data-mjx-error]").map(text),
    "pictures not loaded": all("img").filter((image) => !image.naturalWidth).map((image) => image.src),
    "explorables not started": all(".explorable:not([data-ready])").map((root) => root.dataset.explorable),
  };
}"""

# Elements of the content beyond the right edge that the reader cannot scroll to: no box around them scrolls.
CUT_OFF = """async () => {
  document.body.getBoundingClientRect(); // starts what glides to its new place
  await Promise.all(document.getAnimations().map((glide) => glide.finished.catch(() => {})));
  const width = document.documentElement.clientWidth;
  const right = (element) => Math.floor(element.getBoundingClientRect().right);
  const scrolls = (box) => /auto|scroll/.test(getComputedStyle(box).overflowX) && right(box) <= width;
  const found = [];
  for (const element of document.querySelectorAll(".bd-article *")) {
    if (right(element) <= width || element.closest("mjx-assistive-mml")) continue;
    let holder = element.parentElement;
    while (holder && !scrolls(holder)) holder = holder.parentElement;
    if (!holder) found.push(`${element.outerHTML.slice(0, 120)} reaches ${right(element)} of ${width} px`);
  }
  const formulas = [...document.querySelectorAll("div.math mjx-container")]
    .filter((place) => place.scrollWidth > place.clientWidth + 1).map((place) => place.parentElement.id);
  const listings = [...document.querySelectorAll("div.highlight pre")]
    .filter((code) => code.scrollWidth > code.clientWidth + 1).map((code) => code.textContent.slice(0, 200));
  return { page: document.documentElement.scrollWidth, elements: found.slice(0, 5), formulas, listings };
}"""


@dataclass(repr=False)
class Visit:
    """A page that was opened, and what was noticed; an empty list is a good one."""

    page: Page
    home: str  # the address of the folder of all pages
    theme: str
    width: int
    asked: set[str] = field(default_factory=set)  # every address that the page loads
    errors: list[str] = field(default_factory=list)  # of the console and of scripts
    failed: list[str] = field(default_factory=list)  # requests without an answer, or with 404 and the like

    def __repr__(self):
        return f"{self.page.url} ({self.theme}, {self.width} px)"

    def sideways(self, width: int) -> dict:
        """At that width of the window: how wide the page is, and which elements stick out of it."""
        self.page.set_viewport_size({"width": width, "height": HEIGHT})
        return self.page.evaluate(CUT_OFF)

    def barriers(self, axe: Path) -> list[dict]:
        """The violations that axe-core finds, at the width of the visit."""
        self.page.set_viewport_size({"width": self.width, "height": HEIGHT})
        # The theme waits 300 ms before it lets boxes that scroll have the focus.
        self.page.wait_for_timeout(500)
        self.page.evaluate(axe.read_text())
        # Without its preload, which asks for the style sheets again and from disk may not have them.
        options = "{ resultTypes: ['violations'], preload: false }"
        return self.page.evaluate(f"axe.run(document, {options})")["violations"]


def visit(browser: Browser, home: str, name: str, theme: str = "light", width: int = 1280) -> Visit:
    """Open a page in the reader's colours and window, unfold what is folded, and wait until it is at rest."""
    context = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=theme)
    seen = Visit(context.new_page(), home, theme, width)

    def answered(response):
        if response.status >= 400:
            seen.failed.append(f"{response.url}: {response.status}")

    def said(message):
        if message.type in ("error", "warning"):
            seen.errors.append(message.text)

    seen.page.on("request", lambda request: seen.asked.add(request.url))
    seen.page.on("requestfailed", lambda request: seen.failed.append(f"{request.url}: {request.failure}"))
    seen.page.on("response", answered)
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    seen.page.on("console", said)
    seen.page.goto(f"{home}{name}.html")
    seen.page.evaluate(SETTLED)
    return seen


# What an explorable says of itself, the data it came with, the numbers that it shows (unrounded and as text),
# its sliders' values (seen and read aloud), its pictures in words, and more.
STATE = """(root) => JSON.stringify({
  ...root.state(),
  data: JSON.parse(root.querySelector("script[type='application/json']").textContent),
  numbers: Object.fromEntries([...root.querySelectorAll("[data-number]")]
    .map((place) => [place.dataset.number, [place.dataset.value, place.textContent]])),
  settings: Object.fromEntries([...root.querySelectorAll("input")]
    .map((input) => [input.name, [input.nextElementSibling.textContent, input.ariaValueText]])),
  pictures: [...root.querySelectorAll("svg[role=img]")].map((svg) => svg.getAttribute("aria-label")),
  MORE
}, (_, value) => (value instanceof Float64Array ? [...value] : value))"""


def state(root: Locator, more: str) -> dict:
    """What an explorable shows now; `more` are properties of a JavaScript object."""
    return json.loads(root.evaluate(STATE.replace("MORE", more)))


def three_digits(text: str) -> object:
    """A number that a page shows with three digits, to be compared."""
    return pytest.approx(float(text), rel=5.001e-3)


def check_numbers(shown: dict, expected: dict[str, float]) -> None:
    """In an explorable's state the numbers are those that the library computes; sliders say their values."""
    for name, (text, said) in shown["settings"].items():
        assert text == said
        assert shown[name] == three_digits(text), name
    assert shown["numbers"].keys() == expected.keys()
    for name, (value, text) in shown["numbers"].items():
        assert float(value) == pytest.approx(expected[name], rel=1e-6), name
        assert expected[name] == three_digits(text), name


def slide(root: Locator, name: str, share: float) -> None:
    """Click a slider at a share of its length."""
    slider = root.locator(f"input[name={name}]")
    box = slider.bounding_box()
    slider.click(position={"x": share * box["width"], "y": box["height"] / 2})


def button(root: Locator, text: str) -> Locator:
    """The button of that name in a part of a page."""
    return root.get_by_role("button", name=text, exact=True)


def press(root: Locator, *keys: str) -> None:
    """Press keys of the keyboard in turn."""
    for key in keys:
        root.page.keyboard.press(key)
