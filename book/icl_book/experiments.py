"""The trainings and evaluations that the chapters on paper A share.

A chapter describes its models by a setting: a table of parameters (see `profiles.toml`). Chapters that ask
for the same models find them in the store, so that the book trains each once.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from icl_lib import estimators
from icl_lib.evaluation import evaluate, model_risks
from icl_lib.tasks import Task, evaluation_prompts
from icl_lib.training import Runs, Training, Weights, stack, trimmed_mean
from icl_lib.transformer import Transformer

SEED = 0  # of the evaluation prompts: all models see the same ones
METHODS = {
    "OLS": estimators.ols,
    "ridge": estimators.ridge,
    "gradient descent": estimators.gradient_descent,
    "preprocess-then-optimize": estimators.preprocess_then_optimize,
    "Lasso": estimators.lasso,
    "Bayes": estimators.bayes,
}
DESCENTS = {name: METHODS[name] for name in ("gradient descent", "preprocess-then-optimize")}


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


def double(weights: Weights) -> dict[str, torch.Tensor]:
    """Weights in double precision, in which models are looked at."""
    return {name: weight.double() for name, weight in weights.items()}


def risks(models: Runs, lengths: Sequence[int], prompts: int, task: Task | None = None) -> np.ndarray:
    """1%-trimmed mean excess risk at each length, (models, lengths), on the task of training or another."""
    return table({"": models}, task or models.settings.task, lengths, prompts)[""]


def risks_of(
    model: Transformer, members: Sequence[Weights], task: Task, lengths: Sequence[int], prompts: int
) -> np.ndarray:
    """1%-trimmed mean excess risk at each length of each set of weights, (members, lengths)."""
    weights = stack(members)
    drawn = (evaluation_prompts(task, n, prompts, SEED) for n in lengths)
    return np.stack([trimmed_mean(model_risks(model, weights, task, some)).numpy() for some in drawn], -1)


def references(
    methods: Sequence[str], task: Task, lengths: Sequence[int], prompts: int
) -> dict[str, np.ndarray]:
    """1%-trimmed mean excess risk of known predictors on the models' evaluation prompts, (lengths) each.

    Each is at its best (`estimators.at_best`); Bayes is left out where it cannot be computed.
    """
    known = {name: METHODS[name] for name in methods if name != "Bayes" or estimators.has_bayes(task)}
    return {name: table[0] for name, table in table(known, task, lengths, prompts).items()}


def method_risks(
    methods: Sequence[str], task: Task, lengths: Sequence[int], seeds: int, prompts: int
) -> dict[str, np.ndarray]:
    """Mean excess risk of each method, (seeds, lengths): a seed is a set of evaluation prompts."""
    known = {name: METHODS[name] for name in methods}
    tables = [table(known, task, lengths, prompts, seed, average=torch.mean) for seed in range(seeds)]
    return {name: np.concatenate([table[name] for table in tables]) for name in methods}


def middle(setting: Mapping[str, object]) -> int:
    """The context length in the middle of `lengths`, at which models are compared."""
    found = lengths(setting)
    return found[len(found) // 2]


def lengths(setting: Mapping[str, object], points: int = 5) -> list[int]:
    """Context lengths evenly spread over those of training; the middle one is in the middle."""
    low, high = setting["n_range"]
    return np.unique(np.linspace(low, high, points).round().astype(int)).tolist()


def table(predictors, task, lengths, prompts, seed=SEED, **options) -> dict[str, np.ndarray]:
    """The risks of each predictor, (replicates, lengths)."""
    frame = evaluate(predictors, task, lengths, prompts=prompts, seed=seed, **options)
    by_name = frame.groupby("predictor").risk
    return {name: by_name.get_group(name).to_numpy().reshape(len(lengths), -1).T for name in predictors}
