"""Paper B's predictors: against sums by hand, exact losses against many prompts, limits against large d."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from settings import PAPER_B
from sources import functions

from icl_book import paper_b, published
from icl_book.frames import pick
from icl_book.studies import debiased
from icl_lib import circuits, estimators
from icl_lib.evaluation import loss
from icl_lib.tasks import Task, evaluation_prompts, seeded
from icl_lib.training import Runs, run

D, L, NOISE = 3, 7, 0.2
TASK = Task(D, D, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(D))
CHAPTER = functions("11_debiased_gd", np=np, circuits=circuits, d=D, noise=NOISE)


def test_heads_have_what_was_asked_for_and_as_many_alike_stand_for_them():
    omega, mu = [[0.2, -0.2], [0.1, 0.4], [0.3, -0.1]], [[3.0, -3.0], [1.0, 3.0], [2.0, 5.0]]
    made = [debiased.heads(*each, D) for each in zip(omega, mu, strict=True)]
    kq = torch.stack([model.kq(weights) for model, weights in made])
    ov = torch.stack([model.ov(weights) for model, weights in made])
    np.testing.assert_allclose(circuits.omega(kq, D), omega)
    np.testing.assert_allclose(circuits.mu(ov), mu)
    (trained,) = run(paper_b.training(PAPER_B, 2), 1)
    layers = {2: Runs(replace(trained, weights=weights) for _, weights in made)}
    placed = functions("11_debiased_gd", circuits=circuits, d=D, layers=layers)["placed"]
    stand_in = placed(2, [0, 2, 1], 2)
    assert stand_in["seed"] == [0, 2, 1]
    np.testing.assert_allclose(stand_in["omega"], [0.2, 1.1 / 7, 0.325], rtol=1e-6)
    np.testing.assert_allclose(stand_in["mu"], [3, 3.5, 2], rtol=1e-6)


@pytest.mark.parametrize("step", [0.5, 0.9])
@pytest.mark.parametrize("length", [4, 11])
def test_exact_losses_against_many_prompts(step, length):
    drawn = TASK.sample(100_000, length, seed=seeded("exact"), dtype=torch.float64)
    plain, centred = (
        loss(make(step), TASK, drawn) for make in (debiased.gradient_step, debiased.debiased_step)
    )
    assert plain == pytest.approx(debiased.gradient_step_loss(step, D, length, NOISE), rel=0.015)
    assert centred == pytest.approx(CHAPTER["debiased_loss"](step, length), rel=0.015)


def test_the_best_step_of_debiased_gradient_descent_is_exact():
    best = circuits.best_two_heads(0, D, L, NOISE)
    at = [CHAPTER["debiased_loss"](step, L) for step in (best - 1e-3, best, best + 1e-3)]
    assert at[1] < at[0] == pytest.approx(at[2], rel=1e-9)


def test_limits_against_a_large_problem():
    d, length = 150, 600
    task = Task(d, d, sigma=math.sqrt(NOISE), scale=1 / math.sqrt(d))
    drawn = task.sample(30, length, seed=seeded("limit"), dtype=torch.float64)
    bayes = loss(estimators.at_best(estimators.ridge, task, 40), task, drawn) - NOISE
    assert bayes == pytest.approx(CHAPTER["bayes_excess"](d / length), rel=0.03)
    d, length = 10**5, 4 * 10**5
    step = circuits.best_two_heads(0, d, length, NOISE)
    large = functions("11_debiased_gd", d=d, noise=NOISE)["debiased_loss"]
    excess = large(step, length) - NOISE
    assert excess == pytest.approx(CHAPTER["debiased_excess"](0.25), rel=1e-4)


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
    frame = debiased.measure(made, TASK, [4, 5], 2, 11, 3)
    assert frame.columns.tolist() == ["predictor", "seed", "n", "loss"]
    assert len(frame) == 2 * 2 * len(made)
    drawn = evaluation_prompts(TASK, 5, 11, 1, 3)
    by_model, by_gd = loss(made["two heads"](5), TASK, drawn), loss(made["GD"](5), TASK, drawn)
    assert pick(frame, "loss", predictor="two heads", n=5)[1] == pytest.approx(by_model)
    assert pick(frame, "loss", predictor="GD", n=5)[1] == pytest.approx(by_gd)
    at_queries = debiased.measure(made, TASK, 5, 2, 11, 3, exact=False)
    assert pick(at_queries, "loss", predictor="two heads")[1] == pytest.approx(by_model)
    by_gd = loss(made["GD"](5), TASK, drawn, exact=False)
    assert pick(at_queries, "loss", predictor="GD")[1] == pytest.approx(by_gd)
    at_five = debiased.measure(made, TASK, 5, 2, 11, 3)  # one length
    assert pick(at_five, "loss", predictor="GD").tolist() == pick(frame, "loss", predictor="GD", n=5).tolist()


def test_trained_models_are_compared_on_the_prompts_of_their_own_seeds():
    models = run(paper_b.training(PAPER_B, 2), 2)
    frame = debiased.compare(models, [4, 9], 13, 3)
    assert frame.groupby(["seed", "n"]).size().tolist() == [39] * 4
    weights = {name: weight.double() for name, weight in models[1].weights.items()}
    drawn = evaluation_prompts(TASK, 9, 13, 1, 3)
    alone = debiased.predictions(models[1].settings.model, weights, drawn)
    second = frame[(frame.seed == 1) & (frame.n == 9)]
    for name, values in alone._asdict().items():
        np.testing.assert_allclose(second[name], values.flatten())


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
