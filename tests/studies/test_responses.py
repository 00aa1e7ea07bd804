"""Responses of predictors to contexts of any length: against losses measured otherwise, and closed forms."""

import numpy as np
import pytest
import torch
from settings import PAPER_B

from icl_book import paper_b
from icl_book.studies import debiased, responses
from icl_lib import circuits
from icl_lib.attention_layer import AttentionLayer
from icl_lib.tasks import evaluation_prompts, seeded
from icl_lib.training import run

TASK = paper_b.training(PAPER_B, 2).task


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("pairs", [50, 10**6])
def test_models_have_the_losses_that_are_measured_elsewhere(attention, pairs, monkeypatch):
    monkeypatch.setattr(responses, "PAIRS", pairs)
    models = run(paper_b.training(PAPER_B, 2, attention=attention), 2)
    found = responses.measure({"both": [model.predict for model in models]}, TASK, [4, 9], 30, 2)["both"]
    np.testing.assert_allclose(found.excess() + 0.2, paper_b.losses(models, [4, 9], 30, 2))


def test_moments_and_a_scale_by_hand():
    found = responses.measure({"some": [lambda p: p.x_query[..., 0]]}, TASK, [5], 11, 2)["some"]
    drawn = evaluation_prompts(TASK, 5, 11, 0, queries=2)
    p, t = drawn.x_query[..., 0], (drawn.x_query * drawn.w[:, None]).sum(-1)
    for scale in (3.0, np.array([3.0])):  # one for all lengths, or each its own
        assert found.excess(scale).item() == pytest.approx((3 * p - t).square().mean().item())
        assert found.slope(scale).item() == pytest.approx(3 * (p * t).sum().item() / t.square().sum().item())


def test_one_gradient_step_in_closed_form():
    """Slope and excess risk of the estimator at any step, and the best step."""
    d, n, noise, steps = 3, 8, 0.2, (0.3, 0.9)
    group = [responses.of_estimator(debiased.gradient_step(eta)) for eta in steps]
    found = responses.measure({"steps": group}, TASK, [n], 100_000, 2)["steps"]
    expected = [debiased.gradient_step_loss(eta, d, n, noise) - noise for eta in steps]
    np.testing.assert_allclose(found.slope()[:, 0], steps, rtol=0.02)
    np.testing.assert_allclose(found.excess()[:, 0], expected, rtol=0.03)
    best = responses.best_plain_step(d, n, noise)
    around = [debiased.gradient_step_loss(best + change, d, n, noise) for change in (-1e-3, 0, 1e-3)]
    assert min(around) == around[1]


def test_operator_of_linear_attention():
    """What the prediction loses when every y changes its sign, the terms without y left out, is <r, A x>."""
    model = AttentionLayer(3, 2, attention="linear")
    weights = model.init(seeded("operator"), torch.float64)
    drawn = TASK.sample(4, 7, seed=seeded("operator"), dtype=torch.float64)
    turned = drawn._replace(y=-drawn.y)
    odd = (model.predict(weights, drawn) - model.predict(weights, turned)) / 2
    r = (drawn.x * drawn.y[..., None]).mean(1)
    A = responses.operator(model.kq(weights), model.ov(weights))
    torch.testing.assert_close(odd[:, 0], ((r @ A) * drawn.x_query[:, 0]).sum(-1))
    model, weights = debiased.heads([0.2, -0.1], [3.0, -2.0], 3)
    kq, ov = model.kq(weights), model.ov(weights)
    assert (responses.step(kq, ov).item(), circuits.product(kq, ov).item()) == pytest.approx((0.8, 0.8))
