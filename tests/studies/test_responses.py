"""Responses of predictors to contexts of any length: against losses measured otherwise, and closed forms."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from settings import PAPER_B

from icl_book import paper_b
from icl_book.studies import responses
from icl_lib import circuits, estimators
from icl_lib.attention_layer import AttentionLayer
from icl_lib.constructions import heads_on_pattern
from icl_lib.tasks import evaluation_prompts, seeded
from icl_lib.training import run

TASK = paper_b.training(PAPER_B, 2).task


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("pairs", [50, 10**6])
def test_models_have_the_losses_that_are_measured_elsewhere(attention, pairs, monkeypatch):
    monkeypatch.setattr(responses, "PAIRS", pairs)
    models = {2: run(paper_b.training(PAPER_B, 2, attention=attention), 2)}
    found = responses.measure(models, "H", TASK, [4, 9], 30, 2)
    np.testing.assert_allclose(found.excess + 0.2, found.loss)
    expected = paper_b.losses(models, "H", [4, 9], 30, queries=2)
    order = ["H", "seed", "n", "loss"]
    frames = [frame[order].sort_values(order, ignore_index=True) for frame in (found, expected)]
    pd.testing.assert_frame_equal(*frames)


def test_slope_and_excess_risk_by_hand():
    first = torch.eye(3).double()[:1].expand(11, 3)  # it predicts the first covariate
    found = responses.measure({"first": lambda x, y: first}, "name", TASK, [5], 11, 2)
    drawn = evaluation_prompts(TASK, 5, 11, 0, queries=2)
    p, t = drawn.x_query[..., 0], (drawn.x_query * drawn.w[:, None]).sum(-1)
    assert found[["name", "seed", "n"]].astype(object).values.tolist() == [["first", pd.NA, 5]]
    assert found.excess.item() == pytest.approx((p - t).square().mean().item())
    assert found.slope.item() == pytest.approx((p * t).sum().item() / t.square().sum().item())


def test_linear_attention_with_another_divisor():
    """It predicts n / divisor times as much."""
    models = {2: run(paper_b.training(PAPER_B, 2, attention="linear"), 1)}
    usual = responses.measure(models, "H", TASK, [4, 7], 30, 2)
    other = responses.measure(models, "H", TASK, [4, 7], 30, 2, divisor=lambda n: 14)
    np.testing.assert_allclose(other.slope, usual.slope * [4 / 14, 7 / 14])
    drawn = evaluation_prompts(TASK, 4, 30, 0, queries=2)
    expected = (models[2][0].predict(drawn) * 4 / 14 - drawn.target()).square().mean().item()
    assert other.excess[0] == pytest.approx(expected)


def test_one_gradient_step_in_closed_form():
    """Slope and excess risk of the estimator at any step, as the chapter has them."""
    d, n, noise = 3, 8, 0.2
    plain = partial(estimators.gradient_descent, steps=1, per_prompt=False)
    steps = {eta: partial(plain, eta=eta) for eta in (0.3, 0.9)}
    found = responses.measure(steps, "step", TASK, [n], 100_000, 2)
    expected = (1 - found.step) ** 2 + found.step**2 * (d + 1 + d * noise) / n
    np.testing.assert_allclose(found.slope, found.step, rtol=0.02)
    np.testing.assert_allclose(found.excess, expected, rtol=0.03)


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
    omega, mu = torch.tensor([0.2, -0.1]).double(), torch.tensor([3.0, -2.0]).double()
    model, weights = heads_on_pattern(omega[:, None, None] * torch.eye(3).double(), mu)
    kq, ov = model.kq(weights), model.ov(weights)
    assert (responses.step(kq, ov).item(), circuits.product(kq, ov).item()) == pytest.approx((0.8, 0.8))
