"""The predictors that paper B sets beside its trained models, and how near a model comes to them (B3 to B6).

A predictor is a one-layer model, given as (settings, weights), or an estimator of w_hat.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from icl_lib import circuits, estimators
from icl_lib.attention_layer import AttentionLayer, Weights
from icl_lib.constructions import heads_on_pattern
from icl_lib.estimators import Estimator, at_best
from icl_lib.evaluation import loss
from icl_lib.tasks import Prompts, Task, evaluation_prompts
from icl_lib.training import Trained

Predictor = Estimator | tuple[AttentionLayer, Weights]


def heads(omega: Sequence[float], mu: Sequence[float], d: int) -> Predictor:
    """The model with KQ^h = omega_h I on the covariates and OV^h = mu_h at y."""
    omega, mu = torch.tensor(omega, dtype=torch.float64), torch.tensor(mu, dtype=torch.float64)
    return heads_on_pattern(omega[:, None, None] * torch.eye(d, dtype=omega.dtype), mu)


def alike(
    KQ: Float[Tensor, "S H p p"], OV: Float[Tensor, "S H 1 p"], d: int, count: int
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """omega and mu of `count` heads of one size that stand for the heads of each model.

    omega is the mean of theirs, weighted with |mu_h|: together they make the same step sum_h omega_h mu_h,
    if all omega_h mu_h have one sign.
    """
    sizes, mu = circuits.omega(KQ, d).abs(), circuits.mu(OV).abs()
    return (sizes * mu).sum(-1) / mu.sum(-1), mu.sum(-1) / count


def gradient_step(step: float) -> Estimator:
    """w_hat = (step / L) sum_i y_i x_i, one step of gradient descent."""
    return partial(estimators.gradient_descent, steps=1, eta=step, per_prompt=False)


def debiased_step(step: float) -> Estimator:
    """w_hat = (step / L) sum_i y_i (x_i - xbar)."""
    return partial(estimators.debiased_gd, omega=0.5, mu=step)


def one_head(task: Task, L: int) -> Predictor:
    """The kernel smoother with the best omega and mu at L by the approximate loss (claim B4)."""
    omega, mu = circuits.best_one_head(task.d, L, task.target_noise)
    return heads([omega], [mu], task.d)


def searched_one_head(task: Task, prompts: Prompts) -> tuple[float, float]:
    """omega and mu of the single head on the pattern with the lowest loss on the prompts, by a search."""
    target = prompts.target()

    def at(log_omega: float) -> tuple[float, float]:
        """The best mu and the excess risk with it."""
        model, weights = heads([math.exp(log_omega)], [1.0], task.d)
        smooth = model.predict(weights, prompts)
        mu = ((smooth * target).mean() / smooth.square().mean()).item()
        return mu, (mu * smooth - target).square().mean().item()

    bounds = [math.log(share / math.sqrt(task.d)) for share in (0.1, 10)]
    found = minimize_scalar(lambda value: at(value)[1], bounds=bounds, method="bounded").x
    return math.exp(found), at(found)[0]


def paper_b(omega: float, mu: float, task: Task, n: int) -> dict[str, Callable[[int], Predictor]]:
    """The predictors of the paper's figure, each as a function of L, named as in `published.LOSS`.

    Nothing but ridge is fitted to L: two heads and both kinds of gradient descent have this omega and mu
    throughout, and the one head has those that are best at the length n of training.
    """
    step = 2 * omega * mu
    return {
        "one head": lambda L: one_head(task, n),
        "GD": lambda L: gradient_step(step),
        "debiased GD": lambda L: debiased_step(step),
        "two heads": lambda L: heads([omega, -omega], [mu, -mu], task.d),
        "ridge": lambda L: at_best(estimators.ridge, task, L),  # dense gaussian weights: Bayes
    }


def losses(
    predictors: Mapping[str, Callable[[int], Predictor]],
    task: Task,
    L: int,
    seeds: int,
    prompts: int,
    queries: int = 4,
    *,
    exact: bool = True,
) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The loss of predictors, noise included, on each seed's evaluation prompts of L pairs.

    A plain mean: attention is bounded. All see the same prompts. If `exact`, estimators are averaged over the
    query exactly; if not, they see the models' own queries, so that ratios are paired.
    """
    at_length = {name: make(L) for name, make in predictors.items()}
    table = {name: np.empty(seeds) for name in predictors}
    for seed in range(seeds):
        drawn = evaluation_prompts(task, L, prompts, seed, queries)
        for name, predictor in at_length.items():
            table[name][seed] = loss(predictor, task, drawn, exact)
    return table


def trained_losses(
    models: Sequence[Trained], lengths: Sequence[int], prompts: int, queries: int = 4
) -> Float[np.ndarray, "models lengths"]:
    """The loss of each model on the evaluation prompts of its own seed, those of `losses` at that seed."""
    table = np.empty((len(models), len(lengths)))
    for row, found in enumerate(models):
        model, task = (found.settings.model, found.weights), found.settings.task
        for column, L in enumerate(lengths):
            table[row, column] = loss(model, task, evaluation_prompts(task, L, prompts, found.seed, queries))
    return table


def gradient_step_loss(step: float, d: int, L: int, noise: float) -> float:
    """The loss of `gradient_step`, exact: E tr S^2 / d = 1 + (d + 1) / L for the covariance S of L pairs."""
    return 1 + noise - 2 * step + step**2 * (1 + (d + 1 + noise * d) / L)


def debiased_step_loss(step: float, d: int, L: int, noise: float) -> float:
    """The loss of `debiased_step`, exact: centring leaves a Wishart matrix of L - 1 degrees of freedom."""
    free = (L - 1) / L
    return 1 + noise - 2 * step * free + step**2 * free * (L + d + noise * d) / L


def bayes_excess(ratio: float, noise: float) -> float:
    """Excess risk of ridge, the Bayes predictor, as d and L grow at d / L = ratio.

    It is noise E tr(X^T X + d noise I)^-1, given by the Marchenko-Pastur law: noise ratio m(-noise ratio).
    """
    shift = noise * ratio
    above = 1 - ratio + shift
    return (math.sqrt(above**2 + 4 * ratio * shift) - above) / (2 * ratio)


def debiased_excess(ratio: float, noise: float) -> float:
    """Excess risk of debiased gradient descent at its best step, in the same limit."""
    return 1 - 1 / (1 + (1 + noise) * ratio)


class Predictions(NamedTuple):
    """What one model predicts, and what predictors made from it do, each (B, queries)."""

    model: Tensor
    debiased: Tensor  # debiased gradient descent with the model's own step, sum_h omega_h mu_h
    plain: Tensor  # gradient descent with that step
    pattern: Tensor  # the model with its omega_h and mu_h kept and all else set to zero

    def unlike(self, name: str) -> float:
        """Mean square of the difference from a predictor, relative to the mean square of the model."""
        difference = self.model - getattr(self, name)
        return (difference.square().mean() / self.model.square().mean()).item()


def predictions(model: AttentionLayer, weights: Weights, prompts: Prompts) -> Predictions:
    """A model's predictions beside those of the predictors that it is said to be, prompt by prompt."""
    kq, ov = model.kq(weights), model.ov(weights)
    step = circuits.product(kq, ov).item()
    with torch.no_grad():
        kept, pattern = heads(circuits.omega(kq, model.d).tolist(), circuits.mu(ov).tolist(), model.d)
        own, on_pattern = model.predict(weights, prompts), kept.predict(pattern, prompts)
    linear = (
        estimators.at_queries(estimator(prompts.x, prompts.y), prompts.x_query)
        for estimator in (debiased_step(step), gradient_step(step))
    )
    return Predictions(own, *linear, on_pattern)
