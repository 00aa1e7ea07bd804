"""Which heads matter: switching off one head at a time, importance, pruning (paper A, claims A2 and A3).

A head is switched off by setting its output to zero. Risks of masked models differ by orders of magnitude,
and linear attention can blow up when a head is missing; so importance is bounded by what predicting zero
costs, or taken on a logarithmic scale.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from icl_lib import checks
from icl_lib.evaluation import Average
from icl_lib.tasks import Prompts, Task, evaluation_prompts
from icl_lib.training import Runs, trimmed_mean
from icl_lib.transformer import Transformer, Weights

SCALES = ("bounded", "log ratio", "ratio")


def importance(
    runs: Runs, n: int, *, scale: str = "bounded", prompts: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How much each head of trained transformers matters: one head off at a time, all on the same prompts.

    Parameters
    ----------
    runs : Runs
        Trained transformers.
    n : int
        Context length.
    scale : {"bounded", "log ratio", "ratio"}
        See `scaled`.
    prompts, seed : int
        How many evaluation prompts, and which.

    Returns
    -------
    pandas.DataFrame
        seed, layer and head (both from 0), risk (1%-trimmed mean without this head), importance.

    References
    ----------
    Paper A, Fig. 1; its formula is not published, so that the scale is a choice.
    """
    checks.one_of("model", type(runs.settings.model).__name__, ("Transformer",))
    rows = []
    for model, masked in zip(runs, maskings(runs, n, prompts, seed=seed), strict=True):
        for layer, off in enumerate(masked.off):
            values = scaled(off, masked.full, masked.zero, scale)
            rows += [
                (model.seed, layer, head, *both) for head, both in enumerate(zip(off, values, strict=True))
            ]
    return pd.DataFrame(rows, columns=["seed", "layer", "head", "risk", "importance"])


class Masking(NamedTuple):
    """One model's risks when its heads are switched off one at a time."""

    full: float  # no head off
    zero: float  # of predicting zero
    off: list[np.ndarray]  # (H) in each layer


def maskings(
    runs: Runs, n: int, prompts: int, *, seed: int = 0, average: Average = trimmed_mean
) -> list[Masking]:
    """Every model's `masking`, all on the same prompts of n pairs, with training's queries."""
    model, task, queries = runs.settings.model, runs.settings.task, runs.settings.queries
    drawn = evaluation_prompts(task, n, prompts, seed, queries)
    return [masking(model, found.weights, task, drawn, average=average) for found in runs]


def masking(
    model: Transformer, weights: Weights, task: Task, prompts: Prompts, *, average: Average = trimmed_mean
) -> Masking:
    """The risks of one set of weights with one head off at a time: averages over prompts."""

    def risk(weights: Weights) -> float:
        with torch.no_grad():
            return average(model.excess_risk(weights, task, prompts)).item()

    off = [
        np.array([risk(model.switched_off(weights, {layer: [head]})) for head in range(H)])
        for layer, H in enumerate(model.heads)
    ]
    return Masking(risk(weights), risk(dict(weights) | {"w_out": torch.zeros_like(weights["w_out"])}), off)


def effective_numbers(found: Sequence[Masking], scale: str = "bounded") -> np.ndarray:
    """Effective number of heads of every layer, (models, layers)."""
    return np.array([[effective_number(scaled(off, *m[:2], scale)) for off in m.off] for m in found])


def prune(
    model: Transformer, weights: Weights, kept: Sequence[Sequence[int]]
) -> tuple[Transformer, dict[str, Tensor]]:
    """The smaller model with only the heads kept[l] of each layer l, and its weights (paper A, pruning)."""
    if len(kept) != len(model.heads):
        raise ValueError(f"kept = {kept}: allowed is a list for each of the {len(model.heads)} layers")
    pruned = dict(weights)
    for layer, (heads, H) in enumerate(zip(kept, model.heads, strict=True)):
        checks.integers(f"kept[{layer}]", tuple(heads), 0, H - 1)
        if len(set(heads)) < len(heads):
            raise ValueError(f"kept[{layer}] = {heads}: allowed is each head once")
        for name in "QKVO":
            pruned[f"W_{name}.{layer}"] = weights[f"W_{name}.{layer}"][..., list(heads), :, :]
    widths = {W_Q.shape[-1] for name, W_Q in weights.items() if name.startswith("W_Q")}
    if len(widths) > 1:
        raise ValueError(f"heads of widths {sorted(widths)}: allowed is one width in all layers")
    return replace(model, heads=tuple(map(len, kept)), k=widths.pop()), pruned


def scaled(masked: ArrayLike, full: float, zero: float, scale: str = "bounded") -> np.ndarray:
    """How much a head matters, from the risk with it off (masked), of the full model, of predicting zero.

    bounded: (min(masked, zero) - full) / (zero - full), from 0 (no loss) to 1 (all that was learned is lost);
    0 for all heads of a model that is no better than predicting zero: there is nothing to lose.
    log ratio: log(masked / full).  ratio: masked / full - 1, which one head that blows up can fill alone.
    Gains from masking count as 0.
    """
    checks.one_of("scale", scale, SCALES)
    masked = np.nan_to_num(np.asarray(masked, dtype=float), nan=np.inf)
    if scale == "bounded" and full >= zero:
        value = np.zeros_like(masked)
    elif scale == "bounded":
        value = (np.minimum(masked, zero) - full) / (zero - full)
    elif scale == "log ratio":
        value = np.log(masked / full)
    else:
        value = masked / full - 1
    return np.maximum(value, 0)


def effective_number(importances: ArrayLike) -> float:
    """1 / sum of squared shares: H when all heads matter alike, 1 when one does all; 0 if none does."""
    importances = np.asarray(importances, dtype=float)
    total = importances.sum()
    return float(1 / np.square(importances / total).sum()) if total > 0 else 0.0
