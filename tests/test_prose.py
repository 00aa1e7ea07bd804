"""The text of the book: no result typed by hand, commands that run, figures that can be read aloud, labels.

Numbers in the text come from the results, through glue. `ALLOWED` lists every other number, with the reason
why it may stand there: it is a setting, a threshold, a published value or arithmetic.
"""

import itertools
import re
import shlex
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.front_matter import front_matter_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

from icl_lib import chapters, parameters
from icl_lib.provenance import PACKAGE, ROOT

CHAPTERS = {name: one for name, one in chapters.load_chapters().items() if name[:2].isdigit()}
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "book").glob("*.md"))}

# Numbers in any chapter: (pattern, reason).
EVERYWHERE = [
    (r"95% (?:Wilson )?(?:intervals?|bands?|over seeds)", "the level of all intervals"),
    (r"1%-trimmed", "the name of the mean that all chapters on paper A use"),
    (r"[Ll]ayer \d\b", "a layer's index"),
    (r"[Cc]hapters? \d+(?: and \d+)?|Fig\. \d", "a reference"),
    (r"\[[1Hk](?:, (?:[1Hk]|\\dots|\.\.))+\]", "a model's heads, layer by layer"),
    (r"= 1, \\dots,", "the range of an index"),
    (r"(?:=|\\to|>|<) ?0(?![\d.])", "zero: a limit, a start or a symmetry"),
    (r"about (?:a|two|three|four) minutes?", "what a run takes that an exercise asks for"),
    (r"\b1, 2, 4 and 8\b", "the head counts of both papers' figures, and of the profile"),
]

SETTING = "a setting, fixed in the chapter's source"
BAR = "a threshold, fixed before the run"
PUBLISHED = "a number of the paper's or of its code"
DEFINITION = "what a definition gives, not a measurement"
ARITHMETIC = "arithmetic"
CHOSEN = "chosen by the exercise"
DRAWN = "an axis or a mark of the figure, not what was measured"

# Numbers in one chapter: phrase and reason. A phrase is more than its number.
ALLOWED = {
    "00_intro": [
        ("Python 3.11", "a version"),
    ],
    "01_task": [
        ("reference size is $d = 16$, $s = 4$", PUBLISHED),
        ("dense weights, $s = d = 5$", PUBLISHED),
        (r"At $d = 16$, $s = 4$ these are $\binom{16}{4} = 1820$ small linear systems", ARITHMETIC),
    ],
    "02_preprocess_then_optimize": [
        (r"weights of $\pm 1$", SETTING),
        (r"say at $n = 24$ and $\sigma = 0.5$", CHOSEN),
        (r"by sparsity at $\sigma = 0.5$", SETTING),
    ],
    "03_construction": [
        ("A step of 1 would diverge", SETTING),
    ],
    "04_head_counts": [
        ("4 and 8 heads close together", PUBLISHED),
        ("or of 1 and 8, lie in falling", SETTING),
        ("start at mean 0.5", CHOSEN),
    ],
    "05_head_importance": [
        ("from 0 to 1.", DEFINITION),
        ("and 1 when one does everything", DEFINITION),
        ("the worst 1% of the prompts carry", SETTING),
        ("1 means that all is lost", DEFINITION),
        ("With $d = 4$ there are four", CHOSEN),
    ],
    "06_pruning_probing": [
        ("read as four fifths of the way", BAR),
        ("an interval that holds 1.", "the ratio of equals"),
    ],
    "08_when_preprocessing_emerges": [
        ("Sampling alone would give 1;", DEFINITION),
        ("at $m = 0.5$ and", SETTING),
        ("at $m = 1.5$:", SETTING),
        ("with five times as many prompts", SETTING),
        (r"middle term, $8\, \eta^2\, \mathbb E r_j^4$", ARITHMETIC),
        ("less that at 0, at the one-head", DRAWN),
        ("its floor at 0, half-normal", "by symmetry"),
        ("either side of 0.", "by symmetry"),
    ],
    "09_robustness": [
        ("in some the interval now holds 1.", "the ratio of equals"),
        ("With $d = 8$ covariates, how many heads of width 3", CHOSEN),
    ],
    "10_kq_ov_patterns": [
        (r"$\omega = \pm 0.13$ and $\mu = \pm 3.45$", PUBLISHED),
        ("150,000 to 400,000 steps", PUBLISHED),
        ("trains for 500,000 steps", PUBLISHED),
        ("stays within 5% of its final level", SETTING),
        ("For 1 and 2 heads", SETTING),
        ("For 4 and 8 heads", SETTING),
        ("the number of heads, 2 to 8.", DRAWN),
    ],
    "11_debiased_gd": [
        ("hence the 2%.", BAR),
        ("the 2% bar", BAR),
        ("at $L = 10$ and", SETTING),
        ("at $L = 100$, as published", SETTING),
        ("Add 10 to every $y_i$", CHOSEN),
        (r"adds $10 \cdot 2\omega\mu \langle \bar x, x_q \rangle$", CHOSEN),
        ("$H = 2$ without those", SETTING),
    ],
    "12_length_generalization": [
        ("Train at $L = 10$ instead", CHOSEN),
        (r"finds $a = a^\star(L) < 1$", ARITHMETIC),
    ],
    "13_anisotropic": [
        (r"$\rho = 0.5$ in the paper", PUBLISHED),
        ("prompts of $L = 10$ examples", CHOSEN),
    ],
    "14_multitask": [
        ("of its block: 1 to 4, or 3 to 6", SETTING),
        (r"noise of variance $0.1\, d_k$", PUBLISHED),
        ("1 where each serves a single task", DEFINITION),
        ("Which loss is 0.4?", PUBLISHED),
        ("training loss of about 0.4", PUBLISHED),
        ("$N + 1 = 4$ heads", ARITHMETIC),
        ("$2N = 6$ heads", ARITHMETIC),
        ("in output 1 and at y_2 in output 2", "an index"),
        ("for task 1 and task 2 as axes", "an index"),
        ("at 0 and 90 degrees four heads split up, at 45 each", DRAWN),
    ],
    "15_discrepancies": [
        (r"where they are $\pm 1$.", SETTING),
        (r"gaussian, $\pm 1$, 1", SETTING),
        ("A1, risk of most heads / of one: half-normal `…` [`…`, `…`], all 1 `…`", SETTING),
        (r"$\pm 1$ `…` [`…`, `…`]", SETTING),
        ("mean falls to 0", SETTING),
        ("scale 0.5", SETTING),
        ("scale 1", SETTING),
        ("0.1 added again in one table", PUBLISHED),
        ("code: 256, one noisy query", PUBLISHED),
        ("64, four queries, noise averaged out", SETTING),
        (r"std $\sqrt{0.1\, d_k}$, none in the target", PUBLISHED),
        (r"$2 \cdot 0.13 \cdot 3.45 = 0.897$", PUBLISHED),
        ("half-normal or 1, `…` heads reach", SETTING),
        ("with an interval that holds 1, and", "the ratio of equals"),
        (r"`…` for $\pm 1$.", SETTING),
        ("scores between 0 and 1, so", DEFINITION),
        ("a common factor below 1.", ARITHMETIC),
        (r"contains $\sigma^2 = 0.1$; one published table adds 0.1 to it", PUBLISHED),
        ("How much is 0.1?", PUBLISHED),
        ("The code has 256 prompts", PUBLISHED),
        ("ours are 64 prompts with four queries", SETTING),
        ("the published 0.243 at $L = 40$", PUBLISHED),
        ("A batch of 64 prompts of one query", SETTING),
        ("counts both as 256 predictions", ARITHMETIC),
        (r"blocks of $d_k = 4$ coordinates, noise of standard deviation $\sqrt{0.1\, d_k}$", PUBLISHED),
        ("the published training loss of about 0.4", PUBLISHED),
        (r"have $\omega = 0.13$ and $\mu = 3.45$, a product of 0.897", PUBLISHED),
        (r"the loss at $\omega = 0.13$ is", PUBLISHED),
        (r"$\omega \to 0$, at 0.2 it is", SETTING),
        ("The published 0.13, after", PUBLISHED),
        (r"the best step at $\omega = 0.13$ and $L = 40$", PUBLISHED),
        ("$p$ becomes 1 for the pair", ARITHMETIC),
        ("and 0 for all others", ARITHMETIC),
        ("with $L = 40$ a factor of", PUBLISHED),
        ("and at 8 heads the one for a split width", DRAWN),
        ("1 is uniform", DEFINITION),
        ("weights of five times the variance", SETTING),
    ],
}

# ------------------------------------------------------------------------------------------ parsing

PARSER = MarkdownIt("commonmark").enable("table")
PARSER.use(front_matter_plugin).use(dollarmath_plugin, allow_labels=True, double_inline=True)
PARSER.use(myst_role_plugin).use(myst_block_plugin).use(colon_fence_plugin)


class Directive(NamedTuple):
    """A directive of MyST: ```{name} argument, options, content."""

    name: str
    argument: str
    options: dict
    content: str


def directive(token: Token) -> Directive | None:
    """The directive that a fence is, if it is one."""
    found = re.match(r"\{([\w:-]+)\}\s*(.*)", token.info) if token.type.endswith("fence") else None
    if not found:
        return None
    block = re.match(r"---\n(.*?)^---\n", token.content, re.S | re.M)
    lines = re.match(r"(?::[\w-]+:.*\n)*", token.content)
    source = block[1] if block else re.sub(r"^:([\w-]+):", r"\1:", lines[0], flags=re.M)
    return Directive(*found.groups(), yaml.safe_load(source) or {}, token.content[(block or lines).end() :])


def tokens(text: str) -> Iterator[Token]:
    """The blocks of a page, with those inside directives of text."""
    for token in PARSER.parse(text):
        yield token
        found = directive(token)
        if found and found.name not in ("code-cell", "math"):
            yield from tokens(found.content)


def directives(text: str, name: str) -> list[Directive]:
    """The directives of a page that have this name."""
    return [found for found in map(directive, tokens(text)) if found and found.name == name]


def figures(text: str) -> list[tuple[str, str, str]]:
    """Name, caption and alt text of every figure of a chapter."""
    cells = [cell.options.get("mystnb", {}) for cell in directives(text, "code-cell")]
    shown = [(cell["figure"], cell.get("image", {})) for cell in cells if "figure" in cell]
    return [
        (figure.get("name", ""), figure.get("caption", ""), image.get("alt", "")) for figure, image in shown
    ]


def paragraphs(text: str) -> Iterator[str]:
    """The text that a reader sees, captions and alt texts too; math in dollars, code and roles as `…`."""
    for token in tokens(text):
        found = directive(token)
        if token.type == "inline":
            yield "".join(map(_spell, token.children))
        elif token.type.startswith("math_block"):
            yield f"${token.content}$"
        elif found and found.name == "math":
            yield f"${found.content}$"
        elif found and found.name not in ("code-cell", "solution"):
            yield from paragraphs(found.argument)
    for _, caption, alt in figures(text):
        yield from paragraphs(caption)
        yield from paragraphs(alt)


def _spell(token: Token) -> str:
    number = token.type == "code_inline" and re.fullmatch(r"[\d.,%]+", token.content)
    if number or token.type in ("text", "html_inline"):
        return token.content
    if token.type.startswith("math_inline"):
        return f"${token.content}$"
    return {"softbreak": " ", "code_inline": "`…`", "myst_role": "`…`"}.get(token.type, "")


# ------------------------------------------------------------------------------------------ numbers

_WORD = "two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|forty|fifty|hundred|thousand"
_PART = "half|thirds?|quarters?|fifths?|sixths?|tenths?"
_NEAR = "about|around|nearly|almost|roughly|near"
SPELLED = re.compile(
    rf"(?i)\b(?:{_WORD})(?:-?fold| times| percent)\b|\b(?:factor of|one in) (?:{_WORD})\b"
    rf"|\b(?:{_WORD}) (?:{_PART})\b|\b(?:{_WORD}) and a half\b"
    rf"|\b(?:{_NEAR}|to) (?:an? |one )?(?:{_PART})\b|\b(?:{_NEAR}) (?:twice|{_WORD})\b"
)
RELATION = r"=|\\(?:approx|sim|simeq|leq?|geq?|ll|gg|pm|mp|times|cdot|to|in|q?quad)\b|[<>,;]|\\[,;:!\\]|&"


def numbers(paragraph: str) -> list[str]:
    """The numbers in a paragraph, but for those allowed everywhere.

    In the text every number, and the commonest ways to write one in words. In math every decimal fraction,
    and every integer that stands alone on one side of a relation: others are indices, powers and factors.
    """
    for pattern, _ in EVERYWHERE:
        paragraph = re.sub(pattern, "", paragraph)
    found = []
    for inside, part in enumerate(paragraph.split("$")):
        if inside % 2:
            found += re.findall(r"\d*\.\d+", part)
            sides = re.split(RELATION, re.sub(r"\d*\.\d+", "", part))
            found += [side.strip() for side in sides if re.fullmatch(r"[\s+-]*\d[\d{}]*(\\?%)?\s*", side)]
        else:
            found += re.findall(r"(?<![\w.])\.?\d(?:[\d.,]*\d)?%?", part)
            found += SPELLED.findall(part)
    return found


@pytest.mark.parametrize(
    "typed",
    [
        "The risk is 0.87 times ridge's.",
        "The risk is $0.87$ times ridge's.",
        "The ratio is $\\approx 3.2$.",
        "The ratio is $\\rho \\approx 3$ here.",
        "It has $3$ times the risk.",
        "It has $3\\times$ the risk.",
        "It has 3 times the risk.",
        "It has three times the risk.",
        "A gain of 40% is left.",
        "A gain of $40\\%$ is left.",
        "A gain of forty percent is left.",
        "It is lower by a factor of five.",
        "It takes 1,500 steps.",
        "About a third of the models leave.",
        "One in seven gets stuck, and one in ten leaves.",
        "It holds in 11 of 12 seeds.",
        "Its mean is .5 at the end, not `0.7`.",
        "95% of the models split up.",
        "- in a list, **0.3**\n- [link of 7](01_task)",
        "| a | table |\n|---|---|\n| risk | 0.4 |",
        ":::{exercise}\n:label: ex-1\nIt is 0.25.\n:::",
        ":::{exercise}\n:label: ex-1\n:::\n\n:::{solution} ex-1\n:class: dropdown\nIt is $w = 7$.\n:::",
        "```{code-cell} ipython3\n---\nmystnb:\n  figure:\n    name: fig-a\n    caption: >\n      Near 0.3.\n"
        "  image:\n    alt: A line.\n---\nx = 1\n```",
        "```{code-cell} ipython3\n---\nmystnb:\n  figure:\n    name: fig-a\n    caption: Risk.\n  image:\n"
        "    alt: Ends at half of it, about half.\n---\nx = 1\n```",
        "$$\nw = 0.31\n$$ (eq-w)",
    ],
)
def test_a_result_typed_by_hand_is_found(typed):
    assert any(map(numbers, paragraphs(typed)))


@pytest.mark.parametrize(
    "fine",
    [
        "The risk is {glue:text}`risk:.2f` [{glue:text}`low:.2f`] times that of A1, $2 \\omega \\mu$ high.",
        "By {eq}`eq-1` and {numref}`fig-2` it is $1 / (1 + (1 + \\sigma^2) d / L)$ for $i = 1, \\dots, n$.",
        "Bands are 95% intervals over seeds of the 1%-trimmed mean in layer 1 of [chapter 9](09_robustness).",
        "Run `make chapter CHAPTER=01_task ARGS='-p s 16'` with `s = 3`.",
        "```bash\nmake chapter CHAPTER=01_task ARGS='-p s 16'\n```",
        "```{code-cell} ipython3\n:tags: [hide-input]\n\nx = 0.3\n```",
        "$$\nw = \\frac12 x^2 + 2 y_3\n$$ (eq-w2)",
        "Two heads and four layers.",
    ],
)
def test_other_numbers_are_no_results(fine):
    assert not any(map(numbers, paragraphs(fine)))


@pytest.mark.parametrize("name", CHAPTERS)
def test_results_in_the_text_are_glued(name):
    """What is found here belongs in the results (`record.number`), or in `ALLOWED` with a reason."""
    phrases = [phrase for phrase, _ in ALLOWED.get(name, [])]
    used, typed = set(), []
    for paragraph in paragraphs(CHAPTERS[name].text):
        rest = paragraph
        for phrase in phrases:
            if phrase in rest:
                used.add(phrase)
                rest = rest.replace(phrase, "")
        if found := numbers(rest):
            typed.append((found, paragraph))
    assert not typed
    assert used == set(phrases)  # the list holds nothing that is gone


def test_every_allowed_number_has_a_reason():
    assert ALLOWED.keys() <= CHAPTERS.keys()
    for phrase, reason in itertools.chain(*ALLOWED.values()):
        assert reason
        assert numbers(phrase), phrase
        assert re.search(r"[a-z]{2}", phrase), phrase  # a bare number would allow too much
        assert phrase.count("$") % 2 == 0, phrase  # whole formulas


# ----------------------------------------------------------------------------------------- commands


def commands() -> list[tuple[str, str]]:
    """Every `make chapter` of the book and the README: page, command."""
    texts = PAGES | {"README": (ROOT / "README.md").read_text()}
    pattern = r"^ *(make chapter .*)$|`(make chapter [^`]*)`"
    found = [(name, a or b) for name, text in texts.items() for a, b in re.findall(pattern, text, re.M)]
    return [(name, command) for name, command in found if "CHAPTER=..." not in command]


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_are_accepted(page, command, tmp_path):
    """By the driver's own reading and checking, with the values that the profile adds."""
    given = dict(word.split("=", 1) for word in shlex.split(command)[2:])
    assert set(given) == {"CHAPTER", "ARGS"}, page
    chapter = CHAPTERS[given["CHAPTER"]]
    source = tmp_path / f"{chapter.name}.ipynb"
    nbformat.write(chapter.notebook(), source)
    flags = chapters.read_flags(source, shlex.split(given["ARGS"]))  # make's shell splits them again
    assert flags
    profile = flags.pop("profile", "laptop")
    parameters.resolve(chapter.name, profile, **flags)


@pytest.mark.parametrize("name", [name for name in CHAPTERS if "01" <= name[:2] <= "09"])
def test_every_chapter_of_part_a_invites_a_run(name):
    """Every exercise has a folded solution, and one of them the command."""
    asked = {one.options["label"]: one.content for one in directives(PAGES[name], "exercise")}
    solved = {one.argument: one for one in directives(PAGES[name], "solution")}
    assert asked.keys() == solved.keys()
    assert all(one.options.get("class") == "dropdown" for one in solved.values())
    block = f"```bash\nmake chapter CHAPTER={name} ARGS="
    assert any(block in asked[label] + solved[label].content for label in asked)


# ------------------------------------------------------------------------- figures, labels, symbols


def test_figures_say_what_they_show():
    shown = [(page, *figure) for page in CHAPTERS for figure in figures(PAGES[page])]
    for page, name, caption, alt in shown:
        assert name.startswith("fig-"), page
        for text in (caption, alt):
            assert len(text.split()) >= 8, (page, name)  # not empty, and no hash or file name
    for column in (1, 2, 3):
        assert not [text for text, times in Counter(row[column] for row in shown).items() if times > 1]


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_cell_that_draws_is_a_figure(name):
    for cell in directives(PAGES[name], "code-cell"):
        if re.search(r"plt\.(subplots|figure)\(|figures\.panels\(", cell.content):
            assert "figure" in cell.options.get("mystnb", {}), cell.content[:80]


def labels(text: str) -> list[str]:
    """Every label of a page: equations, figures, exercises, algorithms, targets."""
    found = [token.info for token in tokens(text) if token.type == "math_block_label"]
    found += [one.options["label"] for one in map(directive, tokens(text)) if one and "label" in one.options]
    found += re.findall(r"^\(([\w-]+)\)=$", text, re.M)
    return found + [name for name, *_ in figures(text)]


def test_labels_are_unique_and_every_display_equation_has_one():
    found = Counter(label for text in PAGES.values() for label in labels(text))
    assert not [label for label, times in found.items() if times > 1]
    for name, text in PAGES.items():
        assert not [token.content for token in tokens(text) if token.type == "math_block"], name
        assert all("label" in one.options for one in directives(text, "math")), name


def test_equations_are_referred_to_by_number():
    everything = "\n".join(PAGES.values())
    targets = set(re.findall(r"\{eq\}`([\w-]+)`", everything))
    assert targets <= {label for text in PAGES.values() for label in labels(text)}
    assert not re.findall(r"\b(?:formula|equation)s? (?:above|below)\b", everything)


def identifiers() -> set[str]:
    """The names in the library's code, and its strings of one word: keys of weights."""
    found = set()
    for path in PACKAGE.glob("*.py"):
        for token in tokenize.generate_tokens(path.open().readline):
            if token.type in (tokenize.NAME, tokenize.STRING):
                found.add(token.string.strip("\"'"))
    return found


def symbols() -> list[list[str]]:
    """The rows of the table of symbols: symbol, code, shape, meaning."""
    rows = re.findall(r"^\|(.*)\|$", PAGES["symbols"], re.M)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]
    return [row for row in cells if row[0] != "symbol" and not row[0].startswith("---")]


def test_the_table_of_symbols_has_the_names_of_the_code():
    known = identifiers()
    rows = symbols()
    assert len(rows) > 30
    for symbol, code, shape, meaning in rows:
        assert all((symbol, shape, meaning))
        names = re.findall(r"`([^`]+)`", code)
        assert names, symbol
        for name in names:
            assert set(re.findall(r"[A-Za-z_]\w*", name)) <= known, (symbol, name)


def test_the_bibliography_has_what_is_cited():
    keys = re.findall(r"^@\w+\{(\w+),", Path(ROOT / "book/references.bib").read_text(), re.M)
    cited = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", "\n".join(PAGES.values()))
    assert sorted(keys) == sorted({key.strip() for group in cited for key in group.split(",")})
