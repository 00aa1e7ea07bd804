"""The table of a figure has what was drawn, for every kind of mark that the book uses."""

import csv
import io

import matplotlib
import numpy as np
import pytest
import seaborn as sns

matplotlib.use("agg")
import matplotlib.pyplot as plt

from icl_lib import figures, plotted
from icl_lib.intervals import Interval

X = np.array([2.0, 3.0, 5.0])
Y = np.array([7.0, 11.0, 13.0])


@pytest.fixture
def axis():
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


def rows(axis):
    return list(csv.DictReader(io.StringIO(plotted.table(axis.figure))))


def numbers(found, *columns):
    return np.array([[float(row[column]) for column in columns] for row in found])


def test_a_curve_carries_its_band(axis):
    figures.curve(axis, X, Interval(Y, Y - 1, Y + 2), "ridge")
    found = rows(axis)
    assert [row["series"] for row in found] == ["ridge"] * 3
    np.testing.assert_allclose(numbers(found, "x", "y", "y_low", "y_high"), np.stack([X, Y, Y - 1, Y + 2], 1))


def test_each_band_goes_to_the_curve_of_its_colour(axis):
    figures.curve(axis, X, Interval(Y, Y - 1, Y + 2), "ridge")
    figures.curve(axis, X, Interval(2 * Y, Y, 3 * Y), "Lasso")
    found = {row["series"]: row for row in rows(axis)}
    assert float(found["ridge"]["y_high"]) == 15
    assert float(found["Lasso"]["y_high"]) == 39


@pytest.mark.parametrize("step", [None, "post"])
def test_a_band_alone_has_its_ends_at_its_places(axis, step):
    axis.fill_between(X, Y, Y[::-1] + 7, step=step)
    low, high = np.sort([Y, Y[::-1] + 7], axis=0)
    np.testing.assert_allclose(numbers(rows(axis), "x", "y_low", "y_high"), np.stack([X, low, high], 1))


def test_an_upright_band_has_its_ends_along_x(axis):
    axis.fill_betweenx(X, -Y, Y)
    np.testing.assert_allclose(numbers(rows(axis), "y", "x_low", "x_high"), np.stack([X, -Y, Y], 1))


def test_error_bars_both_ways(axis):
    below, above = np.array([[1, 2, 3], [4, 5, 6]])
    axis.errorbar(X, Y, yerr=[below, above], capsize=2, label="up")
    axis.errorbar(X, Y, xerr=0.5, label="along", marker="o", linestyle="")
    found = rows(axis)
    up = [row for row in found if row["series"] == "up"]
    along = [row for row in found if row["series"] == "along"]
    np.testing.assert_allclose(numbers(up, "y", "y_low", "y_high"), np.stack([Y, Y - below, Y + above], 1))
    np.testing.assert_allclose(numbers(along, "x", "x_low", "x_high"), np.stack([X, X - 0.5, X + 0.5], 1))
    assert len(found) == 6


def test_levels_have_one_coordinate(axis):
    axis.axhline(3.0, label="level")
    axis.axvline(4.0)
    assert [(row["series"], row["x"], row["y"]) for row in rows(axis)] == [
        ("level", "", "3"),
        ("line 2", "4", ""),
    ]


def test_points_and_bars(axis):
    axis.scatter(X, Y, label="cloud")
    axis.bar(X, Y, label="bars")
    found = rows(axis)
    for name in ("cloud", "bars"):
        part = [row for row in found if row["series"] == name]
        np.testing.assert_allclose(numbers(part, "x", "y"), np.stack([X, Y], 1))


def test_a_heat_map_has_its_labels_and_its_words(axis):
    values = np.array([[1.0, 2.0, 3.0], [5.0, 7.0, 11.0]])
    words = np.array([["a", "b", "c"], ["d", "e", "f"]])
    sns.heatmap(
        values, ax=axis, annot=words, fmt="", cbar=False, xticklabels=["p", "q", "r"], yticklabels=["u", "v"]
    )
    found = [(row["x"], row["y"], row["value"], row["text"]) for row in rows(axis)]
    assert found[1] == ("q", "u", "2", "b")
    assert found[3] == ("p", "v", "5", "d")
    assert len(found) == 6


def test_an_empty_panel_is_refused(axis):
    with pytest.raises(ValueError, match="panel 1 shows nothing"):
        plotted.table(axis.figure)
