"""The first page: what the papers claim and published, in our words, and where this book tests it."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_book.claims import (
    NOT_REPRODUCED,
    NOT_TESTED,
    PARTLY,
    REPRODUCED,
    SIGNS,
    bar_of,
    overall,
    shown_value,
    signed,
)
from icl_book.published import LOSS


@dataclass(frozen=True)
class Claim:
    """What a paper claims, in our words, and where this book tests it: see claims.toml."""

    id: str
    statement: str
    source: str  # where in the paper
    chapter: str
    figures: Sequence[str]
    published: str = ""  # what stands there, in our words, or ...
    losses: Sequence[str] = ()  # ... the predictors whose published losses it is about

    def shown(self) -> str:
        """What stands in the paper, in a line."""
        found = [f"{' / '.join(map(str, LOSS[name].values()))} ({name})" for name in self.losses]
        return (
            self.published
            or f"loss at L = {' / '.join(map(str, LOSS[self.losses[0]]))} is {', '.join(found)}"
        )


CLAIMS_FILE = Path(__file__).with_name("claims.toml")
CLAIMS = {
    name: Claim(name, **fields)
    for name, fields in tomllib.loads(CLAIMS_FILE.read_text(encoding="utf-8")).items()
}


def summary(results: Mapping[str, Mapping]) -> str:
    """Markdown: how many claims have which verdict, and which they are, with their tests."""
    verdicts = {claim: [test["verdict"] for _, test in tests] for claim, tests in tests_of(results).items()}
    every = [outcome for of_claim in verdicts.values() for outcome in of_claim]
    lines = []
    for outcome in SIGNS:
        names = [
            f"{_link(claim)} {found.count(REPRODUCED)}/{len(found)}" if found else claim
            for claim, found in verdicts.items()
            if overall(found) == outcome
        ]
        if names or outcome != NOT_TESTED:
            listed = f" ({', '.join(names)})" if names else ""
            lines.append(f"- {signed(outcome)}: **{len(names)}** of {len(verdicts)} claims{listed}")
    counts = ", ".join(
        f"{every.count(outcome)} {outcome}" for outcome in (REPRODUCED, PARTLY, NOT_REPRODUCED)
    )
    return "\n".join(
        [*lines, "", f"The fractions are tests reproduced. Of all {len(every)} tests: {counts}."]
    )


def table(results: Mapping[str, Mapping]) -> str:
    """Markdown: every claim, its tests and verdicts, from the results files of the chapters in the book.

    A row that begins with a code is a claim, with the paper's figure and ours; its tests follow, with our
    bar and our value. Chapters beside its own may test a claim, too.
    """
    lines = [
        "| claim, and what is measured | the paper; our bar | our figure; value [95% interval] | verdict |",
        "|---|---|---|---|",
    ]
    labels = {label for found in results.values() for label in found.get("figures", ())}
    for name, tests in tests_of(results).items():
        claim = CLAIMS[name]
        shown = _link(name) if tests else name
        figures = ", ".join(f"{{numref}}`{label}`" for label in claim.figures if label in labels)
        joint = signed(overall([test["verdict"] for _, test in tests]))
        lines.append(
            f"| **{shown}** {claim.statement} | {claim.source}: {claim.shown()} | {figures} | **{joint}** |"
        )
        for chapter, test in tests:
            where = "" if chapter == claim.chapter else f" ([chapter {int(chapter[:2])}]({chapter}))"
            parts = (f"{test['metric']}{where}", bar_of(test), shown_value(test), signed(test["verdict"]))
            lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def tests_of(results: Mapping[str, Mapping]) -> dict[str, list[tuple[str, Mapping]]]:
    """The tests of every claim, each with its chapter.

    Raises LookupError when a claim's own chapter is there and has no test of it, or a test has no claim.
    """
    found: dict[str, list[tuple[str, Mapping]]] = {claim: [] for claim in CLAIMS}
    for chapter, contents in results.items():
        for test in contents.get("claims", ()):
            if test["claim"] not in CLAIMS:
                raise LookupError(f"{chapter}: {test['id']} is of no claim: allowed are {', '.join(CLAIMS)}")
            found[test["claim"]].append((chapter, test))
    for claim in CLAIMS.values():
        if claim.chapter in results and claim.chapter not in {chapter for chapter, _ in found[claim.id]}:
            raise LookupError(f"{claim.chapter}: its results have no test of claim {claim.id}")
    return found


def _link(claim: str) -> str:
    return f"[{claim}]({CLAIMS[claim].chapter})"
