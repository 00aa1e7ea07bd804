"""Verdicts: what a claim is judged by, and how.

A claim is tested by one or more `Criterion`s, each a number with a threshold that a chapter fixes in its
source before the run, and says why. The verdict on a test compares its 95% interval over seeds with the
threshold: all of it on the right side is `reproduced`, all on the wrong side `not reproduced`, else `partly`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icl_lib import checks
from icl_lib.evaluation import Interval

OVER_SEEDS = "95% interval over seeds"  # what an interval is where nothing else is said
REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_TESTED = "reproduced", "partly", "not reproduced", "not tested"
SIGNS = {REPRODUCED: "●", PARTLY: "◆", NOT_REPRODUCED: "✕", NOT_TESTED: "○"}  # as in the figures


@dataclass(frozen=True)
class Criterion:
    """One number that a claim is judged by, written down before the run."""

    id: str  # the claim's id, a dot and a name: "A5.ridge"
    metric: str  # what is measured
    sense: str  # "<=" or ">=": the side of the threshold on which the claim holds
    threshold: float
    reason: str  # for this threshold

    def __post_init__(self):
        checks.one_of("sense", self.sense, ("<=", ">="))
        checks.number("threshold", self.threshold)

    @property
    def claim(self) -> str:
        """The claim that it belongs to."""
        return self.id.split(".")[0]


def verdict(test: Criterion, value: Interval) -> str:
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


def bar(sense: str, threshold: float) -> str:
    """A test's side and threshold as a page shows them."""
    return f"{'≤' if sense == '<=' else '≥'}\N{NO-BREAK SPACE}{threshold:.3g}"


def bar_of(test: Mapping) -> str:
    """The `bar` of a test in a results file."""
    return bar(test["sense"], test["threshold"])


def rows(tests: Sequence[Mapping]) -> str:
    """Markdown: the tests of one results file and their verdicts."""
    lines = ["| claim | measured | value [95% interval] | bar | verdict |", "|---|---|---|---|---|"]
    for test in tests:
        parts = (test["id"], test["metric"], shown_value(test), bar_of(test), signed(test["verdict"]))
        lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def shown_value(test: Mapping) -> str:
    """A test's number as a page shows it, with its interval."""
    low, high = test["interval"]
    shown = f"{test['value']:.3g} [{low:.3g},\N{NO-BREAK SPACE}{high:.3g}]"
    return shown if test["interval_kind"] == OVER_SEEDS else f"{shown} ({test['interval_kind']})"


def signed(outcome: str) -> str:
    """A verdict and its sign: two cues, and a third by colour on the pages."""
    sign = f'<span class="{outcome.replace(" ", "-")}" aria-hidden="true">{SIGNS[outcome]}</span>'
    return f"{sign}\N{NO-BREAK SPACE}{outcome}"
