"""Intervals, verdicts, and the table of claims."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import figure_cells

from icl_book import claims, ledger, papers
from icl_book.chapters import load_chapters
from icl_book.claims import (
    CLAIMS,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    UNDECIDED,
    WORDS,
    Criterion,
    box,
    counts,
    criterion,
    overall,
    verdict,
)
from icl_book.intervals import largest_difference, wilson_interval
from icl_book.papers import summary, table
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


@pytest.mark.parametrize("values", [[], [1.0], 3.0])
def test_one_seed_has_no_interval(values):
    with pytest.raises(ValueError, match="allowed for an interval are 2 seeds or more"):
        t_interval(values)


@pytest.mark.parametrize(
    ("interval", "at_most", "at_least"),
    [
        ((1.0, 0.8, 1.2), REPRODUCED, NOT_REPRODUCED),
        ((2.0, 1.4, 2.2), UNDECIDED, UNDECIDED),
        ((2.0, 1.8, 2.2), NOT_REPRODUCED, REPRODUCED),
        ((1.4, 1.3, 1.5), REPRODUCED, UNDECIDED),  # the threshold itself is on the right side
    ],
)
def test_verdict_compares_the_whole_interval_with_the_threshold(interval, at_most, at_least):
    interval = Interval(*interval)
    assert verdict(Criterion("A1.x", "m", "<=", 1.5, "why"), interval) == at_most
    assert verdict(Criterion("A1.x", "m", ">=", 1.5, "why"), interval) == at_least


@pytest.mark.parametrize(
    ("reproduced", "undecided", "not_reproduced", "word"),
    [
        (0, 0, 0, NOT_TESTED),
        (3, 0, 0, "yes"),
        (0, 0, 3, "no"),
        (0, 3, 0, "undecided"),
        (2, 0, 1, "mostly"),  # two thirds
        (1, 1, 1, "half"),
        (2, 3, 0, "mostly"),  # 3.5 of 5
        (1, 0, 2, "hardly"),  # one third
        (0, 1, 1, "hardly"),  # a half of 2: nothing is reproduced, and not all is decided
        (1, 0, 1, "half"),
    ],
)
def test_the_answer_to_a_claim(reproduced, undecided, not_reproduced, word):
    verdicts = [REPRODUCED] * reproduced + [UNDECIDED] * undecided + [NOT_REPRODUCED] * not_reproduced
    assert overall(verdicts) == overall(verdicts[::-1]) == word


@given(st.lists(st.sampled_from([REPRODUCED, UNDECIDED, NOT_REPRODUCED]), min_size=1))
def test_a_better_verdict_never_makes_a_worse_answer(verdicts):
    """The order is no, hardly, half, mostly, yes; `undecided` is in the middle."""
    order = {"no": 0, "hardly": 1, "half": 2, "undecided": 2, "mostly": 3, "yes": 4}
    better = [REPRODUCED, *verdicts[1:]]
    assert overall(verdicts) in WORDS
    assert order[overall(better)] >= order[overall(verdicts)]


def test_counts():
    assert counts([REPRODUCED]) == "1 of 1 test reproduced"
    every = [REPRODUCED, UNDECIDED, NOT_REPRODUCED, UNDECIDED]
    assert counts(every) == "1 of 4 tests reproduced, 2 undecided, 1 not reproduced"


def test_tests_by_their_ids():
    found = criterion("A1.symmetric")
    assert (found.claim, found.sense, found.threshold, found.scale) == ("A1", "<=", 0.6, "log")
    assert criterion("A2.first-positive").range == (0, 1)
    both = criterion("B9.nearest-2-0.5")
    assert both.metric.endswith("H = 2, rho = 0.5")
    assert criterion("B10.split-long").metric != criterion("B10.split-4").metric
    for wrong in ("A1.symetric", "A1", "C3.x"):
        with pytest.raises(LookupError, match=f"no test '{wrong}': allowed are "):
            criterion(wrong)


def test_every_test_of_claims_toml_is_whole():
    for claim in CLAIMS.values():
        for name in claim.tests:
            found = criterion(f"{claim.id}.{name.replace('*', '2')}")
            assert found.metric
            assert found.reason
            assert "*" not in found.metric


def test_bad_tests():
    with pytest.raises(LookupError, match=r"01_task: C1\.x is of no claim: allowed are A1, "):
        papers.tests_of({"01_task": {"claims": [entry("C1.x", REPRODUCED)]}})
    with pytest.raises(ValueError, match="sense = '<': allowed is '<=' or '>='"):
        Criterion("A1.x", "m", "<", 1.0, "why")


def entry(test_id, outcome):
    value = {REPRODUCED: (0.5, 0.4, 0.6), UNDECIDED: (0.9, 0.8, 1.1), NOT_REPRODUCED: (3, 2, 4)}[outcome]
    return claims.judged(Criterion(test_id, "ratio", "<=", 1.0, "why"), Interval(*value))


def shown(outcome):
    """A verdict as the tables show it: the sign, which is for the eye alone, and the word."""
    sign = {REPRODUCED: "●", UNDECIDED: "◆", NOT_REPRODUCED: "✕"}[outcome]
    look = outcome.replace(" ", "-")
    return f'<span class="{look}" aria-hidden="true">{sign}</span>\N{NO-BREAK SPACE}{outcome}'


BAR, VALUE = "≤\N{NO-BREAK SPACE}1", "0.5 [0.4,\N{NO-BREAK SPACE}0.6]"
OPEN = "0.9 [0.8,\N{NO-BREAK SPACE}1.1]"


def test_table_lists_every_claim_once():
    chapter = CLAIMS["A5"].chapter
    tests = [entry("A5.a", REPRODUCED), entry("A5.b", UNDECIDED)]
    lines = table({chapter: {"claims": tests, "figures": {"fig-pto-risk": {}}}}).splitlines()
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    for claim in CLAIMS:
        assert sum(line.startswith((f"| **{claim}**", f"| **[{claim}](")) for line in lines) == 1
    joint = next(place for place, line in enumerate(lines) if "**[A5]" in line)
    answer = "**mostly** (1 of 2 tests reproduced, 1 undecided)."
    assert lines[joint].endswith(f"| {{numref}}`fig-pto-risk` | {answer} |")
    assert lines[joint + 1 : joint + 3] == [
        f"| ratio | {BAR} | {VALUE} | {shown(REPRODUCED)} |",
        f"| ratio | {BAR} | {OPEN} | {shown(UNDECIDED)} |",
    ]


def test_table_shows_no_figure_of_a_chapter_that_is_missing():
    assert "{numref}" not in table({CLAIMS["A5"].chapter: {"claims": [entry("A5.a", REPRODUCED)]}})
    assert table({}).count(f"**{NOT_TESTED}**") == len(CLAIMS)


def test_table_has_tests_of_other_chapters_too():
    own, other = CLAIMS["A2"].chapter, CLAIMS["A6"].chapter
    found = {
        own: {"claims": [entry("A2.a", REPRODUCED)]},
        other: {"claims": [entry("A2.b", UNDECIDED), entry("A6.a", REPRODUCED)]},
    }
    lines = table(found).splitlines()
    assert f"| ratio ([chapter {int(other[:2])}]({other})) | {BAR} | {OPEN} | {shown(UNDECIDED)} |" in lines
    with pytest.raises(LookupError, match="its results have no test of claim A2"):
        table({own: {"claims": []}, other: found[other]})


def test_the_sentence_of_an_answer_is_shown_with_its_own_verdicts_alone(monkeypatch):
    monkeypatch.setattr(ledger, "committed", lambda: {"A5.a": REPRODUCED})
    sentence = CLAIMS["A5"].answer
    assert sentence
    assert papers.answer("A5", [("02", entry("A5.a", REPRODUCED))]).endswith(f"reproduced). {sentence}")
    assert sentence not in papers.answer("A5", [("02", entry("A5.a", UNDECIDED))])
    assert sentence not in papers.answer("A5", [("02", entry("A5.b", REPRODUCED))])


def test_every_claim_has_a_sentence_for_its_answer():
    for claim in CLAIMS.values():
        assert claim.answer.endswith("."), claim.id


def test_summary_counts_claims_and_tests():
    found = {
        CLAIMS["A2"].chapter: {"claims": [entry("A2.a", REPRODUCED), entry("A2.b", NOT_REPRODUCED)]},
        CLAIMS["A6"].chapter: {"claims": [entry("A6.a", REPRODUCED), entry("A6.b", REPRODUCED)]},
    }
    lines = summary(found).splitlines()
    every = len(CLAIMS)
    assert lines[:2] == [
        f"- *yes*: **1** of {every} claims ([A6]({CLAIMS['A6'].chapter}))",
        f"- *half*: **1** of {every} claims ([A2]({CLAIMS['A2'].chapter}))",
    ]
    assert lines[2].startswith(f"- *{NOT_TESTED}*: **{every - 2}** of {every} claims (")
    assert lines[-1] == "In all, 3 of 4 tests reproduced, 1 not reproduced."


def test_figures_of_claims_are_in_the_chapters():
    """Every label is that of one figure, the first of them in the claim's own chapter."""
    chapters = {}
    for name, chapter in load_chapters().items():
        for label, _ in figure_cells(chapter):
            chapters.setdefault(label, []).append(name)
    for claim in CLAIMS.values():
        assert chapters[claim.figures[0]] == [claim.chapter], claim.id
        assert all(len(chapters[label]) == 1 for label in claim.figures), claim.id


def test_a_box_has_value_threshold_reason_and_verdict():
    lines = box([entry("A5.a", REPRODUCED)]).splitlines()
    row = f"| **A5.a** ratio | {VALUE} | {BAR}: why | {shown(REPRODUCED)} |"
    assert lines[:3] == [":::{admonition} Verdicts", ":class: verdicts", ""]
    assert lines[-2:] == [row, ":::"]


def test_few_seeds_are_shown_one_by_one():
    test = Criterion("A5.x", "ratio", "<=", 1.0, "why")
    assert claims.shown_value(claims.judged(test, Interval(2, 1, 3), [1.5, 2.5])).endswith("by seed 1.5, 2.5")
    assert "seed" not in claims.shown_value(claims.judged(test, Interval(2, 1, 3), [1, 2, 2, 2, 3]))


def test_large_numbers_are_shown_without_exponent():
    test = Criterion("A5.x", "ratio", ">=", 1000, "why")
    made = claims.judged(test, Interval(1812.4, 999.4, 1234567), [2000, 0.1234])
    assert claims.shown_value(made) == "1,812 [999,\N{NO-BREAK SPACE}1,234,567]; by seed 2,000, 0.123"
    assert claims.bar(made) == "≥\N{NO-BREAK SPACE}1,000"


def test_a_chapter_without_its_claim_is_an_error():
    with pytest.raises(LookupError, match="A5"):
        table({CLAIMS["A5"].chapter: {"claims": []}})


def test_an_interval_as_text():
    assert f"{Interval(0.5, -0.25, 1.0):.2f}" == "0.50 [-0.25, 1.00]"
    assert f"{Interval(12.0, 11.0, 13.0):.1e}" == "1.2e+01 [1.1e+01, 1.3e+01]"
