"""The approximate loss of paper B: gradient, minimizers and flow, each against something else."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize

from icl_lib import approximation
from icl_lib.constructions import heads_on_pattern
from icl_lib.estimators import debiased_gd
from icl_lib.one_layer import loss as measured_loss
from icl_lib.tasks import Task
from icl_lib.training import seeded

D, L, NOISE = 5, 41, 0.1
heads = st.integers(1, 4).flatmap(
    lambda H: st.tuples(*(st.lists(st.floats(-0.7, 0.7), min_size=H, max_size=H) for _ in range(2)))
)


def by_terms(omega, mu, d, L, noise):
    """The loss with its sums written out."""
    total = 1 + noise
    for a, b in zip(omega, mu, strict=True):
        total -= 2 * a * b
        for a_, b_ in zip(omega, mu, strict=True):
            total += b * b_ * (a * a_ + (1 + noise) / L * math.exp(d * a * a_))
    return total


@given(heads)
def test_loss_and_gradient(point):
    omega, mu = map(np.array, point)
    assert approximation.loss(omega, mu, D, L, NOISE) == pytest.approx(by_terms(omega, mu, D, L, NOISE))
    H = len(omega)
    numerical = approx_fprime(
        np.concatenate([omega, mu]),
        lambda s: approximation.loss(s[:H], s[H:], D, L, NOISE),
        1e-7,
    )
    found = np.concatenate(approximation.gradient(omega, mu, D, L, NOISE))
    np.testing.assert_allclose(found, numerical, rtol=1e-4, atol=1e-4)


def test_best_mu_has_no_gradient():
    omega = np.array([0.31, -0.17, 0.05])
    mu = approximation.best_mu(omega, D, L, NOISE)
    np.testing.assert_allclose(approximation.gradient(omega, mu, D, L, NOISE)[1], 0, atol=1e-12)


def test_best_mu_of_one_head_at_its_omega():
    omega, mu = approximation.one_head(D, L, NOISE)
    assert approximation.best_mu(np.array([omega]), D, L, NOISE)[0] == pytest.approx(mu)
    found = minimize(lambda s: approximation.loss(s[:1], s[1:], D, L, NOISE), [0.3, 1.0], tol=1e-10)
    np.testing.assert_allclose(found.x, [omega, mu], rtol=1e-3)


@pytest.mark.parametrize("omega", [0.01, 0.13, 0.4])
def test_two_heads(omega):
    mu = approximation.best_mu(np.array([omega, -omega]), D, L, NOISE)
    assert mu.sum() == pytest.approx(0)
    assert 2 * omega * mu[0] == pytest.approx(approximation.two_heads(omega, D, L, NOISE))


def test_two_heads_in_the_limit():
    assert approximation.two_heads(0, D, 40, NOISE) == pytest.approx(1 / (1 + 1.1 * 5 / 40))
    assert approximation.two_heads(1e-4, D, L, NOISE) == pytest.approx(
        approximation.two_heads(0, D, L, NOISE)
    )


def test_flow_against_small_steps_with_autograd():
    """Runge-Kutta of order 4 at a small fixed step, on a loss that autograd differentiates."""
    start = torch.tensor([0.05, -0.02, 0.01, 0.1, -0.2, 0.05]).double()

    def velocity(state):
        state = state.clone().requires_grad_()
        omega, mu = state[:3], state[3:]
        outer = omega[:, None] * omega
        value = -2 * mu @ omega + mu @ (outer + (1 + NOISE) / L * (D * outer).exp()) @ mu
        return -torch.autograd.grad(value, state)[0]

    state, step = start, 0.01
    for _ in range(400):
        a = velocity(state)
        b = velocity(state + step / 2 * a)
        c = velocity(state + step / 2 * b)
        e = velocity(state + step * c)
        state = state + step / 6 * (a + 2 * b + 2 * c + e)
    omega, mu = approximation.gradient_flow(
        start[:3].numpy(), start[3:].numpy(), [0.0, 1.0, 4.0], D, L, NOISE
    )
    np.testing.assert_allclose([omega[0], mu[0]], start.view(2, 3).numpy())
    np.testing.assert_allclose([omega[-1], mu[-1]], state.view(2, 3).numpy(), rtol=1e-6, atol=1e-8)


def test_flow_from_opposite_signs_ends_at_the_debiased_step():
    omega, mu = approximation.gradient_flow(
        np.array([0.01, -0.02]), np.array([0.02, -0.01]), [0.0, 2000.0], D, L, NOISE
    )
    assert omega[-1].sum() == pytest.approx(0, abs=1e-4)
    best = approximation.two_heads(omega[-1, 0], D, L, NOISE)  # at this omega, which still falls, slowly
    assert omega[-1] @ mu[-1] == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize("omega", [0.05, 0.15])
@pytest.mark.parametrize("signs", [[1], [1, -1]])
def test_the_loss_is_near_the_measured_one(omega, signs):
    """It is for small omega, and leaves terms in 1 / L out, one d-th of those in d / L: within a tenth."""
    omegas = omega * np.array(signs, dtype=float)
    mus = approximation.best_mu(omegas, D, 100, NOISE)
    model, weights = heads_on_pattern(torch.tensor(omegas)[:, None, None] * torch.eye(D), torch.tensor(mus))
    task = Task(D, D, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(D))
    drawn = task.sample(2000, 100, generator=seeded("near"), queries=4, dtype=torch.float64)
    expected = approximation.loss(omegas, mus, D, 100, NOISE)
    assert measured_loss(model, weights, task, drawn) == pytest.approx(expected, rel=0.1)


def test_the_limit_of_two_heads_is_the_best_step_of_debiased_gradient_descent():
    """Exact in both: with a centred Wishart matrix the terms in 1 / L cancel."""
    task = Task(D, D, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(D))
    drawn = task.sample(40_000, L, generator=seeded("step"), dtype=torch.float64)
    step = debiased_gd(drawn.x, drawn.y, 0.5, 1.0)
    best = (step * drawn.w).sum(-1).mean() / step.square().sum(-1).mean()
    assert best.item() == pytest.approx(approximation.two_heads(0, D, L, NOISE), rel=5e-3)


def test_preconditioner():
    rho = Task(D, D, rho=0.5).covariance(dtype=torch.float64).numpy()
    np.testing.assert_allclose(
        approximation.preconditioner(np.eye(D), 40, NOISE),
        approximation.two_heads(0, D, 40, NOISE) * np.eye(D),
    )
    P = approximation.preconditioner(rho, 40, NOISE)

    def loss(flat):
        P, c = flat.reshape(D, D), (np.trace(rho) / D + NOISE) / 40
        rest = np.eye(D) - rho @ P
        return np.trace(rest @ rho @ rest.T) / D + c * np.trace(rho @ P.T @ rho @ P)

    np.testing.assert_allclose(approx_fprime(P.flatten(), loss, 1e-7), 0, atol=1e-6)
    np.testing.assert_allclose(approximation.preconditioner(rho, 10**9, 0.0), np.linalg.inv(rho), atol=1e-6)


def test_preconditioner_is_exactly_the_best_matrix_of_debiased_gradient_descent():
    """Least squares of the weights on the debiased direction, over many prompts."""
    task = Task(D, D, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(D), rho=0.5)
    drawn = task.sample(100_000, 20, generator=seeded("best matrix"), dtype=torch.float64)
    direction = debiased_gd(drawn.x, drawn.y, 0.5, 1.0)
    best = torch.linalg.lstsq(direction, drawn.w).solution.numpy()
    expected = approximation.preconditioner(task.covariance(dtype=torch.float64).numpy(), 20, NOISE)
    np.testing.assert_allclose(best, expected, atol=0.02)
