"""Which heads matter: switching off one head at a time, importance, effective numbers (paper A, claim A2).

A head is switched off by setting its output to zero. Risks of masked models differ by orders of magnitude,
and linear attention can blow up when a head is missing; so importance is bounded by what predicting zero
costs, or taken on a logarithmic scale.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from icl_lib import checks
from icl_lib.tasks import Prompts, Task
from icl_lib.training import trimmed_mean
from icl_lib.transformer import Transformer, Weights, mask_heads

SCALES = ("bounded", "log ratio", "ratio")


def one_head_off(heads: Sequence[int], layer: int, head: int) -> list[Tensor]:
    """Masks (1 on, 0 off) for `mask_heads` with one head off."""
    checks.integer("layer", layer, 0, len(heads) - 1)
    checks.integer("head", head, 0, heads[layer] - 1)
    masks = [torch.ones(H) for H in heads]
    masks[layer][head] = 0
    return masks


def masked_risks(
    model: Transformer, weights: Weights, task: Task, prompts: Prompts
) -> tuple[float, list[np.ndarray]]:
    """Risk of the full model, and in each layer (H,) the risk with each head off: 1%-trimmed means."""

    def risk(masks: list[Tensor]) -> float:
        masked = mask_heads(weights, [mask.to(prompts.x) for mask in masks])
        return trimmed_mean(model.excess_risk(masked, task, prompts)).item()

    full = risk([torch.ones(H) for H in model.heads])
    return full, [
        np.array([risk(one_head_off(model.heads, layer, head)) for head in range(H)])
        for layer, H in enumerate(model.heads)
    ]


def importance(masked: ArrayLike, full: float, zero: float, scale: str = "bounded") -> np.ndarray:
    """How much a head matters, from the risk with it off (masked), of the full model, of predicting zero.

    bounded: (min(masked, zero) - full) / (zero - full), from 0 (no loss) to 1 (all that was learned is lost).
    log ratio: log(masked / full).  ratio: masked / full - 1, which one head that blows up can fill alone.
    Gains from masking count as 0.
    """
    checks.one_of("scale", scale, SCALES)
    masked = np.nan_to_num(np.asarray(masked, dtype=float), nan=np.inf)
    if scale == "bounded":
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
