"""Tidy frames: values by seed, pairs, and Markdown."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_book.frames import bounded, entries, geometric, markdown, pick, relative, stacked, tidy
from icl_lib.evaluation import Interval, ratio_interval, t_interval

FRAME = pd.DataFrame(
    {
        "H": [1, 1, 2, 2],
        "n": [7, 7, 7, 7],
        "seed": pd.array([0, 1, 1, 0], dtype="Int64"),
        "risk": [2.0, 3.0, 6.0, 8.0],
    }
)


def test_values_are_paired_by_their_seeds():
    ratio = pick(FRAME, "risk", H=2, n=7) / pick(FRAME, "risk", H=1, n=7)
    assert ratio.loc[[0, 1]].tolist() == [4.0, 2.0]


def test_without_seeds_a_value_is_a_number():
    lines = pd.DataFrame({"method": ["ridge", "Lasso"], "seed": [pd.NA, pd.NA], "risk": [0.5, 0.25]})
    assert pick(lines, "risk", method="ridge") == 0.5
    assert pick(lines.drop(columns="seed"), "risk", method="Lasso") == 0.25


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"H": 4}, r"no risk at H = 4: allowed are {'H': \[1, 2\]}"),
        ({"n": 7}, "several values of risk at n = 7: allowed are conditions of one value a seed"),
    ],
)
def test_what_is_not_one_value_a_seed_is_refused(where, message):
    with pytest.raises(LookupError, match=message):
        pick(FRAME, "risk", **where)


def test_an_interval_for_each_combination():
    intervals = FRAME.groupby(["H", "n"]).risk.agg(t_interval)
    assert intervals[1, 7] == t_interval([2.0, 3.0])


def test_entries_of_matrices():
    frame = entries({("a", 1): [[1.0, 2.0], [3.0, 4.0]], ("b", 1): [[5.0]]}, ["name", "layer", "i", "j"])
    assert frame.columns.tolist() == ["name", "layer", "i", "j", "value"]
    assert len(frame) == 5
    assert pick(frame, "value", name="a", layer=1, i=1, j=0) == 3.0
    assert entries({"E": [[1.0, 2.0]]}).to_dict("list") == {
        "matrix": ["E", "E"],
        "row": [0, 0],
        "column": [0, 1],
        "value": [1.0, 2.0],
    }


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=7))
def test_a_geometric_mean_is_that_of_ratios_to_one(values):
    assert geometric(values) == ratio_interval(values, [1.0] * len(values))
    assert geometric(values).mean == pytest.approx(np.prod(values) ** (1 / len(values)))


def test_a_bounded_interval_is_what_lies_in_the_range():
    assert bounded(0, 1)([0.0, 1.0]) == (0.5, 0.0, 1.0)
    assert bounded(0, 20)([4.0, 6.0]) == (5.0, 0.0, pytest.approx(5 + 12.7062, rel=1e-4))


def test_a_frame_as_markdown():
    frame = pd.DataFrame(
        {"H": [1, 8], "risk": [Interval(0.5, 0.25, 1.0), None], "share": [1 / 3, np.nan], "law": ["a", "b"]}
    )
    assert markdown(frame.set_index("law"), {"risk": ".2f", "share": ".0%"}).splitlines() == [
        "| law | H | risk | share |",
        "| --- | --- | --- | --- |",
        "| a | 1 | 0.50 [0.25,\N{NO-BREAK SPACE}1.00] | 33% |",
        "| b | 8 |  |  |",
    ]
    assert markdown(frame[["share"]], index=False).splitlines()[2] == "| 0.333 |"


def test_arrays_become_columns_and_their_axes_too():
    frame = tidy({"omega": [[1, 2, 3], [4, 5, 6]], "mu": np.eye(2, 3)}, seed=[7, 9], head=range(3))
    assert frame.columns.tolist() == ["seed", "head", "omega", "mu"]
    assert frame.iloc[4].tolist() == [9, 1, 5, 1]


def test_relative_to_the_same_conditions():
    others = FRAME[FRAME.H == 1]
    assert relative(FRAME, others, "risk", ["n", "seed"]).tolist() == [1, 1, 2, 4]
    alone = relative(FRAME, others[others.seed == 0], "risk", ["n", "seed"])
    assert np.isnan(alone).tolist() == [False, True, True, False]


def test_stacked_frames_have_their_keys_in_columns():
    one, two = (pd.DataFrame({"n": [7, 11], "risk": [risk, risk / 2]}) for risk in (1.0, 3.0))
    found = stacked({("positive", 0.5): one, ("symmetric", 1.0): two}, ["weights", "sigma"])
    assert found.columns.tolist() == ["weights", "sigma", "n", "risk"]
    assert found.index.tolist() == [0, 1, 2, 3]
    assert found.weights.tolist() == ["positive"] * 2 + ["symmetric"] * 2
    assert found.sigma.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert found.risk.tolist() == [1.0, 0.5, 3.0, 1.5]
    assert stacked({4: one}, ["H"]).H.tolist() == [4, 4]
