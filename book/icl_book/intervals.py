"""Intervals that the chapters alone need, beside those of `icl_lib.evaluation`."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from icl_lib.evaluation import LEVEL, Interval, t_interval


def recovered(values: ArrayLike, worst: ArrayLike, best: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean share of the way from worst to best that values went, paired over seeds: all (seeds, ...).

    0 at the worst, 1 at the best; below 0 and above 1 where values lie outside. Raises ValueError where a
    seed's best is its worst: there is no way to go.
    """
    values, worst, best = (np.asarray(part, dtype=float) for part in (values, worst, best))
    if (worst == best).any():
        raise ValueError("a seed's best is its worst: allowed are seeds where they differ")
    return t_interval((worst - values) / (worst - best), level)


def largest_difference(values: ArrayLike, reference: ArrayLike, level: float = LEVEL) -> Interval:
    """The size of log(values / reference) where it differs most from 0, for values (seeds, places), paired.

    That is the place whose interval reaches furthest: the whole of it is near 0 only if all places are.
    `reference` may lack the seeds.
    """
    log_ratio = np.log(np.asarray(values, dtype=float)) - np.log(np.asarray(reference, dtype=float))
    found = t_interval(log_ratio, level)
    nearer, further = np.sort([abs(found.low), abs(found.high)], axis=0)
    nearer = np.where(found.low * found.high < 0, 0.0, nearer)
    worst = further.argmax()
    return Interval(abs(found.mean)[worst], nearer[worst], further[worst])


def wilson_interval(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Wilson's interval of a share, for events that happen or do not: sensible at 0 and at all, too."""
    found = stats.binomtest(int(successes), int(trials)).proportion_ci(level, method="wilson")
    return Interval(successes / trials, found.low, found.high)
