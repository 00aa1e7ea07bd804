"""Claims A1 to A3 in one setting after another (claim A7): three shapes of model, four measures.

With H heads in a layer or one, the shapes are one head everywhere, H heads in the first layer only, and
H heads everywhere.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from icl_book import claims
from icl_lib import heads
from icl_lib.training import Runs


def shapes(H: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Heads in each layer, by shape."""
    return {
        "one": (1,) * layers,
        "first": (H,) + (1,) * (layers - 1),
        "all": (H,) * layers,
    }


def evidence(
    models: Mapping[tuple[str, str], Runs], n: int, prompts: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What models by (setting, shape) show at length n.

    Of every model, setting, shape, seed, risk, least: how much its risk rises, as a factor, without the head
    of layer 1 that matters least. Of every layer, from 1, setting, shape, seed, layer, H, effective: its
    heads and their effective number.
    """
    risks, layers = [], []
    for (setting, shape), runs in models.items():
        for model, masked in zip(runs, heads.maskings(runs, n, prompts), strict=True):
            at = {"setting": setting, "shape": shape, "seed": model.seed}
            risks.append(at | {"risk": masked.full, "least": np.nanmin(masked.off[0]) / masked.full})
            numbers = heads.effective_numbers([masked])[0]
            for layer, (H, number) in enumerate(
                zip(runs.settings.model.heads, numbers, strict=True), start=1
            ):
                layers.append(at | {"layer": layer, "H": H, "effective": number})
    return pd.DataFrame(risks), pd.DataFrame(layers)


def judged(measures: pd.DataFrame) -> pd.DataFrame:
    """Measures by (setting, seed), each judged in each setting by its test of claim A7.

    measure, setting, mean, low, high, verdict, threshold.
    """
    rows = []
    for measure in measures:
        test = claims.criterion(f"A7.{measure}")
        for setting, values in measures[measure].groupby("setting", sort=False):
            found = claims.estimate(test, values)
            rows.append((measure, setting, *found, claims.verdict(test, found), test.threshold))
    columns = ["measure", "setting", "mean", "low", "high", "verdict", "threshold"]
    return pd.DataFrame(rows, columns=columns)


def worst(found: pd.DataFrame, measure: str) -> str:
    """The setting whose whole interval is furthest on the wrong side: a claim over all cannot do better.

    The bound that decides `not reproduced` ranks, so that a setting is not the worst for its noise alone.
    """
    rows = found[found.measure == measure].set_index("setting")
    return rows.low.idxmax() if claims.criterion(f"A7.{measure}").sense == "<=" else rows.high.idxmin()
