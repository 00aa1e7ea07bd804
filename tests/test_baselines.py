"""Reference lines: tuned at their best, evaluated on the same prompts."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from icl_lib import approximation, baselines, estimators
from icl_lib.baselines import METHODS, evaluation_prompts, reference, risks
from icl_lib.tasks import Task

TASK = Task(5, 1, sigma=0.5)


def test_evaluation_prompts_depend_on_seed_and_length_alone():
    one, same = (evaluation_prompts(TASK, 7, 11, 0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.x, evaluation_prompts(TASK, 7, 11, 1).x)
    louder = evaluation_prompts(Task(5, 1, sigma=1.0), 7, 11, 0)
    assert torch.equal(one.x, louder.x)  # noise levels are compared on the same covariates
    assert one.x.dtype == torch.float64


def test_risks_are_those_of_the_estimators():
    table = risks(METHODS, TASK, [7, 13], seeds=3, prompts=50)
    for method in METHODS:
        assert table[method].shape == (3, 2)
        drawn = evaluation_prompts(TASK, 13, 50, 2)
        w_hat = reference(method, TASK, 13)(drawn.x, drawn.y)
        assert table[method][2, 1] == pytest.approx(TASK.excess_risk(w_hat, drawn.w).mean().item())


def test_bayes_is_the_floor():
    table = risks(METHODS, TASK, [7], seeds=2, prompts=2000)
    means = {method: values.mean() for method, values in table.items()}
    assert min(means, key=means.get) == "Bayes"


def test_tuned_values_are_inside_their_grids():
    """An optimum at an end of a grid would not be the method at its best."""
    for sigma in (0.3, 1.0):
        task = Task(5, 1, sigma=sigma)
        alpha = reference("Lasso", task, 13).keywords["alpha"]
        assert baselines.ALPHAS[0] < alpha < baselines.ALPHAS[-1]
        steps = reference("preprocess-then-optimize", task, 13).keywords["steps"]
        assert 1 < steps < baselines.STEPS[-1]


def test_tuning_uses_other_prompts():
    drawn = TASK.sample(10, 7, generator=baselines.seeded("tuning", 7), dtype=torch.float64)
    assert not np.isin(drawn.w[drawn.w != 0], evaluation_prompts(TASK, 7, 500, 0).w).any()


def test_a_limit_on_steps_is_kept():
    assert reference("gradient descent", Task(5, 5, sigma=0.01), 29, max_steps=3).keywords["steps"] <= 3


def test_unknown_method():
    with pytest.raises(ValueError, match="method = 'magic': allowed is 'OLS' or 'ridge'"):
        reference("magic", TASK, 7)


def test_best_scale():
    """Of debiased gradient descent, whose best step is known; and whatever the scale was before."""
    task = Task(5, 5, sigma=0.5, scale=1 / math.sqrt(5))
    found = baselines.best_scale(partial(estimators.debiased_gd, omega=0.5, mu=2.0), task, 20)
    assert 2 * found == pytest.approx(approximation.two_heads(0, 5, 20, 0.25), rel=0.01)


def test_best_scale_counts_errors_by_the_covariance():
    task = Task(5, 5, sigma=0.5, scale=1 / math.sqrt(5), rho=0.8)
    P = torch.eye(5).double()
    step = partial(estimators.preconditioned_gd, P=P)
    scale = baselines.best_scale(step, task, 20)
    drawn = baselines.evaluation_prompts(task, 20, 20_000, 0)
    risks = [
        task.excess_risk(factor * scale * step(drawn.x, drawn.y), drawn.w).mean() for factor in (0.9, 1, 1.1)
    ]
    assert risks[1] == min(risks)
