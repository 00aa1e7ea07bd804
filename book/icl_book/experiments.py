"""The trainings and evaluations that the chapters share, those on paper A above all.

A chapter describes its models by a setting: a table of parameters (see `profiles.toml`). What each chapter
trains is declared in `plan`. What is measured is a frame: the conditions, seed, n and risk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from icl_book.parameters import Setting
from icl_lib import estimators
from icl_lib.evaluation import Average, Predictor, evaluate
from icl_lib.tasks import MultiTask, Task
from icl_lib.training import Training, Weights, trimmed_mean
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


def training(setting: Setting, H: int | Sequence[int], **changes: object) -> Training:
    """The training of a setting of paper A, H heads in every layer, or H[l] in layer l; `changes` win."""
    given = setting.given() | changes
    layers = given.pop("layers")
    in_each = (H,) * layers if isinstance(H, int) else tuple(H)
    task = {name: given.pop(name) for name in ("d", "s", "sigma", "weights")}
    model = {name: given.pop(name) for name in ("D", "k", "attention", "init_scale") if name in given}
    return Training(
        task=Task(**task),
        model=Transformer(d=task["d"], heads=in_each, **model),
        n=tuple(given.pop("n_range")),
        **given,
    )


def task(setting: Setting, **changes: object) -> Task:
    """The task of a setting of paper A."""
    return training(setting, 1, **changes).task


def measure(
    predictors: Mapping[object, Predictor],
    columns: str | Sequence[str],
    lengths: int | Sequence[int],
    prompts: int,
    *,
    task: Task | MultiTask | None = None,
    average: Average = trimmed_mean,
    **options: object,
) -> pd.DataFrame:
    """Risks of predictors on the book's evaluation prompts: `columns`, seed, n, risk.

    A key has a value for each of the columns. Models are evaluated on the task that they were trained on
    unless another is given. Options are those of `evaluate`.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    frames = []
    for key, predictor in predictors.items():
        key = key if len(columns) > 1 else (key,)
        on = task or predictor.settings.task
        frame = evaluate({"": predictor}, on, lengths, prompts=prompts, average=average, **options)
        frame = frame.drop(columns="predictor")
        for place, (column, value) in enumerate(zip(columns, key, strict=True)):
            frame.insert(place, column, [value] * len(frame))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def references(
    methods: Sequence[str], task: Task, lengths: int | Sequence[int], prompts: int
) -> pd.DataFrame:
    """1%-trimmed mean excess risk of known predictors on the models' evaluation prompts: method, n, risk.

    Each is at its best (`estimators.at_best`); Bayes is left out where it cannot be computed.
    """
    return measure(_known(methods, task), "method", lengths, prompts, task=task)


def method_risks(
    methods: Sequence[str],
    task: Task,
    lengths: int | Sequence[int],
    seeds: int,
    prompts: int,
    **over: Sequence,
) -> pd.DataFrame:
    """Mean excess risk of each method, a seed being a set of evaluation prompts: method, seed, n, risk.

    `over` has values of fields of the task, each a column in front: sigma=[0.1, 1.0]. Methods are at their
    best, and Bayes is left out, as in `references`.
    """
    frames = []
    for values in product(*over.values()):
        chosen = dict(zip(over, values, strict=True))
        varied = replace(task, **chosen)
        for seed in range(seeds):
            known = _known(methods, varied)
            frame = measure(known, "method", lengths, prompts, task=varied, seed=seed, average=torch.mean)
            frames.append(frame.assign(seed=seed, **chosen))
    return pd.concat(frames, ignore_index=True)[[*over, *frames[0].columns.drop([*over])]]


def lengths(setting: Setting, points: int = 5) -> list[int]:
    """Context lengths evenly spread over those of training; the middle one is in the middle."""
    low, high = setting.n_range
    return np.unique(np.linspace(low, high, points).round().astype(int)).tolist()


def middle(setting: Setting) -> int:
    """The context length in the middle of `lengths`, at which models are compared."""
    found = lengths(setting)
    return found[len(found) // 2]


def double(weights: Weights) -> dict[str, Tensor]:
    """Weights in double precision, in which models are looked at."""
    return {name: weight.double() for name, weight in weights.items()}


def _known(methods: Sequence[str], task: Task) -> dict[str, Predictor]:
    return {name: METHODS[name] for name in methods if name != "Bayes" or estimators.has_bayes(task)}
