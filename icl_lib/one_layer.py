"""The trainings and evaluations that the chapters on paper B share."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_lib import approximation, estimators, experiments, patterns
from icl_lib.attention_layer import AttentionLayer, Weights
from icl_lib.baselines import Estimator, best_scale, evaluation_prompts
from icl_lib.settings import Training
from icl_lib.tasks import MultiTask, Prompts, Task
from icl_lib.training import Trained

NO_CLIP = 1e6  # a gradient norm that no step comes near: paper B does not clip
SCORES = 2**20  # attention scores that `loss` holds at once


def training(setting: Mapping[str, object], H: int, **changes: object) -> Training:
    """The training of a setting with H heads; `changes` win over it.

    A setting with `blocks` is multi-task. Else weights are N(0, I / d), the noise has variance `noise`, and
    Sigma_ij = rho^|i-j|.
    """
    setting = dict(setting) | changes
    d, noise = setting.pop("d"), setting.pop("noise")
    if "blocks" in setting:
        task = MultiTask(d=d, blocks=tuple(map(tuple, setting.pop("blocks"))), noise=noise)
    else:
        task = Task(d=d, s=d, sigma=math.sqrt(noise), scale=1 / math.sqrt(d), rho=setting.pop("rho", 0.0))
    tasks = len(task.blocks) if isinstance(task, MultiTask) else 1
    model = AttentionLayer(d, H, tasks, attention=setting.pop("attention", "softmax"))
    fixed = {"schedule": "constant", "loss": "squared", "clip": NO_CLIP}
    return Training(task=task, model=model, **{**fixed, **setting})


def noise(task: Task | MultiTask) -> float:
    """Variance of the noise in the target; the targets of paper B's multi-task models have none."""
    return 0.0 if isinstance(task, MultiTask) else task.sigma**2


def loss(model: AttentionLayer, weights: Weights, task: Task | MultiTask, prompts: Prompts) -> float:
    """E[(TF - y_q)^2] over the prompts and queries; the noise in y_q is averaged exactly.

    Summed over tasks. Attention is bounded, so this is the plain mean.
    """
    at_once = max(1, SCORES // (prompts.x.shape[-2] * prompts.x_query.shape[-2] * model.heads))
    risks = []
    with torch.no_grad():
        for some in zip(*(part.split(at_once) for part in prompts), strict=True):
            risks.append(model.excess_risk(weights, task, Prompts(*some)))
    return torch.cat(risks).mean().item() + noise(task)


def losses(
    models: Sequence[Trained],
    lengths: Sequence[int],
    prompts: int,
    queries: int = 4,
    task: Task | MultiTask | None = None,
) -> np.ndarray:
    """The loss of each model at each length, (models, lengths), all on the same prompts."""
    task = task or models[0].settings.task
    table = np.empty((len(models), len(lengths)))
    for column, n in enumerate(lengths):
        drawn = evaluation_prompts(task, n, prompts, experiments.SEED, queries)
        for row, found in enumerate(models):
            table[row, column] = loss(found.settings.model, experiments.double(found.weights), task, drawn)
    return table


def estimator_loss(estimator: Estimator, task: Task, prompts: Prompts) -> float:
    """The same loss of an effective weight vector w_hat, exact over the query."""
    return task.excess_risk(estimator(prompts.x, prompts.y), prompts.w).mean().item() + noise(task)


def loss_at_queries(estimator: Estimator, task: Task, prompts: Prompts) -> float:
    """The same loss at the prompts' own queries, so that its ratio to a model's `loss` is paired."""
    predicted = estimators.at_queries(estimator(prompts.x, prompts.y), prompts.x_query)
    return (predicted - prompts.target()).square().mean().item() + noise(task)


def one_step(task: Task, n: int) -> dict[str, Estimator]:
    """One gradient step from zero, each of the fixed size that is best for prompts of n pairs (claim B9).

    "plain": without a preconditioner. "inverse": debiased, preconditioned with Sigma^-1. "predicted":
    debiased, with `approximation.preconditioner`, whose size is its own.
    """
    covariance = task.covariance(dtype=torch.float64)
    inverse = covariance.inverse()
    plain = partial(estimators.gradient_descent, steps=1, per_prompt=False)
    eta = best_scale(plain, task, n)
    size = best_scale(partial(estimators.preconditioned_gd, P=inverse), task, n)
    predicted = torch.tensor(approximation.preconditioner(covariance.numpy(), n, noise(task)))
    return {
        "plain": partial(plain, eta=eta),
        "inverse": partial(estimators.preconditioned_gd, P=size * inverse),
        "predicted": partial(estimators.preconditioned_gd, P=predicted),
    }


def matrices(models: Sequence[Trained]) -> tuple[Tensor, Tensor]:
    """KQ (models, H, p, p) and OV (models, H, tasks, p) of trained models."""
    weights, model = experiments.stacked([found.weights for found in models]), models[0].settings.model
    return model.kq(weights), model.ov(weights)


def opposite(models: Sequence[Trained]) -> np.ndarray:
    """Which models have active heads of both signs, (models): the others are stuck (see chapter 10)."""
    found = patterns.pattern(*matrices(models))
    return ((found.positive > 0) & (found.negative > 0)).numpy()


def path(models: Sequence[Trained]) -> tuple[Tensor, Tensor, np.ndarray]:
    """KQ (models, kept, H, p, p) and OV (models, kept, H, tasks, p) along training, and the steps (kept)."""
    settings = models[0].settings
    kept = experiments.stacked([found.kept for found in models])
    steps = np.arange(len(next(iter(models[0].kept.values())))) * settings.keep_every
    return settings.model.kq(kept), settings.model.ov(kept), steps


def settled(models: Sequence[Trained], tolerance: float) -> np.ndarray:
    """The step from which on a model's validation risk stays within a share of its final level, (models).

    The final level is the mean over the last quarter of training.
    """
    steps = models[0].history["step"].numpy()
    risk = np.stack([found.history["risk"].numpy() for found in models])
    level = risk[:, -(len(steps) // 4 + 1) :].mean(-1, keepdims=True)
    outside = abs(risk / level - 1) > tolerance
    last_outside = np.where(outside.any(-1), outside.shape[1] - 1 - outside[:, ::-1].argmax(-1), -1)
    return np.append(steps, np.inf)[last_outside + 1]


def flows(
    omega: Float[np.ndarray, "S H"], mu: Float[np.ndarray, "S H"], times: Sequence[float], settings: Training
) -> tuple[Float[np.ndarray, "S T H"], Float[np.ndarray, "S T H"]]:
    """omega(t) and mu(t) of gradient flow on a setting's approximate loss, from each of several starts."""
    task = settings.task
    moved = [
        approximation.gradient_flow(*start, times, task.d, settings.n, task.sigma**2)
        for start in zip(omega, mu, strict=True)
    ]
    return tuple(map(np.stack, zip(*moved, strict=True)))
