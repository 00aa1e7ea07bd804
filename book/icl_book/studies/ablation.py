"""Heads switched off one at a time, at zero or at their mean over prompts: what each is worth (claim A2)."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from icl_lib import heads
from icl_lib.evaluation import Average
from icl_lib.heads import Masking
from icl_lib.tasks import Prompts, Task, evaluation_prompts, gram, together
from icl_lib.training import Runs, trimmed_mean
from icl_lib.transformer import Transformer, Weights

MEASURES = {  # how the heads are switched off, and the scale of `heads.scaled`
    "bounded, masked": ("masked", "bounded"),
    "bounded, mean-ablated": ("mean-ablated", "bounded"),
    "bounded, medians": ("medians", "bounded"),
    "log ratio, masked": ("masked", "log ratio"),
    "plain ratio, masked": ("masked", "ratio"),
}


def heads_off(
    models: Mapping[object, Runs],
    column: str,
    n: int | Mapping[object, int],
    prompts: int,
    *,
    measures: Sequence[str] = tuple(MEASURES),
    seed: int = 0,
) -> pd.DataFrame:
    """Models without one head at a time, at context length n, one or that of each: a row a head and measure.

    `column`, measure, seed, layer and head (from 1), rank in the layer (1: the head whose loss costs most),
    risk without the head, relative to the whole model's, importance.
    """
    frames = []
    for key, runs in models.items():
        length = n[key] if isinstance(n, Mapping) else n
        ways = {MEASURES[measure][0] for measure in measures}
        costs = {way: _SWITCHED_OFF[way](runs, length, prompts, seed=seed) for way in ways}
        for measure in measures:
            way, scale = MEASURES[measure]
            for model, masking in zip(runs, costs[way], strict=True):
                frames += [
                    _layer(masking, layer, scale).assign(**{column: key}, measure=measure, seed=model.seed)
                    for layer in range(len(masking.off))
                ]
    first = [column, "measure", "seed", "layer", "head", "rank"]
    return pd.concat(frames, ignore_index=True)[[*first, "risk", "relative", "importance"]]


def _layer(masking: Masking, layer: int, scale: str) -> pd.DataFrame:
    risk = masking.off[layer]
    frame = pd.DataFrame({"layer": layer + 1, "head": range(1, len(risk) + 1), "risk": risk})
    frame["rank"] = frame.risk.rank(ascending=False, method="first", na_option="top").astype(int)
    importance = heads.scaled(risk, masking.full, masking.zero, scale)
    return frame.assign(relative=risk / masking.full, importance=importance)


def mean_ablated(runs: Runs, n: int, prompts: int, seed: int = 0) -> list[Masking]:
    """`heads.maskings` with heads at their means over prompts in place of zero."""
    model, task = runs.settings.model, runs.settings.task
    drawn = evaluation_prompts(task, n, prompts, seed, runs.settings.queries)
    zero = trimmed_mean(task.excess_risk(torch.zeros_like(drawn.w), drawn.w)).item()
    with torch.no_grad():
        return [
            Masking(
                trimmed_mean(one.excess_risk(task, drawn)).item(),
                zero,
                mean_ablated_risks(model, one.weights, task, drawn),
            )
            for one in runs
        ]


def mean_ablated_risks(
    model: Transformer, weights: Weights, task: Task, prompts: Prompts, average: Average = trimmed_mean
) -> list[np.ndarray]:
    """In each layer (H,) the risk with each head at its mean over prompts in place of off: linear attention.

    What a head adds is a linear image of a token, by a matrix that depends on the prompt; its mean over
    prompts is that of the matrix. So what the head does alike in all prompts stays.
    """
    weights, prompts = together(weights, prompts)
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


_SWITCHED_OFF = {
    "masked": heads.maskings,
    "medians": partial(heads.maskings, average=torch.median),
    "mean-ablated": mean_ablated,
}
