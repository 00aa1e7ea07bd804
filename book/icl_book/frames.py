"""What was measured, as tidy frames: one row a measurement, one column a condition, `seed` among them.

An estimate is made of one number a seed. `pick` takes these out of a frame as a Series by seed, so that a
quotient or difference of two is paired; `frame.groupby(conditions).risk.agg(t_interval)` makes one for each
combination of conditions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from icl_lib.evaluation import Interval, ratio_interval, t_interval

Estimate = Callable[[ArrayLike], Interval]  # of one number a seed


def pick(frame: pd.DataFrame, y: str, **where: object) -> pd.Series | float:
    """The values of y at some conditions, by seed; a float where there is no seed.

    Raises LookupError if no value is there, or several of one seed.
    """
    rows = frame
    for column, value in where.items():
        rows = rows[rows[column] == value]
    at = ", ".join(f"{column} = {value!r}" for column, value in where.items())
    if rows.empty:
        known = {column: frame[column].unique().tolist() for column in where}
        raise LookupError(f"no {y} at {at}: allowed are {known}")
    seeds = rows.get("seed", pd.Series(pd.NA, rows.index))
    if seeds.duplicated().any():
        raise LookupError(f"several values of {y} at {at}: allowed are conditions of one value a seed")
    return float(rows[y].iloc[0]) if seeds.isna().all() else rows.set_index("seed")[y].astype(float)


def tidy(values: Mapping[str, ArrayLike], **axes: Iterable) -> pd.DataFrame:
    """Arrays of one shape as a frame, a row an entry: a column for each axis, with its labels, and array."""
    index = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
    return pd.DataFrame({name: np.ravel(array) for name, array in values.items()}, index).reset_index()


def entries(
    matrices: Mapping[object, ArrayLike], names: Sequence[str] = ("matrix", "row", "column")
) -> pd.DataFrame:
    """Matrices, as of heat maps, an entry a row: their keys, its row and column, value.

    `names` are those of the columns but the last; a key has a value for each of the first.
    """
    stacked = {key: pd.DataFrame(np.asarray(matrix)).stack() for key, matrix in matrices.items()}
    return pd.concat(stacked).rename_axis(list(names)).reset_index(name="value")


def stacked(frames: Mapping[object, pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Frames one below the other; a key has a value for each of the columns, which stand in front."""
    return pd.concat(frames, names=columns).reset_index(list(columns)).reset_index(drop=True)


def relative(frame: pd.DataFrame, to: pd.DataFrame, y: str, on: Sequence[str]) -> np.ndarray:
    """y in a frame relative to that in another at the same conditions `on`; nan where there is none."""
    base = frame[list(on)].merge(to[[*on, y]], how="left", on=list(on))[y]
    return frame[y].to_numpy() / base.to_numpy()


def geometric(values: ArrayLike) -> Interval:
    """Geometric mean of positive values, such as ratios, with its interval."""
    return ratio_interval(values, np.ones_like(np.asarray(values, dtype=float)))


def within(interval: Interval, low: float, high: float) -> Interval:
    """The part of an interval that lies in the range of its quantity: it covers as often as the whole."""
    return Interval(interval.mean, *np.clip(interval[1:], low, high))


def bounded(low: float, high: float) -> Estimate:
    """The t interval of a quantity that can only be from low to high: see `within`."""
    return lambda values: within(t_interval(values), low, high)


SCALES: Mapping[str, Estimate] = {"plain": t_interval, "log": geometric}


def markdown(frame: pd.DataFrame, spec: str | Mapping[str, str] = ".3g", index: bool = True) -> str:
    """A frame as a Markdown table, its index in front.

    Numbers and intervals are formatted by `spec`, one for all columns or one a column; whole numbers and
    words stay as they are, and missing values leave a cell empty.
    """
    frame = frame.reset_index() if index else frame
    lines = [[*map(str, frame.columns)], ["---"] * len(frame.columns)]
    for row in frame.itertuples(index=False, name=None):
        specs = [spec if isinstance(spec, str) else spec.get(name, ".3g") for name in frame.columns]
        lines.append([_shown(value, form) for value, form in zip(row, specs, strict=True)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: object, spec: str) -> str:
    if isinstance(value, Interval):
        return f"{value:{spec}}".replace(", ", ",\N{NO-BREAK SPACE}")  # no break between the ends
    if np.ndim(value) == 0 and pd.isna(value):
        return ""
    return f"{value:{spec}}" if isinstance(value, float) else str(value)
