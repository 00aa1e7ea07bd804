"""Estimators against closed forms, against scikit-learn, and against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, Ridge

from icl_lib import estimators
from icl_lib.estimators import (
    bayes,
    debiased_gd,
    gradient_descent,
    lasso,
    ols,
    preconditioned_gd,
    preprocess_then_optimize,
    ridge,
    ridge_penalty,
)
from icl_lib.tasks import Task

B, D = 11, 5
SHAPES = [(13, D), (3, D), (5, D), (17, 2)]  # n above, below and at d


def draw(n, d=D, batch=B, **task):
    generator = torch.Generator().manual_seed(n * 100 + d)
    task = Task(d, task.pop("s", 2), **task)
    return task.sample(batch, n, generator=generator, dtype=torch.float64)


def ours(estimator, n, d, **options):
    drawn = draw(n, d)
    w_hat = estimator(drawn.x, drawn.y, **options)
    assert w_hat.shape == drawn.w.shape
    return drawn, w_hat


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_ols_is_the_smallest_solution(n, d):
    drawn, w_hat = ours(ols, n, d)
    for b in range(B):
        expected = np.linalg.lstsq(drawn.x[b].numpy(), drawn.y[b].numpy(), rcond=None)[0]
        np.testing.assert_allclose(w_hat[b], expected, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_ridge_against_closed_form_and_sklearn(n, d):
    drawn, w_hat = ours(ridge, n, d, penalty=0.7)
    for b in range(B):
        x, y = drawn.x[b], drawn.y[b]
        closed = torch.linalg.inv(x.T @ x + 0.7 * torch.eye(d).double()) @ x.T @ y
        torch.testing.assert_close(w_hat[b], closed, atol=1e-10, rtol=1e-10)
        sklearn = Ridge(alpha=0.7, fit_intercept=False, solver="cholesky").fit(x.numpy(), y.numpy())
        np.testing.assert_allclose(w_hat[b], sklearn.coef_, atol=1e-9)


def test_ridge_without_penalty_is_ols():
    drawn = draw(13)
    torch.testing.assert_close(ridge(drawn.x, drawn.y, 0.0), ols(drawn.x, drawn.y))


def test_best_ridge_penalty_has_the_lowest_risk():
    drawn = draw(7, batch=20_000, sigma=1.3)
    best = ridge_penalty(D, 2, 1.3)
    at = {
        factor: (ridge(drawn.x, drawn.y, factor * best) - drawn.w).square().sum(-1).mean().item()
        for factor in (0.5, 1.0, 2.0)
    }
    assert min(at, key=at.get) == 1.0


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("per_prompt", [True, False])
@pytest.mark.parametrize("descent", [gradient_descent, preprocess_then_optimize])
def test_descents_against_the_plain_loop(descent, n, d, per_prompt):
    counts = [0, 1, 2, 7, 50]
    drawn, w_hat = draw(n, d), None
    w_hat = descent(drawn.x, drawn.y, counts, 0.05, per_prompt=per_prompt)
    for b in range(B):
        x, y = drawn.x[b], drawn.y[b]
        R = torch.eye(d).double()
        if descent is preprocess_then_optimize:
            R = torch.diag(x.T @ y / n)
        x = x @ R
        step = 0.05 / torch.linalg.matrix_norm(x.T @ x / n, 2) if per_prompt else 0.05
        w = torch.zeros(d).double()
        for t in range(max(counts) + 1):
            if t in counts:
                torch.testing.assert_close(w_hat[counts.index(t), b], R @ w, atol=1e-9, rtol=1e-7)
            w = w - step * x.T @ (x @ w - y) / n


@pytest.mark.parametrize("descent", [gradient_descent, preprocess_then_optimize])
def test_descents_end_at_ols(descent):
    drawn = draw(29, sigma=0.1)
    w_hat = descent(drawn.x, drawn.y, 10**12)
    torch.testing.assert_close(w_hat, ols(drawn.x, drawn.y), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("descent", [gradient_descent, preprocess_then_optimize])
def test_descents_without_a_signal_stay_at_zero(descent):
    drawn = draw(7)
    assert (descent(drawn.x, torch.zeros_like(drawn.y), [1, 10**9]) == 0).all()


def test_preprocessing_scales_the_step_by_prompt():
    """With the step relative to the prompt's own curvature, no iterate of any prompt diverges."""
    drawn = draw(3, batch=2000, sigma=2.0)
    w_hat = preprocess_then_optimize(drawn.x, drawn.y, 10_000)
    fitted = (drawn.x @ w_hat[..., None])[..., 0]
    assert (fitted.norm(dim=-1) <= drawn.y.norm(dim=-1) * (1 + 1e-6)).all()


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.5])
def test_lasso_against_sklearn(n, d, alpha):
    drawn, w_hat = ours(lasso, n, d, alpha=alpha)
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


def test_lasso_with_a_large_penalty_is_zero():
    drawn = draw(13)
    assert (lasso(drawn.x, drawn.y, 1e6) == 0).all()


def test_lasso_does_not_depend_on_the_batch():
    drawn = draw(13)
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
        log_joint = torch.stack(
            [
                prior - (drawn.y[b] - grid[:, None] * drawn.x[b, :, j]).square().sum(-1) / (2 * 0.6**2)
                for j in range(3)
            ]
        )
        joint = (log_joint - log_joint.max()).exp()
        expected = (joint * grid).sum(-1) / joint.sum()
        torch.testing.assert_close(w_hat[b], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("law", "signs"), [("rademacher", (1.0, -1.0)), ("binary", (1.0,))])
@pytest.mark.parametrize(("d", "s"), [(3, 1), (5, 3)])
def test_discrete_bayes_against_brute_force(law, signs, d, s):
    drawn = draw(4, d, s=s, weights=law, sigma=0.9)
    candidates = []
    for support in itertools.combinations(range(d), s):
        for values in itertools.product(signs, repeat=s):
            w = torch.zeros(d).double()
            w[list(support)] = 1.7 * torch.tensor(values).double()
            candidates.append(w)
    candidates = torch.stack(candidates)
    w_hat = bayes(drawn.x, drawn.y, s, 0.9, law, scale=1.7)
    for b in range(B):
        error = drawn.y[b] - candidates @ drawn.x[b].T
        share = (-error.square().sum(-1) / (2 * 0.9**2)).softmax(0)
        torch.testing.assert_close(w_hat[b], share @ candidates, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(7, 5), (3, 5)])
def test_dense_bayes_is_ridge(n, d):
    drawn = draw(n, d)
    expected = ridge(drawn.x, drawn.y, ridge_penalty(d, d, 0.8, scale=0.5))
    torch.testing.assert_close(bayes(drawn.x, drawn.y, d, 0.8, scale=0.5), expected)


def test_no_estimator_beats_bayes():
    task = Task(7, 2, sigma=0.8)
    drawn = task.sample(4000, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def risk(w_hat):
        return task.excess_risk(w_hat, drawn.w)

    floor = risk(bayes(drawn.x, drawn.y, 2, 0.8))
    rivals = {
        "ols": ols(drawn.x, drawn.y),
        "ridge": ridge(drawn.x, drawn.y, ridge_penalty(7, 2, 0.8)),
        "lasso": lasso(drawn.x, drawn.y, 0.1),
        "pto": preprocess_then_optimize(drawn.x, drawn.y, 20),
    }
    for name, w_hat in rivals.items():
        difference = risk(w_hat) - floor
        assert difference.mean() > 3 * difference.std() / len(difference) ** 0.5, name


def test_bayes_does_not_depend_on_the_chunks(monkeypatch):
    drawn = draw(7)
    whole = bayes(drawn.x, drawn.y, 2, 0.5)
    monkeypatch.setattr(estimators, "BAYES_CHUNK", 25)
    torch.testing.assert_close(bayes(drawn.x, drawn.y, 2, 0.5), whole)


def test_debiased_gd_by_hand():
    x = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]).double()
    y = torch.tensor([[2.0, -1.0]]).double()
    # xbar = (2, 2); sum_i y_i (x_i - xbar) = 2 (-1, -2) - (1, 2) = (-3, -6); 2 omega mu / L = 2 * 0.5 * 3 / 2
    expected = 1.5 * torch.tensor([[-3.0, -6.0]]).double()
    torch.testing.assert_close(debiased_gd(x, y, omega=0.5, mu=3.0), expected)


def test_preconditioned_gd_by_hand():
    x = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]).double()
    y = torch.tensor([[2.0, -1.0]]).double()
    P = torch.tensor([[1.0, 2.0], [0.0, 5.0]]).double()
    # (1/L) sum_i y_i (x_i - xbar) = (-1.5, -3) as above, and P^T (-1.5, -3) = (-1.5, -3 - 15)
    torch.testing.assert_close(preconditioned_gd(x, y, P), torch.tensor([[-1.5, -18.0]]).double())


def test_debiased_gd_ignores_a_shift_of_x():
    drawn = draw(7)
    shifted = drawn.x + torch.tensor([1.0, -2.0, 3.0, 0.5, 7.0])
    torch.testing.assert_close(
        debiased_gd(shifted, drawn.y, 0.13, 3.45), debiased_gd(drawn.x, drawn.y, 0.13, 3.45)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: ols(x, y[:, 1:]), r"y has shape \(11, 6\): allowed is \(11, 7\)"),
        (lambda x, y: ols(x, y[1:]), r"y has shape \(10, 7\): allowed is \(11, 7\)"),
        (lambda x, y: ridge(x, y, -1.0), "penalty = -1.0: allowed is a number >= 0"),
        (lambda x, y: lasso(x, y, 0.0), "alpha = 0.0: allowed is a number >= 1e-06"),
        (lambda x, y: bayes(x, y, 6, 0.5), "s = 6: allowed is an integer from 1 to 5"),
        (lambda x, y: bayes(x, y, 2, 0.0), "sigma = 0.0: allowed is a number >= 1e-06"),
        (lambda x, y: bayes(x, y, 2, 0.5, "half-normal"), "weights = 'half-normal': allowed is 'gaussian'"),
        (lambda x, y: bayes(x.repeat(1, 1, 4), y, 10, 0.5), "d = 20, s = 10: allowed are at most 131072 hyp"),
        (lambda x, y: gradient_descent(x, y, -1), "steps = -1: allowed is an integer >= 0"),
        (lambda x, y: gradient_descent(x, y, 1, -0.1), "eta = -0.1: allowed is a number >= 0"),
    ],
)
def test_bad_input_is_one_clear_line(call, message, no_shape_checks):
    drawn = draw(7)
    with pytest.raises(ValueError, match=message) as caught:
        call(drawn.x, drawn.y)
    assert "\n" not in str(caught.value)
