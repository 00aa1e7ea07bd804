"""The claims of the two papers, and the verdict on each.

A claim is tested by one or more `Test`s, each a number with a threshold that a chapter fixes in its source
before the run, and says why. The verdict on a test compares its 95% interval over seeds with the threshold:
all of it on the right side is `reproduced`, all on the wrong side `not reproduced`, else `partly`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icl_lib import checks
from icl_lib.intervals import Interval

OVER_SEEDS = "95% interval over seeds"  # what an interval is where nothing else is said
REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_TESTED = "reproduced", "partly", "not reproduced", "not tested"


@dataclass(frozen=True)
class Claim:
    """What a paper claims, in our words, and the chapter that tests it."""

    id: str
    statement: str
    source: str
    chapter: str


CLAIMS = {
    claim.id: claim
    for claim in (
        Claim(
            "A1",
            "At fixed depth more heads give a lower excess risk, and the gain saturates.",
            "A, Fig. 1",
            "04_head_counts",
        ),
        Claim(
            "A2",
            "In the first layer every head matters; in later layers one head dominates.",
            "A, Fig. 1",
            "05_head_importance",
        ),
        Claim(
            "A3",
            "All heads in layer 1 and one in each later layer come close to the full model;"
            " one head everywhere does not.",
            "A, Fig. 1 and appendix",
            "06_pruning_probing",
        ),
        Claim(
            "A4",
            "Gradient descent on the first layer's features beats the same number of steps on the raw ones.",
            "A, probing",
            "06_pruning_probing",
        ),
        Claim(
            "A5",
            "For sparse weights preprocess-then-optimize beats gradient descent, ridge and OLS,"
            " and is comparable with the Lasso.",
            "A, theory and figure",
            "02_preprocess_then_optimize",
        ),
        Claim(
            "A6",
            "A linear-attention transformer with d heads in layer 1 and one head in each later layer"
            " implements the algorithm.",
            "A, theory",
            "03_construction",
        ),
        Claim(
            "A7",
            "A1 to A3 hold over depths, noise levels and kinds of attention.",
            "A, appendix",
            "09_robustness",
        ),
        Claim(
            "B1",
            "KQ becomes a multiple of the identity on the covariates and zero elsewhere.",
            "B",
            "10_kq_ov_patterns",
        ),
        Claim(
            "B2",
            "OV keeps its last entry only, and the heads' entries sum to zero.",
            "B",
            "10_kq_ov_patterns",
        ),
        Claim("B3", "Two heads implement debiased gradient descent.", "B", "11_debiased_gd"),
        Claim("B4", "One head is clearly worse: it is a kernel smoother.", "B", "11_debiased_gd"),
        Claim("B5", "Heads beyond two add nothing: they are copies or dummies.", "B", "10_kq_ov_patterns"),
        Claim("B6", "The risk is within a constant factor of the Bayes predictor's.", "B", "11_debiased_gd"),
        Claim(
            "B7",
            "The pattern emerges from random weights, as gradient flow on the approximate loss predicts.",
            "B",
            "10_kq_ov_patterns",
        ),
        Claim(
            "B8",
            "Softmax heads generalize to longer contexts than in training; linear attention does not.",
            "B",
            "12_length_generalization",
        ),
        Claim(
            "B9",
            "With anisotropic covariates the heads implement preconditioned gradient descent.",
            "B",
            "13_anisotropic",
        ),
        Claim(
            "B10",
            "Several tasks: few heads superpose them, 2N heads or more split up, a pair a task.",
            "B",
            "14_multitask",
        ),
    )
}


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


def table(results: Mapping[str, Mapping]) -> str:
    """Markdown: every claim, its tests and verdicts, from the results files of the chapters in the book.

    Chapters beside its own may test a claim, too. Raises LookupError when a claim's own chapter is there
    and has no test of it.
    """
    lines = [*_HEAD]
    for claim in CLAIMS.values():
        tests = [
            (chapter, test)
            for chapter, found in results.items()
            for test in found.get("claims", ())
            if test["claim"] == claim.id
        ]
        if claim.chapter in results and claim.chapter not in {chapter for chapter, _ in tests}:
            raise LookupError(f"{claim.chapter}: its results have no test of claim {claim.id}")
        name = f"[{claim.id}]({claim.chapter})" if tests else claim.id
        joint = overall([test["verdict"] for _, test in tests])
        lines.append(f"| **{name}** | {claim.statement} *({claim.source})* | | | **{joint}** |")
        for chapter, test in tests:
            link = "" if chapter == claim.chapter else f" ([more]({chapter}))"
            lines.append(f"| | {test['metric']}{link} {_row(test)}")
    return "\n".join(lines)


def bar(sense: str, threshold: float) -> str:
    """A test's side and threshold as a page shows them."""
    return f"{'≤' if sense == '<=' else '≥'}\N{NO-BREAK SPACE}{threshold:.3g}"


def rows(tests: Sequence[Mapping]) -> str:
    """Markdown: the tests of one results file and their verdicts."""
    return "\n".join([*_HEAD, *(f"| {test['id']} | {test['metric']} {_row(test)}" for test in tests)])


_HEAD = ("| claim | measured | value [95% interval] | bar | verdict |", "|---|---|---|---|---|")


def _row(test: Mapping) -> str:
    low, high = test["interval"]
    value = f"{test['value']:.3g} [{low:.3g},\N{NO-BREAK SPACE}{high:.3g}]"
    if test["interval_kind"] != OVER_SEEDS:
        value += f" ({test['interval_kind']})"
    return f"| {value} | {bar(test['sense'], test['threshold'])} | {test['verdict']} |"
