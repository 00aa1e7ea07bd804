"""Pattern scores on matrices with known answers; the approximate loss of paper B against something else."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize

from icl_lib import circuits
from icl_lib.constructions import heads_on_pattern
from icl_lib.estimators import debiased_gd
from icl_lib.evaluation import loss
from icl_lib.tasks import Task, seeded

D, L, NOISE = 5, 41, 0.1
AT = (D, L, NOISE)  # where the approximate loss is taken
TASK = Task(D, D, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(D))


# Scores of the heads.


def on_pattern(omegas, mus):
    """KQ (1, H, p, p) and OV (1, H, 1, p) on the pattern, but for KQ's column that has no effect."""
    H = len(omegas)
    kq, ov = torch.zeros(1, H, D + 1, D + 1).double(), torch.zeros(1, H, 1, D + 1).double()
    for h, (omega, mu) in enumerate(zip(omegas, mus, strict=True)):
        kq[0, h, :D, :D] = omega * torch.eye(D)
        kq[0, h, :, D] = 7.0
        ov[0, h, 0, D] = mu
    return kq, ov


def test_a_pair_is_perfect_but_for_the_row_of_y():
    kq, ov = on_pattern([0.13, -0.13], [3.0, -3.0])
    found = circuits.pattern(kq, ov)
    assert [score.item() for score in found] == pytest.approx([1, 0, 0, 0, 1, 1, 0], abs=1e-12)
    assert circuits.product(kq, ov).item() == pytest.approx(0.78)
    kq[0, 1, D, 2] = 0.26
    assert circuits.pattern(kq, ov).off_pattern.item() == pytest.approx(2)


def test_omega_and_mu_by_hand():
    kq, ov = on_pattern([0.2, -0.1, 0.4], [1.0, 2.0, -3.0])
    kq[0, 0, 0, 0] = 0.7
    torch.testing.assert_close(circuits.omega(kq, D), torch.tensor([[0.3, -0.1, 0.4]]).double())
    torch.testing.assert_close(circuits.mu(ov), torch.tensor([[1.0, 2.0, -3.0]]).double())
    assert circuits.product(kq, ov).item() == pytest.approx(0.3 - 0.2 - 1.2)


def test_scores_by_hand():
    """One head with diagonal 1, 2, 3, 4, 5, an entry 2 beside it, and OV (0, .., 1, 4)."""
    kq, ov = on_pattern([1.0], [4.0])
    kq[0, 0, range(D), range(D)] = torch.arange(1.0, 6.0).double()
    kq[0, 0, 1, 3] = -2.0
    ov[0, 0, 0, 2] = 1.0
    found = circuits.pattern(kq, ov)
    assert found.diagonal_energy.item() == pytest.approx(55 / 59)
    assert found.spread.item() == pytest.approx(math.sqrt(2) / 3)
    assert found.off_pattern.item() == pytest.approx(max(2 / 3, 1 / 4))
    assert found.balance.item() == 1


def test_dummies_are_counted_and_not_scored():
    kq, ov = on_pattern([0.2, -0.2, 0.19, 0.2], [2.0, -2.4, 0.4, 0.01])
    kq[0, 3, 0, 1] = 9.0
    found = circuits.pattern(kq, ov)
    assert (found.positive.item(), found.negative.item(), found.dummy.item()) == (2, 1, 1)
    assert found.diagonal_energy.item() == 1
    assert found.balance.item() == pytest.approx(0.01 / 4.81)


def test_the_worst_active_head_counts_and_models_are_scored_alone():
    kq, ov = (both.repeat(2, 1, 1, 1) for both in on_pattern([0.2, -0.2], [2.0, -2.0]))
    kq[1, 1, 0, 1] = 0.2
    torch.testing.assert_close(circuits.pattern(kq, ov).diagonal_energy, torch.tensor([1, 5 / 6]).double())


def test_constructed_heads_have_what_was_asked_for():
    omega, mu = torch.tensor([0.3, -0.2, 0.1]).double(), torch.tensor([1.0, -2.0, 0.5]).double()
    model, weights = heads_on_pattern(omega[:, None, None] * torch.eye(D).double(), mu)
    kq, ov = model.kq(weights), model.ov(weights)
    torch.testing.assert_close(circuits.omega(kq, D), omega)
    torch.testing.assert_close(circuits.mu(ov), mu)
    assert circuits.pattern(kq, ov).off_pattern.item() == pytest.approx(0, abs=1e-12)


# The approximate loss: gradient, minimizers and flow.


def by_terms(omega, mu):
    """The loss with its sums written out."""
    total = 1 + NOISE
    for a, b in zip(omega, mu, strict=True):
        total -= 2 * a * b
        for a_, b_ in zip(omega, mu, strict=True):
            total += b * b_ * (a * a_ + (1 + NOISE) / L * math.exp(D * a * a_))
    return total


def numbers(H):
    return st.lists(st.floats(-0.7, 0.7), min_size=H, max_size=H).map(np.array)


@given(st.integers(1, 4).flatmap(lambda H: st.tuples(numbers(H), numbers(H))))
def test_loss_and_gradient(point):
    assert circuits.approximate_loss(*point, *AT) == pytest.approx(by_terms(*point))
    numerical = approx_fprime(
        np.concatenate(point), lambda both: circuits.approximate_loss(*np.split(both, 2), *AT), 1e-7
    )
    found = np.concatenate(circuits.approximate_gradient(*point, *AT))
    np.testing.assert_allclose(found, numerical, rtol=1e-4, atol=1e-4)


def test_best_mu_has_no_gradient():
    omega = np.array([0.31, -0.17, 0.05])
    mu = circuits.best_mu(omega, *AT)
    np.testing.assert_allclose(circuits.approximate_gradient(omega, mu, *AT)[1], 0, atol=1e-12)


def test_best_mu_of_one_head_at_its_omega():
    omega, mu = circuits.best_one_head(*AT)
    assert circuits.best_mu(np.array([omega]), *AT)[0] == pytest.approx(mu)
    found = minimize(lambda both: circuits.approximate_loss(both[:1], both[1:], *AT), [0.3, 1.0], tol=1e-10)
    np.testing.assert_allclose(found.x, [omega, mu], rtol=1e-3)


def test_two_heads():
    for omega in (0.01, 0.13, 0.4):
        mu = circuits.best_mu(np.array([omega, -omega]), *AT)
        assert mu.sum() == pytest.approx(0)
        assert 2 * omega * mu[0] == pytest.approx(circuits.best_two_heads(omega, *AT))
    assert circuits.best_two_heads(0, D, 40, NOISE) == pytest.approx(1 / (1 + 1.1 * 5 / 40))
    assert circuits.best_two_heads(1e-4, *AT) == pytest.approx(circuits.best_two_heads(0, *AT))


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
    flow = circuits.gradient_flow(start[:3].numpy(), start[3:].numpy(), [0.0, 1.0, 4.0], *AT)
    flow = np.concatenate(flow, 1)
    np.testing.assert_allclose(flow[0], start)
    np.testing.assert_allclose(flow[-1], state, rtol=1e-6, atol=1e-8)


def test_flow_from_opposite_signs_ends_at_the_debiased_step():
    start = np.array([0.01, -0.02]), np.array([0.02, -0.01])
    omega, mu = circuits.gradient_flow(*start, [0.0, 2000.0], *AT)
    assert omega[-1].sum() == pytest.approx(0, abs=1e-4)
    best = circuits.best_two_heads(omega[-1, 0], *AT)  # at this omega, which still falls, slowly
    assert omega[-1] @ mu[-1] == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize("omega", [0.05, 0.15])
@pytest.mark.parametrize("signs", [[1], [1, -1]])
def test_the_loss_is_near_the_measured_one(omega, signs):
    """It is for small omega, and leaves terms in 1 / L out, one d-th of those in d / L: within a tenth."""
    omegas = omega * np.array(signs, dtype=float)
    mus = circuits.best_mu(omegas, D, 100, NOISE)
    predictor = heads_on_pattern(torch.tensor(omegas)[:, None, None] * torch.eye(D), torch.tensor(mus))
    drawn = TASK.sample(2000, 100, seed=seeded("near"), queries=4, dtype=torch.float64)
    expected = circuits.approximate_loss(omegas, mus, D, 100, NOISE)
    assert loss(predictor, TASK, drawn) == pytest.approx(expected, rel=0.1)


def test_the_limit_of_two_heads_is_the_best_step_of_debiased_gradient_descent():
    """Exact in both: with a centred Wishart matrix the terms in 1 / L cancel."""
    drawn = TASK.sample(40_000, L, seed=seeded("step"), dtype=torch.float64)
    step = debiased_gd(drawn.x, drawn.y, 0.5, 1.0)
    best = (step * drawn.w).sum(-1).mean() / step.square().sum(-1).mean()
    assert best.item() == pytest.approx(circuits.best_two_heads(0, *AT), rel=5e-3)
