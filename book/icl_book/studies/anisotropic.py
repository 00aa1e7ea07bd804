"""One preconditioned gradient step: which is best, and how near a model's comes to it (claim B9)."""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from icl_lib import circuits, estimators
from icl_lib.estimators import Estimator, W, X, Y
from icl_lib.tasks import Task, seeded

SCALE_PROMPTS = 20_000  # of `best_scale`, which has a closed form


def preconditioner(kq: Float[Tensor, "*S H p p"], ov: Float[Tensor, "*S H 1 p"]) -> Float[Tensor, "*S d d"]:
    """P = sum_h mu_h Omega_h, Omega_h the x block of KQ^h: what heads do together, to first order (claim B9).

    Where mu sums to zero, heads of small Omega predict <x_q, P^T (1/L) sum_i y_i (x_i - xbar)>: see
    `preconditioned_gd`. On the pattern P is `circuits.product` times the identity.
    """
    d = kq.shape[-1] - 1
    return (circuits.mu(ov)[..., None, None] * kq[..., :d, :d]).sum(-3)


class Closeness(NamedTuple):
    """How near matrices come to multiples of a given one, each (*S), in the Frobenius norm."""

    cosine: Float[Tensor, "*S"]
    distance: Float[Tensor, "*S"]  # to its nearest multiple, relative to the matrix: sqrt(1 - cosine^2)
    scale: Float[Tensor, "*S"]  # that multiple


def closeness(found: Float[Tensor, "*S d d"], given: Float[Tensor, "d d"]) -> Closeness:
    """How near each matrix comes to a multiple of the given one."""
    inner, norm = (found * given).sum((-2, -1)), found.square().sum((-2, -1)).sqrt()
    scale = inner / given.square().sum()
    rest = (found - scale[..., None, None] * given).square().sum((-2, -1)).sqrt()
    return Closeness(inner / (norm * given.square().sum().sqrt()), rest / norm, scale)


def shrinkage(task: Task, L: int) -> float:
    """c = (tr(Sigma) + d sigma^2) / L, what the noise of L pairs adds to Sigma's eigenvalues."""
    return (task.covariance(dtype=torch.float64).trace().item() + task.d * task.target_noise) / L


def best_preconditioner(task: Task, L: int) -> Float[Tensor, "d d"]:
    """P of the best w_hat = P^T (1/L) sum_i y_i (x_i - xbar), by the same approximation (claim B9).

    With x ~ N(0, Sigma) two opposite heads with KQ = +-Omega have P = 2 mu Omega in the limit of small Omega.
    Up to a factor 1 - 1/L and a constant the loss is tr[(I - Sigma P) Sigma (I - Sigma P)^T] / d
    + (c / d) tr[Sigma P^T Sigma P], with c of `shrinkage`. It is least at (Sigma + c I)^-1, between Sigma^-1
    and I.
    """
    covariance = task.covariance(dtype=torch.float64)
    return torch.linalg.inv(covariance + shrinkage(task, L) * torch.eye(task.d, dtype=torch.float64))


def preconditioned_gd(x: X, y: Y, P: Float[Tensor, "d d"]) -> W:
    """P^T (1/L) sum_i y_i (x_i - xbar): `estimators.debiased_gd` with a matrix for its step (claim B9)."""
    return estimators.debiased_gd(x, y, 0.5, 1.0) @ P


def best_scale(estimator: Estimator, task: Task, n: int) -> float:
    """The multiple of an estimator's w_hat with the lowest mean risk on tuning prompts: its fixed step."""
    drawn = task.sample(SCALE_PROMPTS, n, seeded("tuning", n), dtype=torch.float64)
    step = estimator(drawn.x, drawn.y)
    weighted = step @ task.covariance(dtype=step.dtype)
    return ((weighted * drawn.w).sum() / (weighted * step).sum()).item()


def one_step(task: Task, n: int) -> dict[str, Estimator]:
    """One gradient step from zero, each of the fixed size that is best for prompts of n pairs (claim B9).

    "plain": without a preconditioner. "inverse": debiased, preconditioned with Sigma^-1. "predicted":
    debiased, with `best_preconditioner`, whose size is its own.
    """
    inverse = task.covariance(dtype=torch.float64).inverse()
    plain = partial(estimators.gradient_descent, steps=1, per_prompt=False)
    eta = best_scale(plain, task, n)
    size = best_scale(partial(preconditioned_gd, P=inverse), task, n)
    return {
        "plain": partial(plain, eta=eta),
        "inverse": partial(preconditioned_gd, P=size * inverse),
        "predicted": partial(preconditioned_gd, P=best_preconditioner(task, n)),
    }
