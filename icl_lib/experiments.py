"""The trainings and evaluations that the chapters on paper A share.

A chapter describes its models by a setting: a table of parameters (see `profiles.toml`). Chapters that ask
for the same models find them in the store, so that the book trains each once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from icl_lib import baselines
from icl_lib.baselines import evaluation_prompts
from icl_lib.settings import Training
from icl_lib.store import trained
from icl_lib.tasks import Prompts, Task
from icl_lib.training import Trained, trimmed_mean
from icl_lib.transformer import Transformer, Weights

SEED = 0  # of the evaluation prompts: all models see the same ones


def training(setting: Mapping[str, object], heads: int | Sequence[int], **changes: object) -> Training:
    """The training of a setting, with so many heads in every layer, or in each; `changes` win over it."""
    setting = dict(setting) | changes
    heads = (heads,) * setting.pop("layers") if isinstance(heads, int) else tuple(heads)
    setting.pop("layers", None)
    task = {name: setting.pop(name) for name in ("d", "s", "sigma", "weights")}
    model = {name: setting.pop(name) for name in ("D", "k", "attention", "init_scale") if name in setting}
    return Training(
        task=Task(**task),
        model=Transformer(d=task["d"], heads=heads, **model),
        n=tuple(setting.pop("n_range")),
        **setting,
    )


def ensemble(settings: Training, seeds: int, starts: Sequence[Weights] | None = None) -> list[Trained]:
    """The trained models of one setting, one a seed, from the store."""
    return trained([replace(settings, seed=seed) for seed in range(seeds)], starts=starts)


def stacked(models: Sequence[Trained]) -> dict[str, Tensor]:
    """The best weights of models of one shape as one ensemble (S, ...), in double precision."""
    names = models[0].weights
    return {name: torch.stack([model.weights[name] for model in models]).double() for name in names}


def risk(model: Transformer, weights: Weights, task: Task, prompts: Prompts) -> np.ndarray:
    """1%-trimmed mean excess risk of every member of the weights' ensemble, (*S)."""
    with torch.no_grad():
        return trimmed_mean(model.excess_risk(weights, task, prompts)).numpy()


def risks(
    models: Sequence[Trained], lengths: Sequence[int], prompts: int, task: Task | None = None
) -> np.ndarray:
    """1%-trimmed mean excess risk at each length, (models, lengths), on the task of training or another."""
    task, model, weights = task or models[0].settings.task, models[0].settings.model, stacked(models)
    columns = [risk(model, weights, task, evaluation_prompts(task, n, prompts, SEED)) for n in lengths]
    return np.stack(columns, -1)


def references(
    methods: Sequence[str], task: Task, lengths: Sequence[int], prompts: int
) -> dict[str, np.ndarray]:
    """1%-trimmed mean excess risk of known predictors on the models' evaluation prompts, (lengths) each.

    Each is at its best (`baselines.reference`); Bayes is left out where it cannot be computed.
    """
    methods = [method for method in methods if method != "Bayes" or baselines.has_bayes(task)]
    table = {method: np.empty(len(lengths)) for method in methods}
    for column, n in enumerate(lengths):
        drawn = evaluation_prompts(task, n, prompts, SEED)
        for method in methods:
            w_hat = baselines.reference(method, task, n)(drawn.x, drawn.y)
            table[method][column] = trimmed_mean(task.excess_risk(w_hat, drawn.w)).item()
    return table


def lengths(setting: Mapping[str, object], points: int = 5) -> list[int]:
    """Context lengths evenly spread over those of training; the middle one is in the middle."""
    low, high = setting["n_range"]
    return np.unique(np.linspace(low, high, points).round().astype(int)).tolist()
