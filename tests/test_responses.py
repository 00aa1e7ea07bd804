"""Responses of predictors to contexts of any length: against losses measured otherwise, and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from icl_lib import one_layer, patterns, predictors, responses
from icl_lib.attention_layer import AttentionLayer
from icl_lib.baselines import evaluation_prompts
from icl_lib.constructions import heads_on_pattern
from icl_lib.training import seeded, train

SETTING = {"d": 3, "noise": 0.2, "n": 7, "steps": 20, "keep_every": 10, "batch": 5, "lr": 1e-2}
TASK = one_layer.training(SETTING, 2).task


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("pairs", [50, 10**6])
def test_models_have_the_losses_that_are_measured_elsewhere(attention, pairs, monkeypatch):
    monkeypatch.setattr(responses, "PAIRS", pairs)
    members = [replace(one_layer.training(SETTING, 2, attention=attention), seed=seed) for seed in (0, 1)]
    models = train(members, progress=False)
    found = responses.measure({"both": [*map(responses.of_model, models)]}, TASK, [4, 9], 30, 2)["both"]
    np.testing.assert_allclose(found.excess() + 0.2, one_layer.losses(models, [4, 9], 30, 2))


def test_moments_and_a_scale_by_hand():
    found = responses.measure({"some": [lambda p: p.x_query[..., 0]]}, TASK, [5], 11, 2)["some"]
    drawn = evaluation_prompts(TASK, 5, 11, 0, queries=2)
    p, t = drawn.x_query[..., 0], (drawn.x_query * drawn.w[:, None]).sum(-1)
    assert found.excess(3.0).item() == pytest.approx((3 * p - t).square().mean().item())
    assert found.slope(3.0).item() == pytest.approx(3 * (p * t).sum().item() / t.square().sum().item())


def test_a_longer_divisor_is_a_scale_of_the_prediction():
    """Weights of linear attention that divide by L in place of n: O times n / L."""
    settings = one_layer.training(SETTING, 2, attention="linear")
    (model,) = train([settings], progress=False)
    divided = replace(model, weights=model.weights | {"O": model.weights["O"] * 14 / 7})
    found = responses.measure({"it": [responses.of_model(model)]}, TASK, [14], 30, 2)["it"]
    np.testing.assert_allclose(
        found.excess(np.array([14 / 7])) + 0.2, one_layer.losses([divided], [14], 30, 2), rtol=1e-6
    )


def test_one_gradient_step_in_closed_form():
    """Slope and excess risk of the estimator at any step, and the best step."""
    d, n, noise = 3, 8, 0.2
    steps = (0.3, 0.9)
    group = [responses.of_estimator(predictors.gradient_step(eta)) for eta in steps]
    found = responses.measure({"steps": group}, TASK, [n], 100_000, 2)["steps"]
    expected = [predictors.gradient_step_loss(eta, d, n, noise) - noise for eta in steps]
    np.testing.assert_allclose(found.slope()[:, 0], steps, rtol=0.02)
    np.testing.assert_allclose(found.excess()[:, 0], expected, rtol=0.03)
    best = responses.best_plain_step(d, n, noise)
    around = [predictors.gradient_step_loss(best + change, d, n, noise) for change in (-1e-3, 0, 1e-3)]
    assert min(around) == around[1]


def test_operator_of_linear_attention():
    """What the prediction loses when every y changes its sign, the terms without y left out, is <r, A x>."""
    model = AttentionLayer(3, 2, attention="linear")
    weights = model.init(seeded("operator"), torch.float64)
    drawn = TASK.sample(4, 7, generator=seeded("operator"), dtype=torch.float64)
    turned = drawn._replace(y=-drawn.y)
    odd = (model.predict(weights, drawn) - model.predict(weights, turned)) / 2
    r = (drawn.x * drawn.y[..., None]).mean(1)
    A = responses.operator(model.kq(weights), model.ov(weights))
    torch.testing.assert_close(odd[:, 0], ((r @ A) * drawn.x_query[:, 0]).sum(-1))


def test_step_on_the_pattern():
    omega, mu = torch.tensor([0.2, -0.1]).double(), torch.tensor([3.0, -2.0]).double()
    model, weights = heads_on_pattern(omega[:, None, None] * torch.eye(3), mu)
    kq, ov = model.kq(weights), model.ov(weights)
    assert responses.step(kq, ov).item() == pytest.approx(0.8)
    assert patterns.product(kq, ov).item() == pytest.approx(0.8)
