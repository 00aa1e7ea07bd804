"""The table of a figure has what was drawn, for every kind of mark that the book uses."""

import csv
import io

import matplotlib
import numpy as np
import pytest
import seaborn as sns

matplotlib.use("agg")
import matplotlib.pyplot as plt

from icl_book import figures, plotted
from icl_lib.evaluation import Interval

X = np.array([2.0, 3.0, 5.0])
Y = np.array([7.0, 11.0, 13.0])


@pytest.fixture
def axis():
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


def rows(axis, series=None):
    found = list(csv.DictReader(io.StringIO(plotted.table(axis.figure))))
    return [row for row in found if series in (None, row.get("series"))]


def check(found, **columns):
    """The rows have these columns."""
    numbers = [[float(row[name]) for name in columns] for row in found]
    np.testing.assert_allclose(numbers, np.stack([*columns.values()], 1))


def test_each_curve_carries_the_band_of_its_colour(axis):
    figures.curve(axis, X, Interval(Y, Y - 1, Y + 2), "ridge")
    assert len(rows(axis)) == 3
    figures.curve(axis, X, Interval(2 * Y, Y, 3 * Y), "Lasso")
    check(rows(axis, "ridge"), x=X, y=Y, y_low=Y - 1, y_high=Y + 2)
    check(rows(axis, "Lasso"), x=X, y=2 * Y, y_low=Y, y_high=3 * Y)


@pytest.mark.parametrize("step", [None, "post"])
def test_a_band_alone_has_its_ends_at_its_places(axis, step):
    axis.fill_between(X, Y, Y[::-1] + 7, step=step, label="along")
    axis.fill_betweenx(X, -Y, Y, label="upright")
    low, high = np.sort([Y, Y[::-1] + 7], axis=0)
    check(rows(axis, "along"), x=X, y_low=low, y_high=high)
    check(rows(axis, "upright"), y=X, x_low=-Y, x_high=Y)


def test_error_bars_both_ways(axis):
    below, above = np.array([[1, 2, 3], [4, 5, 6]])
    axis.errorbar(X, Y, yerr=[below, above], capsize=2, label="up")
    axis.errorbar(X, Y, xerr=0.5, label="along", marker="o", linestyle="")
    check(rows(axis, "up"), y=Y, y_low=Y - below, y_high=Y + above)
    check(rows(axis, "along"), x=X, x_low=X - 0.5, x_high=X + 0.5)
    assert len(rows(axis)) == 6


def test_levels_have_one_coordinate(axis):
    axis.axhline(3.0, label="level")
    axis.axvline(4.0)
    found = [(row["series"], row["x"], row["y"]) for row in rows(axis)]
    assert found == [("level", "", "3"), ("line 2", "4", "")]


def test_points_and_bars(axis):
    axis.scatter(X, Y, label="cloud")
    axis.bar(X, Y, label="bars")
    for name in ("cloud", "bars"):
        check(rows(axis, name), x=X, y=Y)


def test_a_heat_map_has_its_labels_and_its_words(axis):
    values, words = np.array([[1.0, 2.0, 3.0], [5.0, 7.0, 11.0]]), np.array([[*"abc"], [*"def"]])
    sns.heatmap(values, ax=axis, annot=words, fmt="", cbar=False, xticklabels=[*"pqr"], yticklabels=[*"uv"])
    found = [(row["x"], row["y"], row["value"], row["text"]) for row in rows(axis)]
    assert found[1] == ("q", "u", "2", "b")
    assert found[3] == ("p", "v", "5", "d")
    assert len(found) == 6


def test_an_empty_panel_is_refused(axis):
    with pytest.raises(ValueError, match="panel 1 shows nothing"):
        plotted.table(axis.figure)
