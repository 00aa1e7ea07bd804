"""Intervals that the chapters alone need, beside those of `icl_lib.evaluation`."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from icl_lib.evaluation import LEVEL, Interval, t_interval


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
