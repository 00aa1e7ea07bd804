"""The trainings and evaluations that the chapters on paper A share.

A chapter describes its models by a setting: a table of parameters (see `profiles.toml`). Chapters that ask
for the same models find them in the store, so that the book trains each once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icl_lib import baselines, heads
from icl_lib.baselines import evaluation_prompts
from icl_lib.settings import Training
from icl_lib.store import trained
from icl_lib.tasks import Prompts, Task
from icl_lib.training import Trained, trimmed_mean
from icl_lib.transformer import Transformer, Weights

SEED = 0  # of the evaluation prompts: all models see the same ones


def training(setting: Mapping[str, object], H: int | Sequence[int], **changes: object) -> Training:
    """The training of a setting, with H heads in every layer, or H[l] in layer l; `changes` win over it."""
    setting = dict(setting) | changes
    layers = setting.pop("layers")
    in_each = (H,) * layers if isinstance(H, int) else tuple(H)
    task = {name: setting.pop(name) for name in ("d", "s", "sigma", "weights")}
    model = {name: setting.pop(name) for name in ("D", "k", "attention", "init_scale") if name in setting}
    return Training(
        task=Task(**task),
        model=Transformer(d=task["d"], heads=in_each, **model),
        n=tuple(setting.pop("n_range")),
        **setting,
    )


def ensemble(settings: Training, seeds: int, starts: Sequence[Weights] | None = None) -> list[Trained]:
    """The trained models of one setting, one a seed, from the store."""
    return trained([replace(settings, seed=seed) for seed in range(seeds)], starts=starts)


def double(weights: Weights) -> dict[str, Tensor]:
    """Weights in double precision, in which models are evaluated."""
    return {name: weight.double() for name, weight in weights.items()}


def stacked(members: Sequence[Weights]) -> dict[str, Tensor]:
    """Weights of models of one shape as one ensemble (S, ...), in double precision."""
    return {name: torch.stack([weights[name] for weights in members]).double() for name in members[0]}


def risk(model: Transformer, weights: Weights, task: Task, prompts: Prompts) -> np.ndarray:
    """1%-trimmed mean excess risk of every member of the weights' ensemble, (*S)."""
    with torch.no_grad():
        return trimmed_mean(model.excess_risk(weights, task, prompts)).numpy()


def risks(
    models: Sequence[Trained], lengths: Sequence[int], prompts: int, task: Task | None = None
) -> np.ndarray:
    """1%-trimmed mean excess risk at each length, (models, lengths), on the task of training or another."""
    settings = models[0].settings
    weights = [model.weights for model in models]
    return risks_of(settings.model, weights, task or settings.task, lengths, prompts)


def risks_of(
    model: Transformer, members: Sequence[Weights], task: Task, lengths: Sequence[int], prompts: int
) -> np.ndarray:
    """1%-trimmed mean excess risk at each length of each set of weights, (members, lengths)."""
    weights = stacked(members)
    columns = [risk(model, weights, task, evaluation_prompts(task, n, prompts, SEED)) for n in lengths]
    return np.stack(columns, -1)


class Masking(NamedTuple):
    """One model's risks when its heads are switched off one at a time."""

    full: float  # no head off
    zero: float  # of predicting zero
    off: list[np.ndarray]  # (H) in each layer


def maskings(
    models: Sequence[Trained],
    n: int,
    prompts: int,
    *,
    ablate: bool = False,
    average: heads.Average = trimmed_mean,
) -> list[Masking]:
    """Every model's risks with one head off, all on the same prompts of n pairs, with training's queries.

    Off: the head's output is set to zero, or to its mean over prompts (`ablate`, linear attention only).
    """
    task, model = models[0].settings.task, models[0].settings.model
    drawn = evaluation_prompts(task, n, prompts, SEED, models[0].settings.queries)
    return [
        masking(model, double(trained.weights), task, drawn, ablate=ablate, average=average)
        for trained in models
    ]


def masking(
    model: Transformer,
    weights: Weights,
    task: Task,
    prompts: Prompts,
    *,
    ablate: bool = False,
    average: heads.Average = trimmed_mean,
) -> Masking:
    """The risks of one set of weights with one head off (see `maskings`)."""
    nothing = dict(weights) | {"w_out": torch.zeros_like(weights["w_out"])}
    with torch.no_grad():
        zero = average(model.excess_risk(nothing, task, prompts)).item()
        if ablate:
            full = average(model.excess_risk(weights, task, prompts)).item()
            off = heads.mean_ablated_risks(model, weights, task, prompts, average)
        else:
            full, off = heads.masked_risks(model, weights, task, prompts, average)
    return Masking(full, zero, off)


def effective_numbers(found: Sequence[Masking], scale: str = "bounded") -> np.ndarray:
    """Effective number of heads of every layer, (models, layers)."""
    return np.array(
        [
            [heads.effective_number(heads.importance(off, one.full, one.zero, scale)) for off in one.off]
            for one in found
        ]
    )


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


def middle(setting: Mapping[str, object]) -> int:
    """The context length in the middle of `lengths`, at which models are compared."""
    found = lengths(setting)
    return found[len(found) // 2]


def lengths(setting: Mapping[str, object], points: int = 5) -> list[int]:
    """Context lengths evenly spread over those of training; the middle one is in the middle."""
    low, high = setting["n_range"]
    return np.unique(np.linspace(low, high, points).round().astype(int)).tolist()
