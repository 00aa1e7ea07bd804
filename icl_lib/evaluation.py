"""What predictors reach, as tidy frames, and intervals over seeds.

A seed is a replicate: of a model, its own training, and all models are evaluated on the same prompts; of a
method without training, its own evaluation prompts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from numbers import Integral
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from icl_lib.estimators import Estimator, at_best, at_queries
from icl_lib.models import Model, Weights
from icl_lib.tasks import MultiTask, Prompts, Task, evaluation_prompts
from icl_lib.training import Runs, Trained, Training, run, trimmed_mean

LEVEL = 0.95
SCORES = 2**20  # numbers of one kind that the evaluation of a model holds at once, about

Average = Callable[[Tensor], Tensor]  # of risks over prompts: (B,) -> ()
Predictor = Runs | Trained | Estimator


def evaluate(
    predictors: Mapping[str, Predictor],
    task: Task | MultiTask,
    n: int | Iterable[int],
    *,
    prompts: int = 1000,
    queries: int = 1,
    seed: int = 0,
    average: Average = trimmed_mean,
) -> pd.DataFrame:
    """Excess risk of predictors at each context length, all on the same prompts.

    Parameters
    ----------
    predictors : mapping from names
        To trained models; to functions of `estimators`, each of which is then at its best for the task and
        length (`estimators.at_best`); or to any other function of x (B, n, d) and y (B, n) that gives weight
        vectors (B, d).
    task : Task, MultiTask, or one's own
        What the prompts are drawn from; it need not be that of training.
    n : int or several
        Context lengths.
    prompts, queries : int
        Prompts at each length; queries of each, for models whose risk is not exact over the query.
    seed : int
        Of the prompts.
    average : function of risks (B,)
        Over prompts; the mean without the largest hundredth (`training.trimmed_mean`), if nothing is said.

    Returns
    -------
    pandas.DataFrame
        predictor, seed (of a training; <NA> where there is none), n, risk.
    """
    rows = []
    for length in [n] if isinstance(n, Integral) else n:
        drawn = evaluation_prompts(task, int(length), prompts, seed, queries)
        for name, predictor in predictors.items():
            for trained_with, risk in _risks(predictor, task, drawn):
                rows.append((name, trained_with, int(length), average(risk).item()))
    return pd.DataFrame(rows, columns=["predictor", "seed", "n", "risk"]).astype({"seed": "Int64"})


def sweep(
    settings: Training,
    seeds: int | Sequence[int],
    n: int | Iterable[int],
    *,
    device: str = "cpu",
    **over: Sequence,
) -> pd.DataFrame:
    """Train and evaluate over all combinations of some settings.

    Parameters
    ----------
    settings, seeds, device
        As in `training.run`; the settings are those that do not vary.
    n : int or several
        Context lengths of the evaluation, on each training's own task.
    **over : sequences
        Values of fields of the task, the model or the training, by name; d is the task's and the model's.

    Returns
    -------
    pandas.DataFrame
        One column a name of `over`, then seed, n, risk.
    """
    frames = [pd.DataFrame(columns=[*over, "seed", "n", "risk"])]
    for values in product(*over.values()):
        chosen = dict(zip(over, values, strict=True))
        varied = vary(settings, **chosen)
        frame = evaluate({"model": run(varied, seeds, device=device)}, varied.task, n, queries=varied.queries)
        frames.append(frame.assign(**{name: [value] * len(frame) for name, value in chosen.items()}))
    return pd.concat(frames[1:] or frames, ignore_index=True)[frames[0].columns]


def vary(settings: Training, **changes: object) -> Training:
    """The settings with other values of fields of the task, the model or the training, found by name.

    Raises ValueError for a name that none of them has.
    """
    parts = {name: changes.get(name, getattr(settings, name)) for name in ("task", "model")} | {"": settings}
    known = {place: {field.name for field in fields(part)} for place, part in parts.items()}
    for name in changes:
        if not any(name in names for names in known.values()):
            fields_known = ", ".join(sorted(set().union(*known.values())))
            raise ValueError(f"{name}: allowed are the fields {fields_known}")
    of = {place: {name: changes[name] for name in names & changes.keys()} for place, names in known.items()}
    inner = {place: replace(parts[place], **of[place]) for place in ("task", "model")}
    return replace(settings, **(of[""] | inner))


def model_risks(model: Model, weights: Weights, task: Task | MultiTask, prompts: Prompts) -> Tensor:
    """Excess risk of each prompt (*S, B), in pieces that fit into the memory."""
    held = next(iter(weights.values())).numel() + prompts.x[0].numel() * prompts.x_query.shape[-2]
    with torch.no_grad():
        pieces = prompts.split(max(1, SCORES // held))
        return torch.cat([model.excess_risk(weights, task, piece) for piece in pieces], -1)


def loss(
    predictor: tuple[Model, Weights] | Estimator, task: Task | MultiTask, prompts: Prompts, exact: bool = True
) -> float:
    """E[(prediction - y_q)^2], summed over tasks: paper B's measure, a plain mean since attention is bounded.

    The noise in y_q is averaged exactly. An estimator is averaged over the query exactly too, or, unless
    `exact`, at the prompts' own queries, so that its ratio to a model's loss is paired.
    """
    if isinstance(predictor, tuple):
        excess = model_risks(*predictor, task, prompts)
    elif exact:
        excess = task.excess_risk(predictor(prompts.x, prompts.y), prompts.w)
    else:
        predicted = at_queries(predictor(prompts.x, prompts.y), prompts.x_query)
        excess = (predicted - prompts.target()).square()
    return excess.mean().item() + task.target_noise


def _risks(
    predictor: Predictor, task: Task | MultiTask, prompts: Prompts
) -> Iterable[tuple[int | None, Tensor]]:
    """The seed of each replicate, and its risks (B,)."""
    if isinstance(predictor, Trained):
        predictor = Runs([predictor])
    if isinstance(predictor, Runs):
        risks = model_risks(predictor.settings.model, predictor.stacked(), task, prompts)
        return zip((model.seed for model in predictor), risks, strict=True)
    if task.outputs > 1:
        raise ValueError(f"an estimator on {task.outputs} tasks at once: allowed are tasks with one label")
    estimator = at_best(predictor, task, prompts.x.shape[-2])
    return [(None, task.excess_risk(estimator(prompts.x, prompts.y), prompts.w))]


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval; floats, or arrays of one shape."""

    mean: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray

    def __format__(self, spec: str) -> str:
        """`f"{interval:.2f}"` is the mean and, in brackets, the ends, each so formatted."""
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean over the first dimension, (seeds, ...).

    Raises ValueError with fewer than two seeds: one has no interval.
    """
    values = np.asarray(values, dtype=float)
    seeds = len(values) if values.ndim else 0
    if seeds < 2:
        raise ValueError(f"{seeds} values: allowed for an interval are 2 seeds or more")
    mean = values.mean(0)
    half = stats.t.ppf((1 + level) / 2, seeds - 1) * values.std(0, ddof=1) / np.sqrt(seeds)
    return Interval(mean, mean - half, mean + half)


def ratio_interval(values: ArrayLike, reference: ArrayLike, level: float = LEVEL) -> Interval:
    """Geometric mean of values / reference over seeds, paired: both (seeds, ...) and positive."""
    log_ratio = np.log(np.asarray(values, dtype=float)) - np.log(np.asarray(reference, dtype=float))
    return Interval(*map(np.exp, t_interval(log_ratio, level)))
