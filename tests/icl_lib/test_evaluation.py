"""What predictors reach: the prompts, the frames of `evaluate` and `sweep`, the loss of paper B."""

import math
from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from icl_lib import estimators, evaluation
from icl_lib.attention_layer import AttentionLayer
from icl_lib.estimators import at_best
from icl_lib.evaluation import evaluate, model_risks, sweep, vary
from icl_lib.tasks import MultiTask, Task, evaluation_prompts, seeded
from icl_lib.training import Training, run, stack, train, trimmed_mean
from icl_lib.transformer import Transformer

TASK, MULTI = Task(5, 1, sigma=0.5), MultiTask(3, ((0, 1), (1, 2)))
OPTIONS = dict(n=(5, 11), steps=20, batch=7, evaluate_every=8, evaluate_prompts=13)
SETTINGS = Training(Task(3, 2), Transformer(3, (2, 3), D=5, k=2), **OPTIONS)
METHODS = {
    name: getattr(estimators, name)
    for name in ("ols", "ridge", "gradient_descent", "preprocess_then_optimize", "lasso", "bayes")
}


def correlation(x, y):
    return (x.mT @ y[..., None])[..., 0] / x.shape[-2]


def test_evaluation_prompts_depend_on_seed_and_length_alone():
    one, same = (evaluation_prompts(TASK, 7, 11, 0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.x, evaluation_prompts(TASK, 7, 11, 1).x)
    louder = evaluation_prompts(Task(5, 1, sigma=1.0), 7, 11, 0)
    assert torch.equal(one.x, louder.x)  # noise levels are compared on the same covariates
    assert one.x.dtype == torch.float64


def test_evaluate():
    """Of 211 prompts the trimmed mean, which is taken if nothing is said, leaves two out."""
    runs = train(TASK, Transformer(5, (2, 3), D=7, k=2), seeds=(4, 1), **OPTIONS)
    predictors = METHODS | {"own": correlation, "model": runs}
    for options, average in (
        ({}, lambda risk: risk.sort().values[:209].mean()),
        ({"average": torch.mean}, torch.mean),
        ({"average": torch.median}, torch.median),
    ):
        frame = evaluate(predictors, TASK, [7, 13], prompts=211, seed=2, **options)
        expected = []
        for n in (7, 13):
            drawn = evaluation_prompts(TASK, n, 211, 2)
            best = {name: at_best(method, TASK, n) for name, method in METHODS.items()}
            w_hats = [(name, pd.NA, method(drawn.x, drawn.y)) for name, method in best.items()]
            w_hats += [("own", pd.NA, correlation(drawn.x, drawn.y))]
            w_hats += [("model", model.seed, model.effective_weights(drawn)) for model in runs]
            risks = [(*about, average((w_hat - drawn.w).square().sum(-1))) for *about, w_hat in w_hats]
            expected += [(name, seed, n, risk.item()) for name, seed, risk in risks]
        expected = pd.DataFrame(expected, columns=["predictor", "seed", "n", "risk"])
        assert_frame_equal(frame, expected.astype({"seed": "Int64"}), rtol=1e-9, atol=0)


def test_bayes_is_the_floor():
    tables = [evaluate(METHODS, TASK, 7, prompts=2000, seed=seed, average=torch.mean) for seed in range(2)]
    assert pd.concat(tables).groupby("predictor").risk.mean().idxmin() == "bayes"


@pytest.mark.parametrize(
    ("task", "other"), [(Task(3, 3, sigma=0.1), Task(3, 2, rho=0.5)), (MULTI, MULTI)], ids=["one", "several"]
)
@pytest.mark.parametrize("queries", [1, 5])
def test_models_are_evaluated_on_any_tasks_and_with_several_queries(task, other, queries):
    model = AttentionLayer(3, 2, task.outputs)
    runs = run(Training(task, model, n=(5, 7), steps=3, queries=2), (4, 1))
    frame = evaluate({"both": runs, "alone": runs[1]}, other, 11, prompts=23, queries=queries, seed=2)
    drawn = evaluation_prompts(other, 11, 23, 2, queries)
    errors = [model.predict(found.weights, drawn) - drawn.target() for found in (*runs, runs[1])]
    expected = [
        trimmed_mean(error.square().view(23, queries, -1).sum(-1).mean(-1)).item() for error in errors
    ]
    assert list(frame.predictor) == ["both", "both", "alone"]
    assert list(frame.seed) == [4, 1, 1]
    assert list(frame.risk) == pytest.approx(expected)


@pytest.mark.parametrize("model", [Transformer(5, (2, 1), D=7, k=3), AttentionLayer(5, 3)])
def test_pieces_that_fit_into_the_memory_change_nothing(model, monkeypatch, generator):
    weights = stack([model.init(generator, torch.float64) for _ in range(2)])
    drawn = TASK.sample(23, (7, 11), generator, queries=2, dtype=torch.float64)
    whole = model_risks(model, weights, TASK, drawn)
    monkeypatch.setattr(evaluation, "SCORES", 1)
    torch.testing.assert_close(model_risks(model, weights, TASK, drawn), whole)
    torch.testing.assert_close(whole, model.excess_risk(weights, TASK, drawn))


def test_sweep():
    frame = sweep(SETTINGS, (4, 1), [5, 11], sigma=[0.5, 1.0], heads=[(2, 3), (1,)])
    assert list(frame.columns) == ["sigma", "heads", "seed", "n", "risk"]
    assert {*zip(frame.sigma, frame.heads, strict=True)} == {*product([0.5, 1.0], [(2, 3), (1,)])}
    for (sigma, heads), rows in frame.groupby(["sigma", "heads"]):
        task = Task(3, 2, sigma)
        trained = train(task, Transformer(3, heads, D=5, k=2), seeds=(4, 1), **OPTIONS)
        expected = evaluate({"model": trained}, task, [5, 11]).drop(columns="predictor")
        assert_frame_equal(rows[["seed", "n", "risk"]].reset_index(drop=True), expected)


def test_vary():
    changed = replace(SETTINGS, task=Task(3, 2, 1.0), model=replace(SETTINGS.model, heads=(1,)), lr=0.1)
    assert vary(SETTINGS, sigma=1.0, heads=(1,), lr=0.1) == changed
    assert vary(SETTINGS, d=5) == replace(SETTINGS, task=Task(5, 2), model=replace(SETTINGS.model, d=5))
    assert vary(SETTINGS) == SETTINGS


@pytest.mark.parametrize("task", [Task(3, 3, sigma=0.5, scale=1 / math.sqrt(3), rho=0.3), MULTI])
def test_loss_of_a_model_by_hand(task):
    """The noise in the target is averaged exactly; with several tasks there is none."""
    model = AttentionLayer(3, 2, task.outputs)
    drawn = task.sample(200, 11, seeded("loss"), queries=2, dtype=torch.float64)
    weights = model.init(seeded("weights"), torch.float64)
    error = model.predict(weights, drawn) - drawn.target()
    expected = 0.25 + error.square().mean() if task.outputs == 1 else error.square().sum(-1).mean()
    assert evaluation.loss((model, weights), task, drawn) == pytest.approx(expected.item())


def test_loss_of_an_estimator_by_hand():
    """Its query is averaged exactly too, unless it is paired."""
    task = Task(3, 3, sigma=0.5, scale=1 / math.sqrt(3), rho=0.3)
    drawn = task.sample(200, 11, seeded("loss"), queries=2, dtype=torch.float64)
    w_hat = estimators.ols(drawn.x, drawn.y)
    exact = task.excess_risk(w_hat, drawn.w).mean().item() + 0.25
    assert evaluation.loss(estimators.ols, task, drawn) == pytest.approx(exact)
    error = estimators.at_queries(w_hat, drawn.x_query) - drawn.target()
    paired = evaluation.loss(estimators.ols, task, drawn, exact=False)
    assert paired == pytest.approx(error.square().mean().item() + 0.25)
    assert paired != pytest.approx(exact)
