"""One look for all figures: a colour, a line style and a marker for each method, the same in every chapter.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; the marker is the second cue.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from icl_book.claims import NOT_REPRODUCED, PARTLY, REPRODUCED
from icl_lib.evaluation import Interval

_LOOKS = {
    "zero": ("#999999", ":", ""),
    "OLS": ("#999999", "--", "s"),
    "ridge": ("#0072B2", "-", "o"),
    "gradient descent": ("#56B4E9", "-", "v"),
    "Lasso": ("#E69F00", "-", "^"),
    "Bayes": ("#000000", "-", "*"),
    "preprocess-then-optimize": ("#D55E00", "-", "D"),
}

_VERDICTS = {REPRODUCED: ("#0072B2", "o"), PARTLY: ("#E69F00", "D"), NOT_REPRODUCED: ("#D55E00", "X")}


def set_style() -> None:
    """The settings of all figures."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        rc={
            "figure.dpi": 120,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.8,
            "axes.titlesize": "medium",
            "axes.labelsize": "medium",
            "legend.frameon": False,
            "legend.fontsize": "small",
            "lines.linewidth": 1.8,
            "lines.markersize": 5.5,
        },
    )


def look(method: str) -> dict[str, str]:
    """Colour, line style and marker of a method."""
    color, linestyle, marker = _LOOKS[method]
    return {"color": color, "linestyle": linestyle, "marker": marker}


def ranked(values: Sequence[object]) -> dict[object, dict[str, str]]:
    """Looks for values that have an order, such as numbers of heads: from light to dark, each its marker."""
    colors = sns.color_palette("flare", len(values)).as_hex()
    markers = "ov^DsPX*"
    return {
        value: {"color": color, "linestyle": "-", "marker": markers[index % len(markers)]}
        for index, (value, color) in enumerate(zip(values, colors, strict=True))
    }


def panels(titles: Sequence[str], height: float = 3.0, width: float = 2.7) -> tuple[Figure, list[Axes]]:
    """A row of panels that share the y axis."""
    figure, axes = plt.subplots(
        1, len(titles), figsize=(width * len(titles), height), sharey=True, squeeze=False
    )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    return figure, list(axes[0])


def curve(axis: Axes, x: ArrayLike, interval: Interval, label: str, **looks: object) -> None:
    """A mean with its 95% band; the method's own look unless `looks` are given."""
    looks = looks or look(label)
    axis.plot(x, interval.mean, label=label, **looks)
    axis.fill_between(x, interval.low, interval.high, color=looks["color"], alpha=0.2, linewidth=0)


def log_axis(axis: Axes, which: str = "y") -> None:
    """A logarithmic axis with plain numbers; over less than two decades also between powers of ten."""
    if which == "y":
        axis.set_yscale("log")
        scale, (low, high) = axis.yaxis, axis.get_ylim()
    else:
        axis.set_xscale("log")
        scale, (low, high) = axis.xaxis, axis.get_xlim()
    subs = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 100 * low else (1,)
    scale.set_major_locator(LogLocator(subs=subs))
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    scale.set_minor_formatter(NullFormatter())


def shared_legend(figure: Figure, axes: Sequence[Axes], columns: int | None = None) -> None:
    """One legend below all panels."""
    entries: Mapping[str, object] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries |= {
            label: handle for handle, label in zip(handles, labels, strict=True) if label not in entries
        }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns or len(entries))


def matrix(axis: Axes, values: ArrayLike, title: str, limit: float | None = None, **options: object) -> None:
    """A heat map of a matrix, white at zero, the same scale on both sides."""
    sns.heatmap(
        values,
        ax=axis,
        cmap="RdBu_r",
        center=0,
        vmin=None if limit is None else -limit,
        vmax=limit,
        linewidths=0.4,
        linecolor="#eeeeee",
        **{"square": True, "cbar": False, "xticklabels": False, "yticklabels": False, **options},
    )
    axis.set_title(title)
    axis.grid(False)


def verdicts(axis: Axes, values: Sequence[Interval], outcomes: Sequence[str], bar: float) -> None:
    """Intervals below one another, the first on top, and the bar they are judged by.

    Colour and marker tell the verdict on each.
    """
    axis.axvline(bar, color="#000000", linestyle="--", linewidth=1)
    for outcome, (color, marker) in _VERDICTS.items():
        rows = [row for row, found in enumerate(outcomes) if found == outcome]
        mean, low, high = np.array([values[row] for row in rows]).reshape(-1, 3).T
        looks = {"color": color, "marker": marker, "linestyle": ""}
        axis.errorbar(mean, rows, xerr=[mean - low, high - mean], label=outcome, **looks)
    axis.set_ylim(len(values) - 0.5, -0.5)
