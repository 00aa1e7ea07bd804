"""The predictors that paper B sets beside its trained models, and how near a model comes to them (B3 to B6).

A predictor is a one-layer model, given as (settings, weights), or an estimator of w_hat.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from icl_book.experiments import double
from icl_lib import circuits, estimators
from icl_lib.attention_layer import AttentionLayer, Weights
from icl_lib.constructions import heads_on_pattern
from icl_lib.estimators import Estimator, at_best
from icl_lib.evaluation import loss
from icl_lib.tasks import Prompts, Task, evaluation_prompts
from icl_lib.training import Runs

Predictor = Estimator | tuple[AttentionLayer, Weights]


def heads(omega: Sequence[float], mu: Sequence[float], d: int) -> Predictor:
    """The model with KQ^h = omega_h I on the covariates and OV^h = mu_h at y."""
    omega, mu = torch.tensor(omega, dtype=torch.float64), torch.tensor(mu, dtype=torch.float64)
    return heads_on_pattern(omega[:, None, None] * torch.eye(d, dtype=omega.dtype), mu)


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


def measure(
    predictors: Mapping[str, Callable[[int], Predictor]],
    task: Task,
    lengths: int | Sequence[int],
    seeds: int,
    prompts: int,
    queries: int = 4,
    *,
    exact: bool = True,
) -> pd.DataFrame:
    """The loss of predictors, noise included, on each seed's evaluation prompts: predictor, seed, n, loss.

    A plain mean: attention is bounded. All see the same prompts. If `exact`, estimators are averaged over the
    query exactly; if not, they see the models' own queries, so that ratios are paired.
    """
    rows = []
    for L in [lengths] if isinstance(lengths, int) else lengths:
        at_length = {name: make(L) for name, make in predictors.items()}
        for seed in range(seeds):
            drawn = evaluation_prompts(task, L, prompts, seed, queries)
            rows += [(name, seed, L, loss(made, task, drawn, exact)) for name, made in at_length.items()]
    return pd.DataFrame(rows, columns=["predictor", "seed", "n", "loss"]).astype({"seed": "Int64"})


def gradient_step_loss(step: float, d: int, L: int, noise: float) -> float:
    """The loss of `gradient_step`, exact: E tr S^2 / d = 1 + (d + 1) / L for the covariance S of L pairs."""
    return 1 + noise - 2 * step + step**2 * (1 + (d + 1 + noise * d) / L)


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


def compare(models: Runs, lengths: Sequence[int], prompts: int, queries: int = 4) -> pd.DataFrame:
    """The `predictions` of models on their own seeds' prompts, a row a query: model, .., pattern, seed, n."""
    frames = []
    for L, trained in product(lengths, models):
        drawn = evaluation_prompts(trained.settings.task, L, prompts, trained.seed, queries)
        columns = predictions(trained.settings.model, double(trained.weights), drawn)._asdict()
        frame = pd.DataFrame({name: values.flatten().numpy() for name, values in columns.items()})
        frames.append(frame.assign(seed=trained.seed, n=L))
    return pd.concat(frames, ignore_index=True)
