"""Paper B's predictors: against sums by hand, exact losses against many prompts, limits against large d."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from settings import PAPER_B

from icl_book import paper_b, published
from icl_book.studies import debiased
from icl_lib import circuits, estimators
from icl_lib.evaluation import loss
from icl_lib.tasks import Task, evaluation_prompts, seeded
from icl_lib.training import run

D, L, NOISE = 3, 7, 0.2
TASK = Task(D, D, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(D))


def test_heads_have_what_was_asked_for_and_as_many_alike_stand_for_them():
    omega, mu = [[0.2, -0.2], [0.1, 0.4], [0.3, -0.1]], [[3.0, -3.0], [1.0, 3.0], [2.0, 5.0]]
    made = [debiased.heads(*each, 5) for each in zip(omega, mu, strict=True)]
    kq = torch.stack([model.kq(weights) for model, weights in made])
    ov = torch.stack([model.ov(weights) for model, weights in made])
    np.testing.assert_allclose(circuits.omega(kq, 5), omega)
    np.testing.assert_allclose(circuits.mu(ov), mu)
    sizes, strength = debiased.alike(kq, ov, 5, 2)
    np.testing.assert_allclose(sizes, [0.2, 0.325, 1.1 / 7])
    np.testing.assert_allclose(strength, [3, 2, 3.5])


@pytest.mark.parametrize("step", [0.5, 0.9])
@pytest.mark.parametrize("length", [4, 11])
def test_exact_losses_against_many_prompts(step, length):
    drawn = TASK.sample(100_000, length, seed=seeded("exact"), dtype=torch.float64)
    for name in ("gradient_step", "debiased_step"):
        exact = getattr(debiased, f"{name}_loss")(step, D, length, NOISE)
        assert loss(getattr(debiased, name)(step), TASK, drawn) == pytest.approx(exact, rel=0.015)


def test_the_best_step_of_debiased_gradient_descent_is_exact():
    best = circuits.best_two_heads(0, D, L, NOISE)
    at = [debiased.debiased_step_loss(step, D, L, NOISE) for step in (best - 1e-3, best, best + 1e-3)]
    assert at[1] < at[0] == pytest.approx(at[2], rel=1e-9)


def test_limits_against_a_large_problem():
    d, length = 150, 600
    task = Task(d, d, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(d))
    drawn = task.sample(30, length, seed=seeded("limit"), dtype=torch.float64)
    bayes = loss(estimators.at_best(estimators.ridge, task, 40), task, drawn) - NOISE
    assert bayes == pytest.approx(debiased.bayes_excess(d / length, NOISE), rel=0.03)
    d, length = 10**5, 4 * 10**5
    step = circuits.best_two_heads(0, d, length, NOISE)
    excess = debiased.debiased_step_loss(step, d, length, NOISE) - NOISE
    assert excess == pytest.approx(debiased.debiased_excess(0.25, NOISE), rel=1e-4)


def test_the_papers_predictors():
    made = debiased.paper_b(0.1, 4.0, TASK, L)
    assert made.keys() == published.LOSS.keys()
    for length in (L, 3 * L):  # it keeps the mu of training
        model, weights = made["one head"](length)
        found = circuits.omega(model.kq(weights), D).item(), circuits.mu(model.ov(weights)).item()
        assert found == pytest.approx(circuits.best_one_head(D, L, NOISE))
    model, weights = made["two heads"](L)
    assert circuits.product(model.kq(weights), model.ov(weights)).item() == pytest.approx(0.8)
    x, y, *_ = evaluation_prompts(TASK, L, 5, 0)
    torch.testing.assert_close(made["debiased GD"](L)(x, y), estimators.debiased_gd(x, y, 0.1, 4.0))
    torch.testing.assert_close(made["GD"](L)(x, y), 0.8 * (x.mT @ y[..., None])[..., 0] / L)
    bayes = estimators.bayes(x, y, D, TASK.sigma, scale=TASK.scale)
    torch.testing.assert_close(made["ridge"](L)(x, y), bayes)


def test_losses_are_those_on_each_seeds_prompts():
    made = debiased.paper_b(0.1, 4.0, TASK, L)
    found = debiased.losses(made, TASK, 5, 2, 11, 3)
    at_queries = debiased.losses(made, TASK, 5, 2, 11, 3, exact=False)
    drawn = evaluation_prompts(TASK, 5, 11, 1, 3)
    by_model = loss(made["two heads"](5), TASK, drawn)
    assert found["two heads"][1] == at_queries["two heads"][1] == pytest.approx(by_model)
    assert found["GD"][1] == pytest.approx(loss(made["GD"](5), TASK, drawn))
    assert at_queries["GD"][1] == pytest.approx(loss(made["GD"](5), TASK, drawn, exact=False))


def test_trained_losses_are_on_the_prompts_of_each_models_seed():
    models = run(paper_b.training(PAPER_B, 2), 2)
    found = debiased.trained_losses(models, [4, 9], 13, 3)
    assert found.shape == (2, 2)
    weights = {name: weight.double() for name, weight in models[1].weights.items()}
    alone = debiased.losses({"one": lambda _: (models[1].settings.model, weights)}, TASK, 9, 2, 13, 3)
    assert found[1, 1] == pytest.approx(alone["one"][1])


def test_predictions_of_heads_on_the_pattern():
    """Small omega: debiased gradient descent with the same step; and nothing is off the pattern."""
    drawn = evaluation_prompts(TASK, L, 11, 0, 2)
    found = debiased.predictions(*debiased.heads([1e-3, -1e-3], [400.0, -400.0], D), drawn)
    assert found.model.shape == (11, 2)
    torch.testing.assert_close(found.pattern, found.model)
    torch.testing.assert_close(found.debiased, found.model, rtol=1e-2, atol=1e-3)
    assert found.unlike("debiased") < 1e-4 < found.unlike("plain")
    model, other = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 2.0]])
    by_hand = debiased.Predictions(model, other, model, model)
    assert (by_hand.unlike("debiased"), by_hand.unlike("plain")) == pytest.approx((0.1, 0))


def test_search_for_one_head_against_a_grid():
    drawn = evaluation_prompts(TASK, L, 50, 0, 2)
    omega, mu = debiased.searched_one_head(TASK, drawn)
    best = loss(debiased.heads([omega], [mu], D), TASK, drawn)
    around = product(omega * np.array([0.7, 0.95, 1.0, 1.05, 1.4]), mu * np.array([0.9, 1.0, 1.1]))
    grid = [loss(debiased.heads([a], [b], D), TASK, drawn) for a, b in around]
    assert best == pytest.approx(min(grid))
    assert min(np.delete(grid, 7)) > best
