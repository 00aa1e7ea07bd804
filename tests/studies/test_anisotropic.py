"""One preconditioned gradient step: the estimator, the best preconditioner, its size, and nearness to it."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime

from icl_book.studies import anisotropic
from icl_book.studies.anisotropic import (
    best_preconditioner,
    best_scale,
    preconditioned_gd,
    preconditioner,
    shrinkage,
)
from icl_lib import circuits
from icl_lib.constructions import heads_on_pattern
from icl_lib.estimators import debiased_gd
from icl_lib.tasks import Task, evaluation_prompts, seeded

D, NOISE = 5, 0.1


def test_preconditioner_by_hand():
    kq, ov = torch.full((1, 2, 3, 3), 9.0).double(), torch.full((1, 2, 1, 3), 7.0).double()
    kq[0, :, :2, :2] = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[-1.0, 4.0], [5.0, 0.0]]])
    ov[0, :, 0, 2] = torch.tensor([10.0, -1.0])
    expected = torch.tensor([[[11.0, 16.0], [-5.0, 30.0]]]).double()
    torch.testing.assert_close(preconditioner(kq, ov), expected)
    omega, mu = torch.tensor([0.2, -0.1, 0.4]).double(), torch.tensor([1.0, 2.0, -3.0]).double()
    model, weights = heads_on_pattern(omega[:, None, None] * torch.eye(D).double(), mu)
    kq, ov = model.kq(weights), model.ov(weights)  # on the pattern it is the product
    torch.testing.assert_close(preconditioner(kq, ov), circuits.product(kq, ov) * torch.eye(D).double())


def test_two_opposite_heads_of_small_omega_precondition(generator):
    """A layer with a KQ that is not symmetric against the estimator: a transposed P fails."""
    Omega = torch.randn(D, D, generator=generator, dtype=torch.float64)
    omega = torch.tensor([1e-5, -1e-5]).double()
    model, weights = heads_on_pattern(omega[:, None, None] * Omega, 1 / (2 * omega))
    P = preconditioner(model.kq(weights), model.ov(weights))
    torch.testing.assert_close(P, Omega)
    drawn = Task(D, D, rho=0.5).sample(11, 7, seed=generator, queries=3, dtype=torch.float64)
    expected = drawn.x_query @ preconditioned_gd(drawn.x, drawn.y, P)[..., None]
    torch.testing.assert_close(model.predict(weights, drawn), expected[..., 0], rtol=1e-6, atol=1e-6)


def test_best_preconditioner():
    task = Task(D, D, sigma=math.sqrt(NOISE), rho=0.5)
    Sigma = task.covariance(dtype=torch.float64).numpy()
    isotropic = circuits.best_two_heads(0, D, 40, NOISE) * np.eye(D)
    np.testing.assert_allclose(best_preconditioner(replace(task, rho=0.0), 40), isotropic)
    long = best_preconditioner(replace(task, sigma=0.0), 10**9)
    np.testing.assert_allclose(long, np.linalg.inv(Sigma), atol=1e-6)
    c = (np.trace(Sigma) / D + NOISE) * D / 40
    assert shrinkage(task, 40) == pytest.approx(c)

    def loss(flat):
        P = flat.reshape(D, D)
        rest = np.eye(D) - Sigma @ P
        return np.trace(rest @ Sigma @ rest.T) / D + c / D * np.trace(Sigma @ P.T @ Sigma @ P)

    gradient = approx_fprime(best_preconditioner(task, 40).numpy().flatten(), loss, 1e-7)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_it_is_exactly_the_best_matrix_of_debiased_gradient_descent():
    """Least squares of the weights on the debiased direction, over many prompts."""
    task = Task(D, D, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(D), rho=0.5)
    drawn = task.sample(100_000, 20, seed=seeded("best matrix"), dtype=torch.float64)
    direction = debiased_gd(drawn.x, drawn.y, 0.5, 1.0)
    best = torch.linalg.lstsq(direction, drawn.w).solution.numpy()
    np.testing.assert_allclose(best, best_preconditioner(task, 20), atol=0.02)


def test_closeness_by_hand():
    given = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    found = torch.stack([2 * given, torch.tensor([[0.0, 1.0], [1.0, 0.0]])])
    near = anisotropic.closeness(found, given)
    torch.testing.assert_close(near.scale, torch.tensor([2.0, 4 / 25]))
    torch.testing.assert_close(near.cosine, torch.tensor([1.0, 4 / math.sqrt(50)]))
    torch.testing.assert_close(near.distance, torch.tensor([0.0, math.sqrt(1 - 16 / 50)]))


def test_best_scale():
    """Of debiased gradient descent, whose best step is known; with errors counted by the covariance."""
    task = Task(5, 5, sigma=0.5, scale=1 / math.sqrt(5))
    found = best_scale(partial(debiased_gd, omega=0.5, mu=2.0), task, 20)
    assert 2 * found == pytest.approx(circuits.best_two_heads(0, 5, 20, 0.25), rel=0.01)
    task = replace(task, rho=0.8)
    step = partial(preconditioned_gd, P=torch.eye(5).double())
    drawn = evaluation_prompts(task, 20, 20_000, 0)
    best = best_scale(step, task, 20) * step(drawn.x, drawn.y)
    low, at_best, high = (task.excess_risk(c * best, drawn.w).mean() for c in (0.9, 1, 1.1))
    assert at_best < min(low, high)
