"""The trainings and evaluations that the chapters on paper B share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from icl_book.experiments import SEED, measure
from icl_book.frames import tidy
from icl_book.parameters import LayerSetting
from icl_lib import circuits
from icl_lib.attention_layer import AttentionLayer
from icl_lib.tasks import MultiTask, Task
from icl_lib.training import Runs, Training, stack

NO_CLIP = 1e6  # a gradient norm that no step comes near: paper B does not clip

SCORES: Mapping[str, str] = {  # of `scores`, as tables name them
    "diagonal_energy": "diagonal energy of $KQ$",
    "spread": "spread of its diagonal",
    "off_pattern": "largest entry outside the pattern",
    "balance": r"$\lvert\sum_h \mu_h\rvert / \sum_h \lvert\mu_h\rvert$",
    "positive": r"heads with positive $\omega_h$",
    "negative": r"heads with negative $\omega_h$",
    "dummy": "dummies",
    "copies": r"spread of $\lvert\omega_h\rvert$, weighted with $\lvert\omega_h \mu_h\rvert$",
    "omega": r"$\lvert\omega_h\rvert$, largest head",
    "mu": r"$\lvert\mu_h\rvert$, largest head",
    "step": r"$\sum_h \omega_h \mu_h$",
    "loss": "loss",
}


def training(setting: LayerSetting, H: int, **changes: object) -> Training:
    """The training of a setting with H heads; `changes` win over it.

    A setting with `blocks` is multi-task. Else weights are N(0, I / d), the noise has variance `noise`, and
    Sigma_ij = rho^|i-j|.
    """
    given = setting.given() | changes
    d, noise = given.pop("d"), given.pop("noise")
    if "blocks" in given:
        task = MultiTask(d=d, blocks=tuple(map(tuple, given.pop("blocks"))), noise=noise)
    else:
        task = Task(d=d, s=d, sigma=math.sqrt(noise), scale=1 / math.sqrt(d), rho=given.pop("rho", 0.0))
    model = AttentionLayer(d, H, task.outputs, attention=given.pop("attention", "softmax"))
    fixed = {"schedule": "constant", "loss": "squared", "clip": NO_CLIP}
    return Training(task=task, model=model, **{**fixed, **given})


def losses(
    models: Mapping[object, Runs],
    columns: str | Sequence[str],
    lengths: int | Sequence[int],
    prompts: int,
    *,
    task: Task | MultiTask | None = None,
    queries: int = 4,
    own: bool = False,
) -> pd.DataFrame:
    """The loss of models on the same prompts, summed over tasks, with the target's noise.

    `columns`, seed, n, loss. If `own`, each model sees the prompts of its own seed. See `evaluation.loss`.
    """
    options = dict(task=task, average=torch.mean, queries=queries)
    frames = []
    groups = [(key, Runs(part)) for key, runs in models.items() for part in (zip(runs) if own else [runs])]
    for key, runs in groups:
        options["seed"] = runs[0].seed if own else SEED
        frame = measure({key: runs}, columns, lengths, prompts, **options).rename(columns={"risk": "loss"})
        frames.append(frame.assign(loss=frame.loss + (task or runs.settings.task).target_noise))
    return pd.concat(frames, ignore_index=True)


def both_signs(models: Runs) -> Runs:
    """The models that have heads of both signs (`circuits.opposite`); all, where fewer than two have.

    The others are stuck with the loss of one head.
    """
    good = Runs(model for model, opposite in zip(models, circuits.opposite(models), strict=True) if opposite)
    return good if len(good) > 1 else models


def as_kept(models: Runs, look: int) -> Runs:
    """The models as they were at one of the looks at which training kept weights."""
    then = [{name: weights[look] for name, weights in model.kept.items()} for model in models]
    return Runs(replace(model, weights=weights) for model, weights in zip(models, then, strict=True))


def settled(models: Runs, tolerance: float) -> np.ndarray:
    """The step from which on a model's validation risk stays within a share of its final level, (models).

    The final level is the mean over the last quarter of training.
    """
    steps = models[0].history["step"].numpy()
    risk = np.stack([found.history["risk"].numpy() for found in models])
    level = risk[:, -(len(steps) // 4 + 1) :].mean(-1, keepdims=True)
    outside = abs(risk / level - 1) > tolerance
    last_outside = np.where(outside.any(-1), outside.shape[1] - 1 - outside[:, ::-1].argmax(-1), -1)
    return np.append(steps, np.inf)[last_outside + 1]


def scores(models: Mapping[object, Runs], columns: str | Sequence[str], n: int, prompts: int) -> pd.DataFrame:
    """What the heads of each model do, and its loss: what is in `SCORES`, and whether there are both signs.

    A row a model, by the columns and the seed. See `circuits.pattern`; spreads are relative to the mean.
    """
    frames = {}
    for key, runs in models.items():
        kq, ov = circuits.matrices(runs)
        omega, mu = circuits.omega(kq, kq.shape[-1] - 1), circuits.mu(ov)
        size, work = omega.abs(), (omega * mu).abs()
        mean = (work * size).sum(-1, keepdim=True) / work.sum(-1, keepdim=True)
        variance = (work * (size - mean) ** 2).sum(-1) / work.sum(-1)
        table = circuits.pattern(kq, ov)._asdict() | {
            "opposite": circuits.opposite(runs),
            "copies": variance.sqrt() / mean[..., 0],
            "omega": size.amax(-1),
            "mu": mu.abs().amax(-1),
            "step": circuits.product(kq, ov),
            "loss": losses({key: runs}, columns, n, prompts).loss,
        }
        frames[key] = pd.DataFrame(table).set_axis([model.seed for model in runs]).rename_axis("seed")
    return pd.concat(frames, names=[columns] if isinstance(columns, str) else columns)


def fresh(settings: Training, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """KQ and OV of so many new models, before their first step."""
    weights = stack([settings.model.init(generator, torch.float64) for _ in range(count)])
    return settings.model.kq(weights), settings.model.ov(weights)


def moves(models: Mapping[int, Runs], times: ArrayLike) -> pd.DataFrame:
    """omega and mu of each head along training and along gradient flow: H, seed, way, time, head, omega, mu.

    The flow on the approximate loss starts from what each model has before its first step. The ways are
    "training", over the steps; "flow", over its time; and "trained", the models as they are evaluated.
    """
    frames = {}
    for H, runs in models.items():
        kq, ov, steps = circuits.path(runs)
        seeds = [model.seed for model in runs]
        frames[H, "training"] = _sizes(kq, ov, seeds, steps)
        frames[H, "flow"] = flows(kq[:, 0], ov[:, 0], times, runs.settings)
        frames[H, "trained"] = _sizes(*(part[:, None] for part in circuits.matrices(runs)), seeds, [np.nan])
    return pd.concat(frames, names=["H", "way"]).reset_index(["H", "way"])


def flows(
    kq: Float[Tensor, "S H p p"], ov: Float[Tensor, "S H 1 p"], times: ArrayLike, settings: Training
) -> pd.DataFrame:
    """Gradient flow on a setting's approximate loss from where several models are.

    seed, time, head, omega, mu; seeds count from 0.
    """
    task = settings.task
    starts = zip(circuits.omega(kq, task.d).numpy(), circuits.mu(ov).numpy(), strict=True)
    moved = [circuits.gradient_flow(*start, times, task.d, settings.n, task.sigma**2) for start in starts]
    omega, mu = map(np.stack, zip(*moved, strict=True))
    axes = {"seed": range(len(moved)), "time": times, "head": range(omega.shape[-1])}
    return tidy({"omega": omega, "mu": mu}, **axes)


def _sizes(
    kq: Float[Tensor, "S T H p p"],
    ov: Float[Tensor, "S T H 1 p"],
    seeds: Sequence[int],
    times: ArrayLike,
) -> pd.DataFrame:
    values = {"omega": circuits.omega(kq, kq.shape[-1] - 1), "mu": circuits.mu(ov)}
    return tidy(values, seed=seeds, time=times, head=range(kq.shape[2]))
