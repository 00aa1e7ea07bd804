"""One look for all figures: a colour, a line style and a marker for each method, the same in every chapter.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; the marker is the second cue.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from icl_book.claims import NOT_REPRODUCED, REPRODUCED, UNDECIDED
from icl_book.frames import Estimate
from icl_lib.evaluation import t_interval

_LOOKS = {
    "zero": ("#999999", ":", ""),
    "OLS": ("#999999", "--", "s"),
    "ridge": ("#0072B2", "-", "o"),
    "gradient descent": ("#56B4E9", "-", "v"),
    "Lasso": ("#E69F00", "-", "^"),
    "Bayes": ("#000000", "-", "*"),
    "preprocess-then-optimize": ("#D55E00", "-", "D"),
}

REFERENCE = {"linestyle": "--", "linewidth": 1.2}  # of what models are compared with
_VERDICTS = {REPRODUCED: ("#0072B2", "o"), UNDECIDED: ("#E69F00", "D"), NOT_REPRODUCED: ("#D55E00", "X")}


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


def distinct(values: Sequence[object]) -> dict[object, dict[str, str]]:
    """Looks for up to four values that have no order: colours far apart, each its line style and marker."""
    colors, styles = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), ("-", "--", ":", "-.")
    looks = zip(values, colors, styles, "oDs^", strict=False)
    return {
        value: {"color": color, "linestyle": style, "marker": mark} for value, color, style, mark in looks
    }


def looks_of(values: Sequence[object]) -> dict[object, dict[str, str]]:
    """A look for each value: that of a method where all are known methods, else `ranked`."""
    return {value: look(value) for value in values} if set(values) <= _LOOKS.keys() else ranked(values)


def panels(titles: Sequence[str], height: float = 3.0, width: float = 2.7) -> tuple[Figure, list[Axes]]:
    """A row of panels that share the y axis."""
    figure, axes = plt.subplots(
        1, len(titles), figsize=(width * len(titles), height), sharey=True, squeeze=False
    )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    return figure, list(axes[0])


def grid(
    frame: pd.DataFrame, col: str, title: str = "{}", **size: float
) -> tuple[Figure, dict[object, Axes]]:
    """A row of panels, one for each value of a column, and that value's `title`."""
    values = frame[col].drop_duplicates().tolist()
    figure, axes = panels([title.format(value) for value in values], **size)
    return figure, dict(zip(values, axes, strict=True))


def facets(
    frame: pd.DataFrame,
    col: str,
    title: str,
    x: str,
    y: str,
    hue: str | None = None,
    *,
    height: float = 3.0,
    width: float = 2.7,
    draw: Callable[..., None] | None = None,
    **options: object,
) -> tuple[Figure, dict[object, Axes]]:
    """A `grid` of panels, each with the `curves` of its rows, or `points`; options are those of `draw`."""
    figure, axes = grid(frame, col, title, height=height, width=width)
    for value, axis in axes.items():
        (draw or curves)(axis, frame[frame[col] == value], x, y, hue, **options)
    return figure, axes


def curves(
    axis: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    *,
    label: str = "{}",
    looks: Mapping[object, Mapping[str, object]] | None = None,
    estimate: Estimate = t_interval,
    **style: object,
) -> None:
    """A curve for each value of the column `hue`: the estimate of y at each x, and its 95% band over seeds.

    Where there is one value at each x, there is no band. `style` wins over each curve's look.
    """
    for rows, own in _by_hue(frame, hue, label, looks):
        shown = {**own, **style}
        groups = rows.groupby(x, sort=True)[y]
        if (groups.size() == 1).all():
            axis.plot(rows[x], rows[y], **shown)
        else:
            found = groups.agg(estimate)
            mean, low, high = np.array(found.tolist()).T
            axis.plot(found.index, mean, **shown)
            step = "post" if shown.get("drawstyle") == "steps-post" else None
            band = {"color": shown["color"], "alpha": 0.2, "linewidth": 0}
            axis.fill_between(found.index, low, high, step=step, **band)


def points(
    axis: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    *,
    label: str = "{}",
    looks: Mapping[object, Mapping[str, object]] | None = None,
    estimate: Estimate = t_interval,
    dodge: float = 0.14,
    **style: object,
) -> None:
    """An estimate of y with its 95% interval at each x, and every seed as a dash; hues stand side by side."""
    parts = _by_hue(frame, hue, label, looks)
    for place, (rows, own) in enumerate(parts):
        shift = dodge * (place - (len(parts) - 1) / 2)
        shown = {"capsize": 2, **own, "linestyle": "", **style}
        found = rows.groupby(x, sort=True)[y].agg(estimate)
        mean, low, high = np.array(found.tolist()).T
        axis.errorbar(found.index + shift, mean, [mean - low, high - mean], **shown)
        dashes = {"color": shown["color"], "marker": "_", "markersize": 7, "alpha": 0.7, "linestyle": ""}
        axis.plot(rows[x] + shift, rows[y], **dashes)


def _by_hue(
    frame: pd.DataFrame, hue: str | None, label: str, looks: Mapping[object, Mapping[str, object]] | None
) -> list[tuple[pd.DataFrame, dict[str, object]]]:
    """The rows of each value of the column `hue`, with its label and look; all rows where there is none."""
    if hue is None:
        return [(frame, {"label": label.replace("{}", "_"), "color": "#0072B2", "marker": "o"})]
    values = frame[hue].drop_duplicates().tolist()
    looks = looks or looks_of(values)
    return [(frame[frame[hue] == value], {"label": label.format(value), **looks[value]}) for value in values]


def finish(
    figure: Figure,
    axes: Mapping[object, Axes] | Sequence[Axes],
    x: str = "",
    y: str = "",
    log: str = "",
    legend: int | None = 0,
) -> None:
    """The labels of x (all panels) and y (the first), the logarithmic axes named in `log`, one legend.

    `legend` is its number of columns; 0: one row, None: no legend.
    """
    axes = list(axes.values()) if isinstance(axes, Mapping) else list(axes)
    for axis in axes:
        axis.set_xlabel(x or axis.get_xlabel())
        for which in log:
            log_axis(axis, which)
    axes[0].set_ylabel(y or axes[0].get_ylabel())
    if legend is not None:
        shared_legend(figure, axes, columns=legend or None)


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


def heads(axis: Axes, kq: ArrayLike, ov: ArrayLike, name: str) -> np.ndarray:
    """A model's heads side by side, KQ (H, p, p) above OV (H, tasks, p), each on one scale; what is drawn.

    KQ's columns that meet the zeros of the query have no effect and are left out.
    """
    kq, ov = np.asarray(kq), np.asarray(ov)
    H, tasks, p = ov.shape
    kq = kq[..., : p - tasks]
    strip = np.full((H, p + 1 + tasks, p + 1), np.nan)  # a row between them, a column between heads
    strip[:, :p, : p - tasks] = kq / abs(kq).max()
    strip[:, p + 1 :, :p] = ov / abs(ov).max()
    strip = np.hstack(strip)
    matrix(axis, strip, "", 1)
    axis.set(ylabel=name, anchor="W")
    return strip


def verdicts(axis: Axes, frame: pd.DataFrame) -> None:
    """Intervals below one another, the first row on top, and the threshold that they are judged by.

    The columns are mean, low, high, verdict and threshold. Colour and marker tell the verdict.
    """
    axis.axvline(frame.threshold.iloc[0], color="#000000", linestyle="--", linewidth=1)
    places = np.arange(len(frame))
    for outcome, (color, marker) in _VERDICTS.items():
        shown = frame.verdict.to_numpy() == outcome
        rows = frame[shown]
        sides = np.maximum([rows["mean"] - rows.low, rows.high - rows["mean"]], 0)
        looks = {"color": color, "marker": marker, "linestyle": ""}
        axis.errorbar(rows["mean"], places[shown], xerr=sides, label=outcome, **looks)
    axis.set_ylim(len(frame) - 0.5, -0.5)
