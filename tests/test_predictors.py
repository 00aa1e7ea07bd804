"""Paper B's predictors: against sums by hand, exact losses against many prompts, limits against large d."""

import math

import numpy as np
import pytest
import torch

from icl_lib import approximation, estimators, one_layer, papers, patterns, predictors
from icl_lib.baselines import evaluation_prompts, reference
from icl_lib.tasks import Task
from icl_lib.training import seeded, train

D, L, NOISE = 3, 7, 0.2
TASK = Task(D, D, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(D))


def test_heads_have_what_was_asked_for():
    model, weights = predictors.heads([0.3, -0.1], [2.0, 5.0], D)
    torch.testing.assert_close(
        patterns.omega(model.kq(weights), D), torch.tensor([0.3, -0.1], dtype=torch.float64)
    )
    assert patterns.mu(model.ov(weights)).tolist() == pytest.approx([2, 5])


def test_steps_by_hand():
    x = torch.tensor([[[1.0, 0.0], [3.0, 2.0]]]).double()
    y = torch.tensor([[2.0, 4.0]]).double()
    plain = predictors.gradient_step(0.5)(x, y)
    assert plain[0].tolist() == pytest.approx([0.25 * 14, 0.25 * 8])
    debiased = predictors.debiased_step(0.5)(x, y)  # centred: -1, 1 and -1, 1
    assert debiased[0].tolist() == pytest.approx([0.25 * 2, 0.25 * 2])


def test_ridge_is_the_bayes_predictor():
    drawn = evaluation_prompts(TASK, L, 5, 0)
    bayes = estimators.bayes(drawn.x, drawn.y, D, TASK.sigma, scale=TASK.scale)
    torch.testing.assert_close(reference("ridge", TASK, 40)(drawn.x, drawn.y), bayes)


@pytest.mark.parametrize("step", [0.5, 0.9])
@pytest.mark.parametrize("length", [4, 11])
def test_exact_losses_against_many_prompts(step, length):
    drawn = TASK.sample(100_000, length, generator=seeded("exact"), dtype=torch.float64)
    for make, exact in (
        (predictors.gradient_step, predictors.gradient_step_loss),
        (predictors.debiased_step, predictors.debiased_step_loss),
    ):
        measured = one_layer.estimator_loss(make(step), TASK, drawn)
        assert measured == pytest.approx(exact(step, D, length, NOISE), rel=0.015)


def test_the_best_step_of_debiased_gradient_descent_is_exact():
    best = approximation.two_heads(0, D, L, NOISE)
    at = [predictors.debiased_step_loss(step, D, L, NOISE) for step in (best - 1e-3, best, best + 1e-3)]
    assert at[1] < at[0] == pytest.approx(at[2], rel=1e-9)


def test_limits_against_a_large_problem():
    d, length = 150, 600
    task = Task(d, d, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(d))
    drawn = task.sample(30, length, generator=seeded("limit"), dtype=torch.float64)
    bayes = one_layer.estimator_loss(reference("ridge", task, 40), task, drawn) - NOISE
    assert bayes == pytest.approx(predictors.bayes_excess(d / length, NOISE), rel=0.03)
    d, length = 10**5, 4 * 10**5
    step = approximation.two_heads(0, d, length, NOISE)
    debiased = predictors.debiased_step_loss(step, d, length, NOISE) - NOISE
    assert debiased == pytest.approx(predictors.debiased_excess(0.25, NOISE), rel=1e-4)


def test_the_papers_predictors():
    made = predictors.paper_b(0.1, 4.0, TASK, L)
    assert made.keys() == papers.PUBLISHED.keys()
    omega, mu = approximation.one_head(D, L, NOISE)
    for length in (L, 3 * L):  # it keeps the mu of training
        model, weights = made["one head"](length)
        assert patterns.omega(model.kq(weights), D).item() == pytest.approx(omega)
        assert patterns.mu(model.ov(weights)).item() == pytest.approx(mu)
    model, weights = made["two heads"](L)
    assert patterns.product(model.kq(weights), model.ov(weights)).item() == pytest.approx(0.8)
    drawn = evaluation_prompts(TASK, L, 5, 0)
    torch.testing.assert_close(
        made["debiased GD"](L)(drawn.x, drawn.y), estimators.debiased_gd(drawn.x, drawn.y, 0.1, 4.0)
    )
    plain = made["GD"](L)(drawn.x, drawn.y)
    torch.testing.assert_close(plain, 0.8 * (drawn.x.mT @ drawn.y[..., None])[..., 0] / L)


def test_losses_are_those_on_each_seeds_prompts():
    made = predictors.paper_b(0.1, 4.0, TASK, L)
    found = predictors.losses(made, TASK, 5, 2, 11, 3)
    at_queries = predictors.losses(made, TASK, 5, 2, 11, 3, exact=False)
    drawn = evaluation_prompts(TASK, 5, 11, 1, 3)
    by_model = one_layer.loss(*made["two heads"](5), TASK, drawn)
    assert found["two heads"][1] == at_queries["two heads"][1] == pytest.approx(by_model)
    assert found["GD"][1] == pytest.approx(one_layer.estimator_loss(made["GD"](5), TASK, drawn))
    w_hat = made["GD"](5)(drawn.x, drawn.y)
    squared = (((w_hat - drawn.w)[:, None] * drawn.x_query).sum(-1) ** 2).mean().item()
    assert at_queries["GD"][1] == pytest.approx(squared + NOISE)


def test_trained_losses_are_on_the_prompts_of_each_models_seed():
    setting = {"d": D, "noise": NOISE, "n": L, "steps": 20, "keep_every": 10, "batch": 5, "lr": 1e-2}
    models = train([one_layer.training(setting, 2, seed=seed) for seed in (0, 1)], progress=False)
    found = predictors.trained_losses(models, [4, 9], 13, 3)
    assert found.shape == (2, 2)
    weights = {name: weight.double() for name, weight in models[1].weights.items()}
    alone = predictors.losses({"one": lambda _: (models[1].settings.model, weights)}, TASK, 9, 2, 13, 3)
    assert found[1, 1] == pytest.approx(alone["one"][1])


def test_predictions_of_heads_on_the_pattern():
    """Small omega: debiased gradient descent with the same step; and nothing is off the pattern."""
    drawn = evaluation_prompts(TASK, L, 11, 0, 2)
    found = predictors.predictions(*predictors.heads([1e-3, -1e-3], [400.0, -400.0], D), drawn)
    assert found.model.shape == (11, 2)
    torch.testing.assert_close(found.pattern, found.model)
    torch.testing.assert_close(found.debiased, found.model, rtol=1e-2, atol=1e-3)
    assert found.unlike("debiased") < 1e-4 < found.unlike("plain")


def test_unlike_by_hand():
    model, other = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 2.0]])
    found = predictors.Predictions(model, other, model, model)
    assert found.unlike("debiased") == pytest.approx(0.1)
    assert found.unlike("plain") == 0


def test_search_for_one_head_against_a_grid():
    drawn = evaluation_prompts(TASK, L, 50, 0, 2)
    omega, mu = predictors.searched_one_head(TASK, drawn)
    best = one_layer.loss(*predictors.heads([omega], [mu], D), TASK, drawn)
    grid = [
        one_layer.loss(*predictors.heads([a], [b], D), TASK, drawn)
        for a in omega * np.array([0.7, 0.95, 1.0, 1.05, 1.4])
        for b in mu * np.array([0.9, 1.0, 1.1])
    ]
    assert best == pytest.approx(min(grid))
    assert min(np.delete(grid, 7)) > best


def test_heads_that_are_alike_stand_for_those_of_a_model():
    d, omega, mu = 5, 0.2, 3.0
    kq, ov = (
        torch.stack(parts)
        for parts in zip(
            *(
                (model.kq(weights), model.ov(weights))
                for model, weights in (
                    predictors.heads([omega, -omega], [mu, -mu], d),
                    predictors.heads([0.1, 0.4], [1.0, 3.0], d),
                )
            ),
            strict=True,
        )
    )
    sizes, strength = predictors.alike(kq, ov, d, 2)
    torch.testing.assert_close(sizes, torch.tensor([omega, 0.325], dtype=sizes.dtype))
    torch.testing.assert_close(strength, torch.tensor([mu, 2.0], dtype=sizes.dtype))
