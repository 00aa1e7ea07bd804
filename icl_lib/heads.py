"""Which heads matter: switching off one head at a time, importance, pruning (paper A, claims A2 and A3).

A head is switched off by setting its output to zero, or to its mean over prompts. Risks of masked models
differ by orders of magnitude, and linear attention can blow up when a head is missing; so importance is
bounded by what predicting zero costs, or taken on a logarithmic scale.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from icl_lib import checks
from icl_lib.tasks import Prompts, Task, gram
from icl_lib.training import trimmed_mean
from icl_lib.transformer import Transformer, Weights, mask_heads

Average = Callable[[Tensor], Tensor]  # of risks over prompts: (B,) -> ()

SCALES = ("bounded", "log ratio", "ratio")
REFIT_ROUNDS = 30  # of `refit_read_out`; the loss changes by less than 1e-6 in the last ones


def one_head_off(heads: Sequence[int], layer: int, head: int) -> list[Tensor]:
    """Masks (1 on, 0 off) for `mask_heads` with one head off."""
    checks.integer("layer", layer, 0, len(heads) - 1)
    checks.integer("head", head, 0, heads[layer] - 1)
    masks = [torch.ones(H) for H in heads]
    masks[layer][head] = 0
    return masks


def masked_risks(
    model: Transformer, weights: Weights, task: Task, prompts: Prompts, average: Average = trimmed_mean
) -> tuple[float, list[np.ndarray]]:
    """Risk of the full model, and in each layer (H,) the risk with each head off: averages over prompts."""

    def risk(masks: list[Tensor]) -> float:
        masked = mask_heads(weights, [mask.to(prompts.x) for mask in masks])
        return average(model.excess_risk(masked, task, prompts)).item()

    full = risk([torch.ones(H) for H in model.heads])
    return full, [
        np.array([risk(one_head_off(model.heads, layer, head)) for head in range(H)])
        for layer, H in enumerate(model.heads)
    ]


def mean_ablated_risks(
    model: Transformer, weights: Weights, task: Task, prompts: Prompts, average: Average = trimmed_mean
) -> list[np.ndarray]:
    """As `masked_risks`, with each head's output replaced by its mean over the prompts (linear attention).

    What a head adds is a linear image of a token, by a matrix that depends on the prompt; its mean over
    prompts is that of the matrix. So what the head does alike in all prompts stays.
    """
    G, layers = gram(prompts), len(model.heads)
    stream = model.residual_stream(weights, G, layers)

    def risk(layer: int, head: int) -> float:
        alone = dict(weights) | {
            f"W_{name}.{layer}": weights[f"W_{name}.{layer}"][head : head + 1] for name in "QKVO"
        }
        added = model.layer_output(alone, G, stream[layer], layer)
        A = stream[layer + 1] - added + added.mean(-3, keepdim=True)
        for later in range(layer + 1, layers):
            A = A + model.layer_output(weights, G, A, later)
        w_hat = (A @ weights["w_out"])[..., : model.d]
        return average(task.excess_risk(w_hat, prompts.w)).item()

    return [np.array([risk(layer, head) for head in range(H)]) for layer, H in enumerate(model.heads)]


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


def refit_read_out(
    model: Transformer, weights: Weights, prompts: Prompts, delta: float = 1.0
) -> dict[str, Tensor]:
    """Weights with w_out fitted anew to the queries' targets, all others as they are.

    Minimizes the mean pseudo-Huber loss 2 delta^2 (sqrt(1 + e^2 / delta^2) - 1) of the errors e, which is
    convex, by reweighted least squares: an error e has weight 1 / sqrt(1 + e^2 / delta^2).
    """
    z = model.token_stream(weights, prompts, len(model.heads))[..., prompts.x.shape[-2] :, :].flatten(0, -2)
    target, w_out = prompts.target().flatten(), weights["w_out"]
    for _ in range(REFIT_ROUNDS):
        root = (1 + (z @ w_out - target).square() / delta**2) ** -0.25  # of the weight
        w_out = torch.linalg.lstsq(z * root[:, None], (target * root)[:, None], driver="gelsd").solution[:, 0]
    return dict(weights) | {"w_out": w_out}


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
