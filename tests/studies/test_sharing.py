"""Sharing scores on matrices with known answers, and hand-written models of several tasks."""

import math

import pytest
import torch

from icl_book.studies import sharing
from icl_book.studies.debiased import debiased_step
from icl_lib.tasks import MultiTask, evaluation_prompts

TASK = MultiTask()  # d = 6, blocks 0-3 and 2-5
SPLIT = sharing.in_pairs(torch.eye(2).double())


def scores(*directions):
    """Of a model for each set of directions, all at once."""
    made = [sharing.written(TASK, A, 0.1, 0.9) for A in directions]
    kq = torch.stack([model.kq(weights) for model, weights in made])
    ov = torch.stack([model.ov(weights) for model, weights in made])
    return sharing.sharing(kq, ov, TASK.blocks)


def test_a_pair_for_each_task_and_two_pairs_that_serve_both_alike():
    alike = sharing.in_pairs(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).double())
    found = scores(SPLIT, alike)
    assert found.split.tolist() == pytest.approx([1, 0.5])
    counts = found.both.tolist(), found.own.tolist(), found.dummy.tolist()
    assert counts == ([0, 4], [[2, 2], [0, 0]], [0, 0])
    torch.testing.assert_close(found.balance, torch.zeros(2, 2).double(), rtol=0, atol=1e-12)
    assert found.opposite.tolist() == pytest.approx([1, 1])
    # The second's diagonals (1, 1, 2, 2, 1, 1) and (-1, -1, 0, 0, 1, 1): block 1 has 10 of 12, and 2 of 4.
    assert found.inside.tolist() == pytest.approx([1, (10 / 12 + 2 / 4) / 2])


def test_three_heads_on_a_ring():
    """Directions at 0, 120 and 240 degrees: mu is along them, and the first serves one task alone."""
    found = scores(sharing.on_a_ring(3))
    c, s = 0.5, math.sqrt(3) / 2
    assert found.split.item() == pytest.approx((1 + 2 * s / (c + s)) / 3)
    assert (found.both.item(), found.own.tolist(), found.dummy.item()) == (2, [[1, 0]], 0)
    torch.testing.assert_close(found.balance, torch.zeros(1, 2).double(), rtol=0, atol=1e-12)
    assert found.opposite.item() == pytest.approx(0.5)  # minus the cosine of 120 degrees


def test_scores_by_hand():
    """Two heads, one diagonal twice the other's, and a dummy with a sizable KQ."""
    kq, ov = torch.zeros(3, 8, 8).double(), torch.zeros(3, 2, 8).double()
    kq[0, range(6), range(6)] = 0.1
    kq[1, range(6), range(6)] = -0.2
    kq[2, range(6), range(6)] = 5.0
    kq[:, :, 6:] = 9.0  # without effect
    ov[0, :, 6:] = torch.tensor([[3.0, 7.0], [7.0, 1.0]]).double()
    ov[1, :, 6:] = torch.tensor([[-2.0, 7.0], [7.0, 0.0]]).double()
    ov[2, 0, 6] = 0.001
    served = sharing.service(kq, ov)
    torch.testing.assert_close(served, torch.tensor([[0.3, 0.1], [0.4, 0.0], [0.005, 0.0]]).double())
    found = sharing.sharing(kq, ov, TASK.blocks)
    assert found.split.item() == pytest.approx((0.75 + 1) / 2)
    assert (found.both.item(), found.own.tolist(), found.dummy.item()) == (1, [1, 0], 1)
    assert found.balance.tolist() == pytest.approx([1.001 / 5.001, 1])
    # Diagonals are opposite; the cosine of (3, 1) and (-2, 0) is -3 / sqrt(10).
    assert found.opposite.item() == pytest.approx(3 / math.sqrt(10))
    assert found.inside.item() == pytest.approx(4 / 6)


@pytest.mark.parametrize("A", [SPLIT, sharing.on_a_ring(3), sharing.on_a_ring(5, 0.3)])
def test_small_heads_are_debiased_gradient_descent(A):
    """Whatever the directions: the prediction is the sum that the module's docstring asks for."""
    prompts = evaluation_prompts(TASK, 24, 50, 0, 2)
    model, weights = sharing.written(TASK, A, 1e-5, 0.7)
    centred = prompts.x - prompts.x.mean(-2, keepdim=True)
    for k, block in enumerate(map(list, TASK.blocks)):
        w_hat = 0.7 / 24 * (centred[..., block].mT @ prompts.y[..., k, None])
        expected = (prompts.x_query[..., block] @ w_hat)[..., 0]
        torch.testing.assert_close(model.predict(weights, prompts)[..., k], expected, rtol=0, atol=3e-3)


def test_directions_that_cannot_add_up_are_refused():
    for A in (torch.eye(2).double(), sharing.in_pairs(torch.ones(1, 2).double())):
        with pytest.raises(ValueError, match="directions"):
            sharing.written(TASK, A, 0.1, 0.9)


def test_references():
    """The loss of debiased descent is known, d (1 - (L - 1) / (L + d + sigma^2)); its step is the best."""
    L, prompts = 48, evaluation_prompts(TASK, 48, 20_000, 0, 2)
    found = sharing.references(TASK, L)
    descent = sharing.reference_loss(found["debiased GD"], TASK, prompts)
    assert descent == pytest.approx(2 * 4 * (1 - (L - 1) / (L + 4 + 0.4)), rel=0.02)
    assert sharing.best_step(TASK, 0, L) == pytest.approx(L / (L + 4.4))
    assert sharing.reference_loss(found["ridge"], TASK, prompts) < 0.15 * descent
    for factor in (0.95, 1.05):
        other = [debiased_step(factor * sharing.best_step(TASK, 0, L))] * 2
        assert sharing.reference_loss(other, TASK, prompts) > descent
    nothing = [lambda x, y: torch.zeros_like(x[:, 0])] * 2
    squared = prompts.target().square().mean((0, 1)).sum().item()  # over tasks
    assert sharing.reference_loss(nothing, TASK, prompts) == pytest.approx(squared)
