"""Figures draw the estimates of a frame: what stands in it, no more and no less."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from icl_book import figures
from icl_book.frames import geometric

FRAME = pd.DataFrame(
    [(H, n, seed, H * n + 2 * seed) for H in (8, 1) for n in (7, 3, 5) for seed in (0, 1)],
    columns=["H", "n", "seed", "risk"],
)
HALF = 12.706205  # of the 95% interval of 0 and 2: t(0.975, 1) times a standard error of 1


@pytest.fixture
def axis():
    _, axis = plt.subplots()
    yield axis
    plt.close("all")


def test_a_curve_and_its_band_for_each_hue(axis):
    figures.curves(axis, FRAME, "n", "risk", "H", label="$H = {}$")
    assert [line.get_label() for line in axis.lines] == ["$H = 8$", "$H = 1$"]
    for line, band, H in zip(axis.lines, axis.collections, (8, 1), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [3, 5, 7])
        np.testing.assert_allclose(line.get_ydata(), H * np.array([3, 5, 7]) + 1)
        ends = band.get_paths()[0].vertices
        assert ends[:, 1].max() == pytest.approx(7 * H + 1 + HALF)
        assert to_hex(band.get_facecolor()[0]) == to_hex(line.get_color())


def test_one_value_at_each_place_has_no_band_and_a_method_its_look(axis):
    lines = pd.DataFrame({"method": ["ridge", "ridge", "Lasso"], "n": [3, 5, 3], "risk": [4.0, 2.0, 1.0]})
    figures.curves(axis, lines, "n", "risk", "method", **figures.REFERENCE)
    assert [line.get_color() for line in axis.lines] == [figures.look(m)["color"] for m in ("ridge", "Lasso")]
    assert {line.get_linestyle() for line in axis.lines} == {"--"}
    assert not axis.collections


def test_another_estimate(axis):
    frame = pd.DataFrame({"n": [3, 3], "seed": [0, 1], "risk": [1.0, 4.0]})
    figures.curves(axis, frame, "n", "risk", estimate=geometric, label="all")
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [2.0])


def test_points_stand_side_by_side_with_each_seed(axis):
    figures.points(axis, FRAME[FRAME.n == 3], "n", "risk", "H", dodge=0.5)
    bars = axis.containers
    assert [bar.lines[0].get_xdata().tolist() for bar in bars] == [[2.75], [3.25]]
    np.testing.assert_allclose([bar.lines[0].get_ydata()[0] for bar in bars], [25, 4])
    ((low, high),) = bars[0].lines[2][0].get_segments()
    assert high[1] - low[1] == pytest.approx(2 * HALF)
    dashes = [line for line in axis.lines if line.get_marker() == "_" and len(line.get_xdata()) == 2]
    assert [line.get_ydata().tolist() for line in dashes[-2:]] == [[24, 26], [3, 5]]


def test_a_panel_for_each_value_and_one_legend():
    figure, axes = figures.grid(FRAME, "H", "$H = {}$")
    assert list(axes) == [8, 1]
    assert axes[8].get_title() == "$H = 8$"
    for H, axis in axes.items():
        figures.curves(axis, FRAME[FRAME.H == H], "n", "risk", label="model")
    figures.finish(figure, axes, "context pairs $n$", "excess risk", log="y")
    assert [axis.get_xlabel() for axis in axes.values()] == ["context pairs $n$"] * 2
    assert [axis.get_ylabel() for axis in axes.values()] == ["excess risk", ""]
    assert {axis.get_yscale() for axis in axes.values()} == {"log"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["model"]
    plt.close("all")


def test_panels_of_points():
    _, axes = figures.facets(FRAME[FRAME.n == 3], "H", "{}", "n", "risk", draw=figures.points)
    for H, axis in axes.items():
        assert [bar.lines[0].get_ydata().tolist() for bar in axis.containers] == [[3 * H + 1]]
    plt.close("all")


def test_heads_stand_side_by_side_each_matrix_on_its_own_scale(axis):
    kq, ov = (
        np.array([[[1.0, 7.0], [3.0, 7.0]], [[-4.0, 7.0], [2.0, 7.0]]]),
        np.array([[[0, 5.0]], [[0, -10]]]),
    )
    strip = figures.heads(axis, kq, ov, "two")
    gap = np.nan
    expected = [
        [0.25, gap, gap, -1, gap, gap],
        [0.75, gap, gap, 0.5, gap, gap],
        [gap] * 6,
        [0, 0.5, gap, 0, -1, gap],
    ]
    np.testing.assert_array_equal(strip, expected)
    assert axis.get_ylabel() == "two"
