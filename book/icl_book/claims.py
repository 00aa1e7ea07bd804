"""Claims and verdicts: what the papers claim, what each claim is judged by, and how.

claims.toml has every claim with its tests. A test is a number with a threshold that is fixed there, with its
reason, before the run. Its verdict compares the 95% interval over seeds with the threshold: all of it on the
right side is `reproduced`, all on the wrong side `not reproduced`; where it holds the threshold the test is
`undecided`.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

import pandas as pd
from numpy.typing import ArrayLike

from icl_book import frames
from icl_book.published import LOSS
from icl_lib import checks
from icl_lib.evaluation import Interval

OVER_SEEDS = "95% interval over seeds"  # what an interval is where nothing else is said
REPRODUCED, UNDECIDED, NOT_REPRODUCED = "reproduced", "undecided", "not reproduced"
SIGNS = {REPRODUCED: "●", UNDECIDED: "◆", NOT_REPRODUCED: "✕"}  # as in the figures
WORDS = ("yes", "mostly", "half", "hardly", "no", "undecided")  # for a claim: see `overall`
NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Criterion:
    """One number that a claim is judged by."""

    id: str  # the claim's id, a dot and a name: "A5.ridge"
    metric: str  # what is measured
    sense: str  # "<=" or ">=": the side of the threshold on which the claim holds
    threshold: float
    reason: str  # for this threshold
    scale: str = "plain"  # or "log": of the mean over seeds and its interval; that of ratios
    range: tuple[float, float] = (-inf, inf)  # the values that the quantity can have
    interval_kind: str = OVER_SEEDS

    def __post_init__(self):
        checks.one_of("sense", self.sense, ("<=", ">="))
        checks.number("threshold", self.threshold)
        checks.one_of("scale", self.scale, ("plain", "log"))

    @property
    def claim(self) -> str:
        """The claim that it belongs to."""
        return self.id.split(".")[0]


@dataclass(frozen=True)
class Claim:
    """What a paper claims, in our words, and where this book tests it."""

    id: str
    statement: str
    source: str  # where in the paper
    chapter: str
    figures: Sequence[str]
    tests: Mapping[str, Mapping]  # by name; a `*` in a name stands for what may differ, as a noise level
    answer: str = ""  # what we found, in a sentence: of the verdicts in verdicts.toml
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


def criterion(test: str) -> Criterion:
    """The test of that id. What a `*` of its name in claims.toml stands for is put into its metric.

    Raises LookupError for a test that no claim has.
    """
    claim, _, name = test.partition(".")
    tests = CLAIMS[claim].tests if claim in CLAIMS else {}
    for pattern in sorted(tests, key=lambda pattern: "*" in pattern):  # exact names come first
        if match := re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), name):
            fields = dict(tests[pattern])
            sense = "<=" if "at_most" in fields else ">="
            threshold = fields.pop("at_most" if sense == "<=" else "at_least")
            for part in match.groups():
                fields["metric"] = fields["metric"].replace("*", part, 1)
            fields["range"] = tuple(fields.get("range", (-inf, inf)))
            return Criterion(test, sense=sense, threshold=threshold, **fields)
    known = ", ".join(f"{claim}.{name}" for name in tests) or "those of claims " + ", ".join(CLAIMS)
    raise LookupError(f"no test {test!r}: allowed are {known}")


def estimate(test: Criterion, values: ArrayLike | Interval) -> Interval:
    """What a test judges, of one number a seed, or of an interval of another kind: what lies in its range."""
    found = values if isinstance(values, Interval) else frames.SCALES[test.scale](values)
    return frames.within(found, *test.range)


def verdict(test: Criterion, value: Interval) -> str:
    """The verdict on one test."""
    low, high = (value.low, value.high) if test.sense == "<=" else (-value.high, -value.low)
    threshold = test.threshold if test.sense == "<=" else -test.threshold
    if high <= threshold:
        return REPRODUCED
    return NOT_REPRODUCED if low > threshold else UNDECIDED


def overall(verdicts: Sequence[str]) -> str:
    """The answer to a claim, by the verdicts on its tests.

    yes: all are reproduced; no: none is, and all are decided; undecided: no test is decided. In between by
    the share of tests reproduced, where an undecided one counts as half: mostly from two thirds on, hardly
    up to one third.
    """
    if not verdicts:
        return NOT_TESTED
    if set(verdicts) <= {REPRODUCED}:
        return "yes"
    if set(verdicts) <= {NOT_REPRODUCED}:
        return "no"
    if set(verdicts) <= {UNDECIDED}:
        return "undecided"
    thirds = 3 * (verdicts.count(REPRODUCED) + verdicts.count(UNDECIDED) / 2) / len(verdicts)
    return "mostly" if thirds >= 2 else "hardly" if thirds <= 1 else "half"


def counts(verdicts: Sequence[str]) -> str:
    """How many tests have which verdict: "2 of 5 tests reproduced, 3 undecided"."""
    others = [
        f"{verdicts.count(other)} {other}" for other in (UNDECIDED, NOT_REPRODUCED) if other in verdicts
    ]
    tests = "test" if len(verdicts) == 1 else "tests"
    return ", ".join([f"{verdicts.count(REPRODUCED)} of {len(verdicts)} {tests} reproduced", *others])


def judged(test: Criterion, value: Interval, seeds: Iterable[float] = ()) -> dict[str, object]:
    """A test as a results file has it: with its value, interval, verdict, and each seed's own value."""
    return asdict(test) | {
        "claim": test.claim,
        "range": [end if abs(end) < inf else None for end in test.range],
        "value": float(value.mean),
        "interval": [float(value.low), float(value.high)],
        "seeds": [float(seed) for seed in seeds],
        "verdict": verdict(test, value),
    }


def box(tests: Sequence[Mapping], title: str = "Verdicts") -> str:
    """Markdown: tests of a results file in a box, each with its value, threshold, reason and verdict."""
    rows = [
        {
            "what is measured": f"**{test['id']}** {test['metric']}",
            "value [95% interval]": shown_value(test),
            "threshold, and its reason": f"{bar(test)}: {test['reason']}",
            "verdict": signed(test["verdict"]),
        }
        for test in tests
    ]
    table = frames.markdown(pd.DataFrame(rows), index=False)
    return f":::{{admonition}} {title}\n:class: verdicts\n\n{table}\n:::"


def bar(test: Mapping) -> str:
    """The side and threshold of a test of a results file, as a page shows them."""
    return f"{'≤' if test['sense'] == '<=' else '≥'}\N{NO-BREAK SPACE}{_plain(test['threshold'])}"


def shown_value(test: Mapping) -> str:
    """A test's number as a page shows it, with its interval; where seeds are few, with theirs."""
    low, high = test["interval"]
    shown = f"{_plain(test['value'])} [{_plain(low)},\N{NO-BREAK SPACE}{_plain(high)}]"
    if 0 < len(test["seeds"]) < 5:
        shown += f"; by seed {', '.join(map(_plain, test['seeds']))}"
    return shown if test["interval_kind"] == OVER_SEEDS else f"{shown} ({test['interval_kind']})"


def signed(outcome: str) -> str:
    """A verdict and its sign: two cues, and a third by colour on the pages."""
    sign = f'<span class="{outcome.replace(" ", "-")}" aria-hidden="true">{SIGNS[outcome]}</span>'
    return f"{sign}\N{NO-BREAK SPACE}{outcome}"


def _plain(value: float) -> str:
    """Three digits, without an exponent where there are more before the point."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
