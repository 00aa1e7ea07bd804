"""The first page: the claims, our answers, and the tests behind them."""

from collections.abc import Mapping

import pandas as pd

from icl_book import frames, ledger
from icl_book.claims import (
    CLAIMS,
    NOT_TESTED,
    WORDS,
    bar,
    counts,
    overall,
    shown_value,
    signed,
)


def summary(results: Mapping[str, Mapping]) -> str:
    """Markdown: how many claims have which answer, and which they are."""
    verdicts = {claim: [test["verdict"] for _, test in tests] for claim, tests in tests_of(results).items()}
    every = [outcome for of_claim in verdicts.values() for outcome in of_claim]
    lines = []
    for word in (*WORDS, NOT_TESTED):
        names = [_link(claim) for claim, found in verdicts.items() if overall(found) == word]
        if names:
            lines.append(f"- *{word}*: **{len(names)}** of {len(verdicts)} claims ({', '.join(names)})")
    return "\n".join([*lines, "", f"In all, {counts(every)}."])


def table(results: Mapping[str, Mapping]) -> str:
    """Markdown: every claim with our answer, its tests and verdicts, from the results files of the chapters.

    A row that begins with a code is a claim, with the paper's figure and ours; its tests follow, with our
    threshold and our value. Chapters beside its own may test a claim, too.
    """
    head = ["claim, and what is measured", "the paper; our threshold"]
    head += ["our figure; value [95% interval]", "answer; verdict"]
    rows = []
    labels = {label for found in results.values() for label in found.get("figures", ())}
    for name, tests in tests_of(results).items():
        claim = CLAIMS[name]
        figures = ", ".join(f"{{numref}}`{label}`" for label in claim.figures if label in labels)
        shown = f"**{_link(name) if tests else name}** {claim.statement}"
        rows.append([shown, f"{claim.source}: {claim.shown()}", figures, answer(name, tests)])
        for chapter, test in tests:
            where = "" if chapter == claim.chapter else f" ([chapter {int(chapter[:2])}]({chapter}))"
            value = shown_value({**test, "seeds": []})  # the chapter has them one by one
            rows.append([f"{test['metric']}{where}", bar(test), value, signed(test["verdict"])])
    return frames.markdown(pd.DataFrame(rows, columns=head), index=False)


def answer(claim: str, tests: list[tuple[str, Mapping]]) -> str:
    """Our answer to a claim: a word, the count of its tests, and a sentence where it is of these verdicts."""
    verdicts = [test["verdict"] for _, test in tests]
    committed = ledger.committed()
    same = all(committed.get(test["id"]) == test["verdict"] for _, test in tests)
    sentence = f" {CLAIMS[claim].answer}" if tests and same else ""
    counted = f" ({counts(verdicts)})." if tests else ""
    return f"**{overall(verdicts)}**{counted}{sentence}"


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
