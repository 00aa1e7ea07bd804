"""What a figure shows, as a table: read off the finished figure, so that it is what the reader sees.

One row a point: panel, series, x, y, and where they exist the ends of an error bar or a band (y_low, y_high,
x_low, x_high), or the value of a cell of a heat map and the text in it.
"""

import csv
import io
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import (
    FillBetweenPolyCollection,
    PathCollection,
    QuadMesh,
)
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import AxLine, Line2D

COLUMNS = ("panel", "series", "x", "y", "y_low", "y_high", "x_low", "x_high", "value", "text")

Row = dict[str, object]


def table(figure: Figure) -> str:
    """CSV with those of `COLUMNS` that the figure needs, numbers to six digits.

    Raises ValueError for a panel that shows nothing that can be put in a table.
    """
    figure.canvas.draw()  # ticks get their labels
    rows = []
    for number, axis in enumerate(figure.axes, start=1):
        found = list(_rows(axis))
        if not found and axis.axison:
            raise ValueError(f"panel {number} shows nothing: allowed are curves, points, bars and heat maps")
        title = axis.get_title() or (axis.get_ylabel() or f"panel {number}" if len(figure.axes) > 1 else "")
        rows += [{"panel": " ".join(title.split())} | row for row in found]
    used = [name for name in COLUMNS if any(row.get(name, "") != "" for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, used, extrasaction="ignore", lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
        )
    return text.getvalue()


def _rows(axis: Axes) -> Iterator[Row]:
    bands = [part for part in axis.collections if isinstance(part, FillBetweenPolyCollection)]
    bars = [part for part in axis.containers if isinstance(part, ErrorbarContainer)]
    inner = {id(line) for bar in bars for line in (bar.lines[0], *bar.lines[1])}
    lines = [line for line in axis.lines if id(line) not in inner and not isinstance(line, AxLine)]
    for number, line in enumerate(lines, start=1):
        yield from _line(axis, line, bands, f"line {number}")
    for band in bands:  # that belong to no line
        along, across = ("x", "y") if band.t_direction == "x" else ("y", "x")
        at, low, high = _ends(band)
        yield from _points(_name(band), **{along: at, f"{across}_low": low, f"{across}_high": high})
    for bar in bars:
        yield from _error_bars(bar)
    for part in axis.containers:
        if isinstance(part, BarContainer):
            centres = [patch.get_x() + patch.get_width() / 2 for patch in part.patches]
            yield from _points(_name(part), x=centres, y=[patch.get_height() for patch in part.patches])
    for part in axis.collections:
        if isinstance(part, PathCollection):
            x, y = np.ma.getdata(part.get_offsets()).T
            yield from _points(_name(part), x=x, y=y)
        elif isinstance(part, QuadMesh):
            yield from _cells(axis, part)


def _points(series: str, **columns: Sequence[float] | np.ndarray) -> Iterator[Row]:
    for values in zip(*columns.values(), strict=True):
        yield {"series": series} | {name: float(value) for name, value in zip(columns, values, strict=True)}


def _name(part: object, unnamed: str = "") -> str:
    label = str(part.get_label())
    return unnamed if label.startswith("_") else label


def _line(axis: Axes, line: Line2D, bands: list[FillBetweenPolyCollection], unnamed: str) -> Iterator[Row]:
    """A curve, with its band if there is one over the same x in its colour; it is taken off `bands`."""
    name = _name(line, unnamed)
    x, y = (np.asarray(part, dtype=float) for part in line.get_data(orig=False))
    if line.get_transform() == axis.get_yaxis_transform(which="grid"):  # axhline: x says how far across
        yield from _points(name, y=y[:1])
        return
    if line.get_transform() == axis.get_xaxis_transform(which="grid"):
        yield from _points(name, x=x[:1])
        return
    columns = {"x": x, "y": y}
    for band in bands:
        where, low, high = _ends(band)
        if np.array_equal(where, x) and tuple(band.get_facecolor()[0][:3]) == to_rgb(line.get_color()):
            columns |= {"y_low": low, "y_high": high}
            bands.remove(band)
            break
    yield from _points(name, **columns)


def _ends(band: FillBetweenPolyCollection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, low and high of a band: an outline runs along one edge, turns at its end, and comes back."""
    along = "xy".index(band.t_direction)
    places, edges = [], ([], [])
    for path in band.get_paths():
        size = (len(path.vertices) - 3) // 2
        there, back = path.vertices[1 : size + 1], path.vertices[size + 2 : 2 * size + 2][::-1]
        at = there[:, along]
        last = np.append(at[1:] != at[:-1], True)  # a step has two corners at its x: the new level
        places.extend(at[last])
        for edge, corners in zip(edges, (there, back), strict=True):
            edge.extend(corners[last, 1 - along])
    return np.array(places), *np.sort(edges, axis=0)


def _error_bars(bar: ErrorbarContainer) -> Iterator[Row]:
    """Points with the ends of their bars, which matplotlib keeps as segments."""
    line, _, pieces = bar.lines
    if line is None:
        return
    columns = dict(
        zip("xy", (np.asarray(part, dtype=float) for part in line.get_data(orig=False)), strict=True)
    )
    for piece in pieces:
        segments = np.array(piece.get_segments()).reshape(-1, 2, 2)
        along = "x" if bar.has_xerr and piece is pieces[0] else "y"
        ends = segments[:, :, "xy".index(along)]
        columns |= {f"{along}_low": ends.min(1), f"{along}_high": ends.max(1)}
    yield from _points(_name(bar), **columns)


def _cells(axis: Axes, mesh: QuadMesh) -> Iterator[Row]:
    """The cells of a heat map, by the labels of its axes where every cell has one, else by their middles."""
    values = np.ma.filled(mesh.get_array().astype(float), np.nan)
    corners = mesh.get_coordinates()
    middles = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    values = values.reshape(middles.shape[:2])
    names = []
    for scale, size in ((axis.yaxis, values.shape[0]), (axis.xaxis, values.shape[1])):
        labels = [label.get_text() for label in scale.get_ticklabels()]
        names.append(labels if len(labels) == size and all(labels) else None)
    texts = [text.get_text() for text in axis.texts]
    for (i, j), value in np.ndenumerate(values):
        y = names[0][i] if names[0] else float(middles[i, j, 1])
        x = names[1][j] if names[1] else float(middles[i, j, 0])
        row = {"series": _name(mesh), "x": x, "y": y, "value": float(value)}
        yield row | ({"text": texts[i * values.shape[1] + j]} if len(texts) == values.size else {})
