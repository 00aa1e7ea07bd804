"""Pattern scores on matrices with known answers."""

import math

import pytest
import torch

from icl_lib import patterns
from icl_lib.constructions import heads_on_pattern
from icl_lib.estimators import preconditioned_gd
from icl_lib.tasks import Task

D = 5


def on_pattern(omegas, mus):
    """KQ (1, H, p, p) and OV (1, H, 1, p) on the pattern, but for KQ's column that has no effect."""
    H = len(omegas)
    kq, ov = torch.zeros(1, H, D + 1, D + 1).double(), torch.zeros(1, H, 1, D + 1).double()
    for h, (omega, mu) in enumerate(zip(omegas, mus, strict=True)):
        kq[0, h, :D, :D] = omega * torch.eye(D)
        kq[0, h, :, D] = 7.0
        ov[0, h, 0, D] = mu
    return kq, ov


def test_perfect_pair():
    kq, ov = on_pattern([0.13, -0.13], [3.0, -3.0])
    found = patterns.pattern(kq, ov)
    assert [score.item() for score in found] == pytest.approx([1, 0, 0, 0, 1, 1, 0], abs=1e-12)
    assert patterns.product(kq, ov).item() == pytest.approx(0.78)


def test_omega_and_mu_by_hand():
    kq, ov = on_pattern([0.2, -0.1, 0.4], [1.0, 2.0, -3.0])
    kq[0, 0, 0, 0] = 0.7
    torch.testing.assert_close(patterns.omega(kq, D), torch.tensor([[0.3, -0.1, 0.4]]).double())
    torch.testing.assert_close(patterns.mu(ov), torch.tensor([[1.0, 2.0, -3.0]]).double())
    assert patterns.product(kq, ov).item() == pytest.approx(0.3 - 0.2 - 1.2)


def test_scores_by_hand():
    """One head with diagonal 1, 2, 3, 4, 5, an entry 2 beside it, and OV (0, .., 1, 4)."""
    kq, ov = on_pattern([1.0], [4.0])
    kq[0, 0, range(D), range(D)] = torch.arange(1.0, 6.0).double()
    kq[0, 0, 1, 3] = -2.0
    ov[0, 0, 0, 2] = 1.0
    found = patterns.pattern(kq, ov)
    assert found.diagonal_energy.item() == pytest.approx(55 / 59)
    assert found.spread.item() == pytest.approx(math.sqrt(2) / 3)
    assert found.off_pattern.item() == pytest.approx(max(2 / 3, 1 / 4))
    assert found.balance.item() == 1


def test_the_row_of_y_is_outside_and_its_column_has_no_effect():
    kq, ov = on_pattern([0.5, -0.5], [1.0, -1.0])
    kq[0, 1, D, 2] = 0.25
    assert patterns.pattern(kq, ov).off_pattern.item() == pytest.approx(0.5)


def test_dummies_are_counted_and_not_scored():
    kq, ov = on_pattern([0.2, -0.2, 0.19, 0.2], [2.0, -2.4, 0.4, 0.01])
    kq[0, 3, 0, 1] = 9.0
    found = patterns.pattern(kq, ov)
    assert (found.positive.item(), found.negative.item(), found.dummy.item()) == (2, 1, 1)
    assert found.diagonal_energy.item() == 1
    assert found.balance.item() == pytest.approx(0.01 / 4.81)


def test_the_worst_active_head_counts_and_models_are_scored_alone():
    pair, spoilt = on_pattern([0.2, -0.2], [2.0, -2.0]), on_pattern([0.2, -0.2], [2.0, -2.0])
    spoilt[0][0, 1, 0, 1] = 0.2
    kq, ov = (torch.cat(both) for both in zip(pair, spoilt, strict=True))
    torch.testing.assert_close(patterns.pattern(kq, ov).diagonal_energy, torch.tensor([1, 5 / 6]).double())


def test_constructed_heads_have_what_was_asked_for():
    omega, mu = torch.tensor([0.3, -0.2, 0.1]).double(), torch.tensor([1.0, -2.0, 0.5]).double()
    model, weights = heads_on_pattern(omega[:, None, None] * torch.eye(D).double(), mu)
    kq, ov = model.kq(weights), model.ov(weights)
    torch.testing.assert_close(patterns.omega(kq, D), omega)
    torch.testing.assert_close(patterns.mu(ov), mu)
    assert patterns.pattern(kq, ov).off_pattern.item() == pytest.approx(0, abs=1e-12)


def test_preconditioner_by_hand():
    kq, ov = torch.full((1, 2, 3, 3), 9.0).double(), torch.full((1, 2, 1, 3), 7.0).double()
    kq[0, :, :2, :2] = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[-1.0, 4.0], [5.0, 0.0]]])
    ov[0, :, 0, 2] = torch.tensor([10.0, -1.0])
    expected = torch.tensor([[[11.0, 16.0], [-5.0, 30.0]]]).double()
    torch.testing.assert_close(patterns.preconditioner(kq, ov), expected)


def test_preconditioner_on_the_pattern_is_the_product():
    kq, ov = on_pattern([0.2, -0.1, 0.4], [1.0, 2.0, -3.0])
    expected = patterns.product(kq, ov)[:, None, None] * torch.eye(D).double()
    torch.testing.assert_close(patterns.preconditioner(kq, ov), expected)


def test_two_opposite_heads_of_small_omega_precondition():
    """A layer with a KQ that is not symmetric against the estimator: a transposed P fails."""
    generator = torch.Generator().manual_seed(0)
    Omega = torch.randn(D, D, generator=generator, dtype=torch.float64)
    omega = torch.tensor([1e-5, -1e-5]).double()
    model, weights = heads_on_pattern(omega[:, None, None] * Omega, 1 / (2 * omega))
    P = patterns.preconditioner(model.kq(weights), model.ov(weights))
    torch.testing.assert_close(P, Omega)
    drawn = Task(D, D, rho=0.5).sample(11, 7, generator=generator, queries=3, dtype=torch.float64)
    expected = drawn.x_query @ preconditioned_gd(drawn.x, drawn.y, P)[..., None]
    torch.testing.assert_close(model.predict(weights, drawn), expected[..., 0], rtol=1e-6, atol=1e-6)


def test_closeness_by_hand():
    given = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    found = torch.stack([2 * given, torch.tensor([[0.0, 1.0], [1.0, 0.0]])])
    near = patterns.closeness(found, given)
    torch.testing.assert_close(near.scale, torch.tensor([2.0, 4 / 25]))
    torch.testing.assert_close(near.cosine, torch.tensor([1.0, 4 / math.sqrt(50)]))
    torch.testing.assert_close(near.distance, torch.tensor([0.0, math.sqrt(1 - 16 / 50)]))
