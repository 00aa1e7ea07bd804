"""Intervals, verdicts, and the table of claims."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import figure_cells

from icl_book import papers
from icl_book.chapters import load_chapters
from icl_book.claims import (
    NOT_REPRODUCED,
    NOT_TESTED,
    PARTLY,
    REPRODUCED,
    Criterion,
    overall,
    rows,
    verdict,
)
from icl_book.intervals import largest_difference, recovered, wilson_interval
from icl_book.papers import CLAIMS, summary, table
from icl_lib.evaluation import Interval, ratio_interval, t_interval


def test_t_interval_by_hand():
    # mean 2, standard deviation 1, three values: half-width t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval.mean == pytest.approx(2.0)
    assert interval.high - 2.0 == pytest.approx(2.484138, abs=1e-5)
    assert 2.0 - interval.low == pytest.approx(2.484138, abs=1e-5)


def test_largest_difference_is_where_the_interval_reaches_furthest():
    """Logs of the ratios: 0.1 +- 0, -0.2 +- 0, and 0.15 with an interval that holds 0 and more than 0.2."""
    values = np.exp([[0.1, -0.2], [0.1, -0.2]])
    assert largest_difference(values, [1.0, 1.0]) == pytest.approx((0.2, 0.2, 0.2))
    wide = np.exp([[0.1, -0.2, 0.05], [0.1, -0.2, 0.25]])
    found, half = largest_difference(2 * wide, np.full((2, 3), 2.0)), 12.7062 * 0.1
    assert found == pytest.approx((0.15, 0.0, 0.15 + half), rel=1e-4)


def test_wilson_interval_by_hand():
    """(p + z^2 / 2n +- z sqrt(p q / n + z^2 / 4 n^2)) / (1 + z^2 / n)."""
    z, n, p = 1.959964, 12, 8 / 12
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = wilson_interval(8, 12)
    expected = (p, (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
    assert found == pytest.approx(expected, rel=1e-5)
    assert wilson_interval(12, 12).high == 1


def test_t_interval_covers_the_mean_as_often_as_it_says():
    values = np.random.default_rng(0).normal(3.0, 2.0, (5, 20_000))
    low, high = t_interval(values)[1:]
    assert ((low <= 3.0) & (high >= 3.0)).mean() == pytest.approx(0.95, abs=0.005)


def test_ratio_interval_is_paired():
    reference = np.array([1.0, 10.0, 100.0])
    interval = ratio_interval(2 * reference, reference)
    assert interval == pytest.approx((2.0, 2.0, 2.0))


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.floats(0.1, 10))
def test_ratio_interval_turns_over(values, factor):
    reference = [factor] * len(values)
    one, other = ratio_interval(values, reference), ratio_interval(reference, values)
    assert one.mean == pytest.approx(1 / other.mean)
    assert one.low == pytest.approx(1 / other.high)


def test_recovered_by_hand():
    # 1/2, 3/4 and 1 of the way down: mean 3/4, standard deviation 1/4, half-width 2.484138 / 4
    interval = recovered([3.0, 2.5, 20.0], worst=[5.0, 4.0, 30.0], best=[1.0, 2.0, 20.0])
    assert interval == pytest.approx((0.75, 0.75 - 0.6210345, 0.75 + 0.6210345), abs=1e-6)


def test_recovered_refuses_a_seed_with_no_way_to_go():
    with pytest.raises(ValueError, match="allowed are seeds where they differ"):
        recovered([1.0, 1.0], worst=[2.0, 1.0], best=[1.0, 1.0])


@pytest.mark.parametrize("values", [[], [1.0], 3.0])
def test_one_seed_has_no_interval(values):
    with pytest.raises(ValueError, match="allowed for an interval are 2 seeds or more"):
        t_interval(values)


@pytest.mark.parametrize(
    ("interval", "at_most", "at_least"),
    [
        ((1.0, 0.8, 1.2), REPRODUCED, NOT_REPRODUCED),
        ((2.0, 1.4, 2.2), PARTLY, PARTLY),
        ((2.0, 1.8, 2.2), NOT_REPRODUCED, REPRODUCED),
        ((1.4, 1.3, 1.5), REPRODUCED, PARTLY),  # the bar itself is on the right side
    ],
)
def test_verdict_compares_the_whole_interval_with_the_bar(interval, at_most, at_least):
    interval = Interval(*interval)
    assert verdict(Criterion("A1.x", "m", "<=", 1.5, "why"), interval) == at_most
    assert verdict(Criterion("A1.x", "m", ">=", 1.5, "why"), interval) == at_least


def test_overall_verdict():
    assert overall([]) == NOT_TESTED
    assert overall([REPRODUCED, REPRODUCED]) == REPRODUCED
    assert overall([NOT_REPRODUCED, NOT_REPRODUCED]) == NOT_REPRODUCED
    assert overall([REPRODUCED, NOT_REPRODUCED]) == PARTLY
    assert overall([REPRODUCED, PARTLY]) == PARTLY


def test_bad_tests():
    with pytest.raises(LookupError, match=r"01_task: C1\.x is of no claim: allowed are A1, "):
        papers.tests_of({"01_task": {"claims": [entry("C1.x", REPRODUCED)]}})
    with pytest.raises(ValueError, match="sense = '<': allowed is '<=' or '>='"):
        Criterion("A1.x", "m", "<", 1.0, "why")


def entry(test_id, outcome):
    return {
        "id": test_id,
        "claim": test_id.split(".")[0],
        "metric": "ratio",
        "sense": "<=",
        "threshold": 1.0,
        "value": 0.5,
        "interval": [0.4, 0.6],
        "interval_kind": "95% interval over seeds",
        "verdict": outcome,
    }


def shown(outcome):
    """A verdict as the tables show it: the sign, which is for the eye alone, and the word."""
    sign = {REPRODUCED: "●", PARTLY: "◆", NOT_REPRODUCED: "✕", NOT_TESTED: "○"}[outcome]
    look = outcome.replace(" ", "-")
    return f'<span class="{look}" aria-hidden="true">{sign}</span>\N{NO-BREAK SPACE}{outcome}'


BAR, VALUE = "≤\N{NO-BREAK SPACE}1", "0.5 [0.4,\N{NO-BREAK SPACE}0.6]"


def test_table_lists_every_claim_once():
    chapter = CLAIMS["A5"].chapter
    tests = [entry("A5.a", REPRODUCED), entry("A5.b", PARTLY)]
    lines = table({chapter: {"claims": tests, "figures": {"fig-pto-risk": ""}}}).splitlines()
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    for claim in CLAIMS:
        assert sum(line.startswith((f"| **{claim}**", f"| **[{claim}](")) for line in lines) == 1
    joint = next(place for place, line in enumerate(lines) if "**[A5]" in line)
    assert lines[joint].endswith(f"| {{numref}}`fig-pto-risk` | **{shown(PARTLY)}** |")
    assert lines[joint + 1 : joint + 3] == [
        f"| ratio | {BAR} | {VALUE} | {shown(outcome)} |" for outcome in (REPRODUCED, PARTLY)
    ]


def test_table_shows_no_figure_of_a_chapter_that_is_missing():
    assert "{numref}" not in table({CLAIMS["A5"].chapter: {"claims": [entry("A5.a", REPRODUCED)]}})
    assert table({}).count(f"**{shown(NOT_TESTED)}**") == len(CLAIMS)


def test_table_has_tests_of_other_chapters_too():
    own, other = CLAIMS["A2"].chapter, CLAIMS["A6"].chapter
    found = {
        own: {"claims": [entry("A2.a", REPRODUCED)]},
        other: {"claims": [entry("A2.b", PARTLY), entry("A6.a", REPRODUCED)]},
    }
    lines = table(found).splitlines()
    assert f"| ratio ([chapter {int(other[:2])}]({other})) | {BAR} | {VALUE} | {shown(PARTLY)} |" in lines
    assert next(line for line in lines if "**[A2]" in line).endswith(f"| **{shown(PARTLY)}** |")
    with pytest.raises(LookupError, match="its results have no test of claim A2"):
        table({own: {"claims": []}, other: found[other]})


def test_summary_counts_claims_and_tests():
    found = {
        CLAIMS["A2"].chapter: {"claims": [entry("A2.a", REPRODUCED), entry("A2.b", NOT_REPRODUCED)]},
        CLAIMS["A6"].chapter: {"claims": [entry("A6.a", REPRODUCED), entry("A6.b", REPRODUCED)]},
    }
    lines = summary(found).splitlines()
    every = len(CLAIMS)
    assert lines[:3] == [
        f"- {shown(REPRODUCED)}: **1** of {every} claims ([A6]({CLAIMS['A6'].chapter}) 2/2)",
        f"- {shown(PARTLY)}: **1** of {every} claims ([A2]({CLAIMS['A2'].chapter}) 1/2)",
        f"- {shown(NOT_REPRODUCED)}: **0** of {every} claims",
    ]
    assert lines[3].startswith(f"- {shown(NOT_TESTED)}: **{every - 2}** of {every} claims (A1, A3, ")
    assert lines[-1].endswith("Of all 4 tests: 3 reproduced, 0 partly, 1 not reproduced.")


def test_figures_of_claims_are_in_the_chapters():
    """Every label is that of one figure, the first of them in the claim's own chapter."""
    chapters = {}
    for name, chapter in load_chapters().items():
        for label, _ in figure_cells(chapter):
            chapters.setdefault(label, []).append(name)
    for claim in CLAIMS.values():
        assert chapters[claim.figures[0]] == [claim.chapter], claim.id
        assert all(len(chapters[label]) == 1 for label in claim.figures), claim.id


def test_rows_list_one_files_tests():
    assert rows([entry("A5.a", REPRODUCED)]).splitlines()[2:] == [
        f"| A5.a | ratio | {VALUE} | {BAR} | {shown(REPRODUCED)} |"
    ]


def test_a_chapter_without_its_claim_is_an_error():
    with pytest.raises(LookupError, match="A5"):
        table({CLAIMS["A5"].chapter: {"claims": []}})


def test_an_interval_as_text():
    assert f"{Interval(0.5, -0.25, 1.0):.2f}" == "0.50 [-0.25, 1.00]"
    assert f"{Interval(12.0, 11.0, 13.0):.1e}" == "1.2e+01 [1.1e+01, 1.3e+01]"
