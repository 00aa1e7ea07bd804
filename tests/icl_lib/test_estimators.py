"""Estimators against closed forms, against scikit-learn, and against brute force; each at its best."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, Ridge

from icl_lib import estimators
from icl_lib.estimators import at_best, bayes, debiased_gd, lasso, ols, ridge, ridge_penalty
from icl_lib.tasks import Task, evaluation_prompts, seeded

B, D = 11, 5
TASK = Task(D, 1, sigma=0.5)
SHAPES = pytest.mark.parametrize(("n", "d"), [(13, D), (3, D), (5, D), (17, 2)])  # n above, below and at d
gradient_descent, preprocessing = estimators.gradient_descent, estimators.preprocess_then_optimize
DESCENTS = pytest.mark.parametrize("descent", [gradient_descent, preprocessing])


def draw(n, d=D, batch=B, **task):
    generator = torch.Generator().manual_seed(n * 100 + d)
    task = Task(d, task.pop("s", 2), **task)
    return task.sample(batch, n, seed=generator, dtype=torch.float64)


@SHAPES
def test_ols_and_ridge_against_closed_forms_and_sklearn(n, d):
    """Where n < d, least squares is the smallest solution."""
    drawn = draw(n, d)
    least_squares, w_hat = ols(drawn.x, drawn.y), ridge(drawn.x, drawn.y, 0.7)
    assert least_squares.shape == w_hat.shape == drawn.w.shape
    torch.testing.assert_close(ridge(drawn.x, drawn.y, 0.0), least_squares)
    for b in range(B):
        x, y = drawn.x[b], drawn.y[b]
        expected = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
        np.testing.assert_allclose(least_squares[b], expected, atol=1e-9)
        closed = torch.linalg.inv(x.T @ x + 0.7 * torch.eye(d).double()) @ x.T @ y
        torch.testing.assert_close(w_hat[b], closed, atol=1e-10, rtol=1e-10)
        sklearn = Ridge(alpha=0.7, fit_intercept=False, solver="cholesky").fit(x.numpy(), y.numpy())
        np.testing.assert_allclose(w_hat[b], sklearn.coef_, atol=1e-9)


def test_best_ridge_penalty_has_the_lowest_risk():
    drawn = draw(7, batch=20_000, sigma=1.3)

    def risk(factor):
        w_hat = ridge(drawn.x, drawn.y, factor * ridge_penalty(D, 2, 1.3))
        return (w_hat - drawn.w).square().sum(-1).mean()

    assert min((0.5, 1.0, 2.0), key=risk) == 1.0


@SHAPES
@pytest.mark.parametrize("per_prompt", [True, False])
@DESCENTS
def test_descents_against_the_plain_loop(descent, n, d, per_prompt):
    counts, drawn = [0, 1, 2, 7, 50], draw(n, d)
    w_hat = descent(drawn.x, drawn.y, counts, 0.05, per_prompt=per_prompt)
    for b in range(B):
        x, y = drawn.x[b], drawn.y[b]
        R = torch.diag(x.T @ y / n) if descent is preprocessing else torch.eye(d).double()
        x = x @ R
        step = 0.05 / torch.linalg.matrix_norm(x.T @ x / n, 2) if per_prompt else 0.05
        w = torch.zeros(d).double()
        for t in range(max(counts) + 1):
            if t in counts:
                torch.testing.assert_close(w_hat[counts.index(t), b], R @ w, atol=1e-9, rtol=1e-7)
            w = w - step * x.T @ (x @ w - y) / n


@DESCENTS
def test_descents_end_at_ols_and_without_a_signal_stay_at_zero(descent):
    drawn = draw(29, sigma=0.1)
    w_hat = descent(drawn.x, drawn.y, 10**12)
    torch.testing.assert_close(w_hat, ols(drawn.x, drawn.y), atol=1e-6, rtol=1e-6)
    drawn = draw(7)
    assert (descent(drawn.x, torch.zeros_like(drawn.y), [1, 10**9]) == 0).all()


def test_preprocessing_scales_the_step_by_prompt():
    """With the step relative to the prompt's own curvature, no iterate of any prompt diverges."""
    drawn = draw(3, batch=2000, sigma=2.0)
    w_hat = preprocessing(drawn.x, drawn.y, 10_000)
    fitted = (drawn.x @ w_hat[..., None])[..., 0]
    assert (fitted.norm(dim=-1) <= drawn.y.norm(dim=-1) * (1 + 1e-6)).all()


@SHAPES
@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.5])
def test_lasso_against_sklearn(n, d, alpha):
    drawn = draw(n, d)
    w_hat = lasso(drawn.x, drawn.y, alpha)
    assert w_hat.shape == drawn.w.shape
    for b in range(B):
        model = Lasso(alpha=alpha, fit_intercept=False, tol=1e-14, max_iter=1_000_000)
        expected = model.fit(drawn.x[b].numpy(), drawn.y[b].numpy()).coef_
        np.testing.assert_allclose(w_hat[b], expected, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 13), st.floats(1e-3, 2.0))
@example(1, 5, 0.125)  # S of rank one whose entries are far larger than r's
def test_lasso_satisfies_the_optimality_conditions(n, d, alpha):
    drawn = draw(n, d, s=1)
    w_hat = lasso(drawn.x, drawn.y, alpha)
    residual = drawn.y - (drawn.x @ w_hat[..., None])[..., 0]
    pull = (drawn.x.mT @ residual[..., None])[..., 0] / n
    on = w_hat != 0
    torch.testing.assert_close(pull[on], alpha * w_hat[on].sign(), atol=1e-8, rtol=1e-6)
    assert (pull[~on].abs() <= alpha + 1e-8).all()


def test_lasso_with_a_large_penalty_is_zero_and_does_not_depend_on_the_batch():
    drawn = draw(13)
    assert (lasso(drawn.x, drawn.y, 1e6) == 0).all()
    alone = torch.cat([lasso(x[None], y[None], 0.1) for x, y in zip(drawn.x, drawn.y, strict=True)])
    torch.testing.assert_close(lasso(drawn.x, drawn.y, 0.1), alone)


def test_gaussian_bayes_against_brute_force():
    """d = 3, s = 1: integrate the one nonzero weight numerically for each of the three supports."""
    drawn = draw(4, 3, s=1, sigma=0.6)
    scale, mean = 1.3, 0.4
    w_hat = bayes(drawn.x, drawn.y, 1, 0.6, scale=scale, mean=mean)
    grid = torch.linspace(-12, 12, 40_001).double()
    prior = -((grid / scale - mean) ** 2) / 2
    for b in range(B):
        error = drawn.y[b] - grid[:, None] * drawn.x[b].T[:, None]  # (3, grid, n)
        log_joint = prior - error.square().sum(-1) / (2 * 0.6**2)
        joint = (log_joint - log_joint.max()).exp()
        expected = (joint * grid).sum(-1) / joint.sum()
        torch.testing.assert_close(w_hat[b], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("law", "signs"), [("rademacher", (1.0, -1.0)), ("binary", (1.0,))])
@pytest.mark.parametrize(("d", "s"), [(3, 1), (5, 3)])
def test_discrete_bayes_against_brute_force(law, signs, d, s):
    drawn = draw(4, d, s=s, weights=law, sigma=0.9)
    combined = list(
        itertools.product(itertools.combinations(range(d), s), itertools.product(signs, repeat=s))
    )
    candidates = torch.zeros(len(combined), d).double()
    for w, (support, values) in zip(candidates, combined, strict=True):
        w[list(support)] = 1.7 * torch.tensor(values).double()
    w_hat = bayes(drawn.x, drawn.y, s, 0.9, law, scale=1.7)
    for b in range(B):
        error = drawn.y[b] - candidates @ drawn.x[b].T
        share = (-error.square().sum(-1) / (2 * 0.9**2)).softmax(0)
        torch.testing.assert_close(w_hat[b], share @ candidates, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("n", [7, 3])
def test_dense_bayes_is_ridge(n):
    drawn = draw(n)
    expected = ridge(drawn.x, drawn.y, ridge_penalty(D, D, 0.8, scale=0.5))
    torch.testing.assert_close(bayes(drawn.x, drawn.y, D, 0.8, scale=0.5), expected)


def test_no_estimator_beats_bayes():
    task = Task(7, 2, sigma=0.8)
    drawn = task.sample(4000, 11, seed=torch.Generator().manual_seed(1), dtype=torch.float64)
    floor = task.excess_risk(bayes(drawn.x, drawn.y, 2, 0.8), drawn.w)
    rivals = {
        "ols": ols(drawn.x, drawn.y),
        "ridge": ridge(drawn.x, drawn.y, ridge_penalty(7, 2, 0.8)),
        "lasso": lasso(drawn.x, drawn.y, 0.1),
        "pto": preprocessing(drawn.x, drawn.y, 20),
    }
    for name, w_hat in rivals.items():
        difference = task.excess_risk(w_hat, drawn.w) - floor
        assert difference.mean() > 3 * difference.std() / len(difference) ** 0.5, name


def test_bayes_does_not_depend_on_the_chunks(monkeypatch):
    drawn = draw(7)
    whole = bayes(drawn.x, drawn.y, 2, 0.5)
    monkeypatch.setattr(estimators, "BAYES_CHUNK", 25)
    torch.testing.assert_close(bayes(drawn.x, drawn.y, 2, 0.5), whole)


def test_debiased_gd_by_hand_and_with_a_shift_of_x():
    x, y = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]).double(), torch.tensor([[2.0, -1.0]]).double()
    # xbar = (2, 2); sum_i y_i (x_i - xbar) = 2 (-1, -2) - (1, 2) = (-3, -6); 2 omega mu / L = 2 * 0.5 * 3 / 2
    expected = 1.5 * torch.tensor([[-3.0, -6.0]]).double()
    torch.testing.assert_close(debiased_gd(x, y, omega=0.5, mu=3.0), expected)
    drawn = draw(7)
    shifted, whole = drawn.x + torch.tensor([1.0, -2.0, 3.0, 0.5, 7.0]), debiased_gd(*drawn[:2], 0.13, 3.45)
    torch.testing.assert_close(debiased_gd(shifted, drawn.y, 0.13, 3.45), whole)


# Estimators at their best: what is tuned, and on what.


def test_constants_are_those_of_the_task():
    known = dict(s=2, sigma=0.3, scale=2.0, mean=0.7)
    task = Task(5, **known)
    assert at_best(ridge, task, 7).keywords == {"penalty": ridge_penalty(5, **known)}
    assert at_best(bayes, task, 7).keywords == known | {"weights": "gaussian"}
    for other in (ols, lambda x, y: x.mean(-2)):
        assert at_best(other, TASK, 7) is other


def test_tuned_values_are_inside_their_grids():
    """An optimum at an end of a grid would not be the method at its best."""
    for sigma in (0.3, 1.0):
        task = Task(5, 1, sigma=sigma)
        alpha = at_best(lasso, task, 13).keywords["alpha"]
        assert estimators.ALPHAS[0] < alpha < estimators.ALPHAS[-1]
        assert 1 < at_best(preprocessing, task, 13).keywords["steps"] < estimators.STEPS[-1]
    assert at_best(gradient_descent, Task(5, 5, sigma=0.01), 29, max_steps=3).keywords["steps"] <= 3


def test_tuned_value_is_the_best_of_its_grid_on_prompts_of_its_own():
    drawn = TASK.sample(estimators.TUNING_PROMPTS, 13, seeded("tuning", 13), dtype=torch.float64)

    def risk(alpha):
        return TASK.excess_risk(lasso(drawn.x, drawn.y, alpha), drawn.w).mean().item()

    assert at_best(lasso, TASK, 13).keywords["alpha"] == min(estimators.ALPHAS, key=risk)
    assert not np.isin(drawn.w[drawn.w != 0], evaluation_prompts(TASK, 13, 500, 0).w).any()


def test_whether_bayes_is_there():
    assert estimators.has_bayes(Task(16, 4))
    assert estimators.has_bayes(Task(20, 8))
    assert not estimators.has_bayes(Task(16, 4, weights="half-normal"))
    assert not estimators.has_bayes(
        Task(20, 8, weights="rademacher")
    )  # 256 signs for each of 125970 supports
