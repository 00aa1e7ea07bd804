"""Heads switched off in another way: their output replaced by its mean over prompts (claim A2)."""

import numpy as np
import torch

from icl_lib.evaluation import Average
from icl_lib.heads import Masking
from icl_lib.tasks import Prompts, Task, evaluation_prompts, gram, together
from icl_lib.training import Runs, trimmed_mean
from icl_lib.transformer import Transformer, Weights


def mean_ablated(runs: Runs, masked: list[Masking], n: int, prompts: int, seed: int = 0) -> list[Masking]:
    """The models' `heads.maskings` on the same prompts, with heads at their means in place of off."""
    model, task = runs.settings.model, runs.settings.task
    drawn = evaluation_prompts(task, n, prompts, seed, runs.settings.queries)
    with torch.no_grad():
        off = [mean_ablated_risks(model, found.weights, task, drawn) for found in runs]
    return [one._replace(off=risks) for one, risks in zip(masked, off, strict=True)]


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
