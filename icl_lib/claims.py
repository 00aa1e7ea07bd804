"""The claims of the two papers, and the verdict on each.

A claim is tested by one or more `Test`s, each a number with a threshold that a chapter fixes in its source
before the run, and says why. The verdict on a test compares its 95% interval over seeds with the threshold:
all of it on the right side is `reproduced`, all on the wrong side `not reproduced`, else `partly`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icl_lib import checks
from icl_lib.intervals import Interval
from icl_lib.papers import CLAIMS, Claim

OVER_SEEDS = "95% interval over seeds"  # what an interval is where nothing else is said
REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_TESTED = "reproduced", "partly", "not reproduced", "not tested"
_SIGNS = {REPRODUCED: "●", PARTLY: "◆", NOT_REPRODUCED: "✕", NOT_TESTED: "○"}  # as in the figures


@dataclass(frozen=True)
class Test:
    """One number that a claim is judged by, written down before the run."""

    __test__ = False  # not a test case of pytest's

    id: str  # the claim's id, a dot and a name: "A5.ridge"
    metric: str  # what is measured
    sense: str  # "<=" or ">=": the side of the threshold on which the claim holds
    threshold: float
    reason: str  # for this threshold

    def __post_init__(self):
        checks.one_of("claim", self.id.split(".")[0], CLAIMS)
        checks.one_of("sense", self.sense, ("<=", ">="))
        checks.number("threshold", self.threshold)

    @property
    def claim(self) -> Claim:
        """The claim that the test belongs to."""
        return CLAIMS[self.id.split(".")[0]]


def verdict(test: Test, value: Interval) -> str:
    """The verdict on one test."""
    low, high = (value.low, value.high) if test.sense == "<=" else (-value.high, -value.low)
    threshold = test.threshold if test.sense == "<=" else -test.threshold
    if high <= threshold:
        return REPRODUCED
    return NOT_REPRODUCED if low > threshold else PARTLY


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its tests: what they agree on, else `partly`."""
    if not verdicts:
        return NOT_TESTED
    return verdicts[0] if len(set(verdicts)) == 1 else PARTLY


def summary(results: Mapping[str, Mapping]) -> str:
    """Markdown: how many claims have which verdict, and which they are, with their tests."""
    verdicts = {claim: [test["verdict"] for _, test in tests] for claim, tests in _found(results).items()}
    every = [outcome for of_claim in verdicts.values() for outcome in of_claim]
    lines = []
    for outcome in _SIGNS:
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
    for name, tests in _found(results).items():
        claim = CLAIMS[name]
        shown = _link(name) if tests else name
        figures = ", ".join(f"{{numref}}`{label}`" for label in claim.figures if label in labels)
        joint = signed(overall([test["verdict"] for _, test in tests]))
        lines.append(
            f"| **{shown}** {claim.statement} | {claim.source}: {claim.published} | {figures} | **{joint}** |"
        )
        for chapter, test in tests:
            where = "" if chapter == claim.chapter else f" ([chapter {int(chapter[:2])}]({chapter}))"
            lines.append(
                f"| {test['metric']}{where} | {_bar(test)} | {_value(test)} | {signed(test['verdict'])} |"
            )
    return "\n".join(lines)


def bar(sense: str, threshold: float) -> str:
    """A test's side and threshold as a page shows them."""
    return f"{'≤' if sense == '<=' else '≥'}\N{NO-BREAK SPACE}{threshold:.3g}"


def rows(tests: Sequence[Mapping]) -> str:
    """Markdown: the tests of one results file and their verdicts."""
    lines = ["| claim | measured | value [95% interval] | bar | verdict |", "|---|---|---|---|---|"]
    for test in tests:
        parts = (test["id"], test["metric"], _value(test), _bar(test), signed(test["verdict"]))
        lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def _found(results: Mapping[str, Mapping]) -> dict[str, list[tuple[str, Mapping]]]:
    """The tests of every claim, each with its chapter.

    Raises LookupError when a claim's own chapter is there and has no test of it.
    """
    found: dict[str, list[tuple[str, Mapping]]] = {claim: [] for claim in CLAIMS}
    for chapter, contents in results.items():
        for test in contents.get("claims", ()):
            found[test["claim"]].append((chapter, test))
    for claim in CLAIMS.values():
        if claim.chapter in results and claim.chapter not in {chapter for chapter, _ in found[claim.id]}:
            raise LookupError(f"{claim.chapter}: its results have no test of claim {claim.id}")
    return found


def _link(claim: str) -> str:
    return f"[{claim}]({CLAIMS[claim].chapter})"


def _bar(test: Mapping) -> str:
    return bar(test["sense"], test["threshold"])


def _value(test: Mapping) -> str:
    low, high = test["interval"]
    value = f"{test['value']:.3g} [{low:.3g},\N{NO-BREAK SPACE}{high:.3g}]"
    return value if test["interval_kind"] == OVER_SEEDS else f"{value} ({test['interval_kind']})"


def signed(outcome: str) -> str:
    """A verdict and its sign: two cues, and a third by colour on the pages."""
    sign = f'<span class="{outcome.replace(" ", "-")}" aria-hidden="true">{_SIGNS[outcome]}</span>'
    return f"{sign}\N{NO-BREAK SPACE}{outcome}"
