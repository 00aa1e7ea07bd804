"""What paper B's chapters share: settings, losses against hand-written sums, weights along training."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from icl_lib import approximation, estimators, one_layer
from icl_lib.attention_layer import AttentionLayer
from icl_lib.baselines import evaluation_prompts
from icl_lib.constructions import heads_on_pattern
from icl_lib.tasks import MultiTask, Task
from icl_lib.training import train

SETTING = {"d": 3, "noise": 0.2, "n": 7, "steps": 20, "keep_every": 10, "batch": 5, "lr": 1e-2}
MULTI = SETTING | {"blocks": [[0, 1], [1, 2]]}


def test_training_of_a_setting():
    found = one_layer.training(SETTING, 2, lr=0.5)
    assert found.task == Task(3, 3, sigma=math.sqrt(0.2), scale=1 / math.sqrt(3))
    assert found.model == AttentionLayer(3, 2)
    assert (found.lr, found.loss, found.schedule, found.n) == (0.5, "squared", "constant", 7)
    assert one_layer.training(SETTING, 2, rho=0.5).task.rho == 0.5
    assert one_layer.training(SETTING, 2, attention="linear").model.attention == "linear"


def test_training_of_several_tasks():
    found = one_layer.training(MULTI, 3)
    assert found.task == MultiTask(3, ((0, 1), (1, 2)), 0.2)
    assert found.model == AttentionLayer(3, 3, tasks=2)


@pytest.mark.parametrize("setting", [SETTING, MULTI])
def test_loss_is_the_mean_over_prompts_whatever_the_chunk(setting, monkeypatch):
    settings = one_layer.training(setting, 2)
    weights = settings.model.init(torch.Generator().manual_seed(0), torch.float64)
    drawn = evaluation_prompts(settings.task, 7, 11, 0, queries=3)
    squared = (settings.model.predict(weights, drawn) - drawn.target()).square()
    expected = squared.mean().item() + 0.2 if setting is SETTING else squared.sum(-1).mean().item()
    for scores in (1, 300, 10**9):
        monkeypatch.setattr(one_layer, "SCORES", scores)
        found = one_layer.loss(settings.model, weights, settings.task, drawn)
        assert found == pytest.approx(expected)


def test_estimators_and_models_have_the_same_loss():
    """Two opposite heads of small omega against debiased gradient descent, exact over the query."""
    task = one_layer.training(SETTING, 2).task
    omega = torch.tensor([1e-3, -1e-3]).double()
    model, weights = heads_on_pattern(
        omega[:, None, None] * torch.eye(3), torch.tensor([400.0, -400.0]).double()
    )
    drawn = evaluation_prompts(task, 7, 40, 0, queries=2000)
    by_queries = one_layer.loss(model, weights, task, drawn)
    exact = one_layer.estimator_loss(lambda x, y: estimators.debiased_gd(x, y, 1e-3, 400.0), task, drawn)
    assert by_queries == pytest.approx(exact, rel=0.02)


def test_loss_at_queries_is_that_of_the_model_that_does_the_same():
    """Linear attention with KQ = eta I is one step of gradient descent; both at the same queries."""
    task = one_layer.training(SETTING | {"rho": 0.5}, 1).task
    model, weights = heads_on_pattern(0.3 * torch.eye(3)[None].double(), torch.ones(1).double())
    drawn = evaluation_prompts(task, 7, 9, 0, queries=2)
    step = partial(estimators.gradient_descent, steps=1, eta=0.3, per_prompt=False)
    expected = one_layer.loss(replace(model, attention="linear"), weights, task, drawn)
    assert one_layer.loss_at_queries(step, task, drawn) == pytest.approx(expected)


def test_one_step_of_each_kind():
    """Without correlation all are (nearly) the same; with it the predicted one is best, then Sigma^-1."""
    drawn = {rho: one_layer.training(SETTING | {"rho": rho}, 1).task for rho in (0.0, 0.7)}
    by_rho = {}
    for rho, task in drawn.items():
        prompts = evaluation_prompts(task, 20, 4000, 0)
        by_rho[rho] = {
            name: one_layer.estimator_loss(step, task, prompts)
            for name, step in one_layer.one_step(task, 20).items()
        }
    assert by_rho[0.0]["predicted"] == pytest.approx(by_rho[0.0]["inverse"], rel=1e-3)
    assert by_rho[0.0]["predicted"] == pytest.approx(by_rho[0.0]["plain"], rel=0.05)
    assert by_rho[0.7]["predicted"] < by_rho[0.7]["inverse"] < by_rho[0.7]["plain"]


def test_losses_and_path_of_trained_models():
    settings = one_layer.training(SETTING, 2)
    models = train([settings], progress=False)
    found = one_layer.losses(models, [4, 9], 30)
    assert found.shape == (1, 2)
    weights = {name: weight.double() for name, weight in models[0].weights.items()}
    drawn = evaluation_prompts(settings.task, 9, 30, 0, 4)
    assert found[0, 1] == pytest.approx(one_layer.loss(settings.model, weights, settings.task, drawn))
    kq, ov, steps = one_layer.path(models)
    assert steps.tolist() == [0, 10, 20]
    torch.testing.assert_close(kq[0, -1].float(), settings.model.kq(models[0].last))
    np.testing.assert_allclose(
        ov[0, 0], settings.model.ov({k: v[0] for k, v in models[0].kept.items()}), rtol=1e-6
    )


def test_models_whose_heads_have_one_sign_are_not_opposite():
    (model,) = train([one_layer.training(SETTING, 2)], progress=False)
    found = []
    for omega in ([0.1, -0.1], [0.1, 0.2], [-0.1, -0.1], [-0.2, 0.1]):
        omega = torch.tensor(omega)
        weights = heads_on_pattern(omega[:, None, None] * torch.eye(3), omega.sign())[1]
        found.append(replace(model, weights=weights))
    assert one_layer.opposite(found).tolist() == [True, False, False, True]


def test_settled():
    """Of levels 1 and 2, within a tenth: from the third look on, from the first on, and never."""
    (model,) = train([one_layer.training(SETTING, 2)], progress=False)
    step = torch.arange(1, 9) * 5
    risks = (
        [9.0, 1.2, 1.05, 0.95, 1.0, 1.0, 1.0, 1.0],
        [2.0] * 8,
        [1.0] * 5 + [1.0, 1.0, 2.0],
    )
    found = [replace(model, history={"step": step, "risk": torch.tensor(risk)}) for risk in risks]
    assert one_layer.settled(found, 0.1).tolist() == [15, 5, np.inf]


def test_flows_are_those_of_each_start():
    settings = one_layer.training(SETTING, 2)
    omega, mu = np.array([[0.1, -0.2], [0.3, 0.1]]), np.array([[0.2, -0.1], [0.5, 0.2]])
    moved = one_layer.flows(omega, mu, [0.0, 2.0], settings)
    assert moved[0].shape == moved[1].shape == (2, 2, 2)
    alone = approximation.gradient_flow(omega[1], mu[1], [0.0, 2.0], 3, 7, 0.2)
    np.testing.assert_allclose([moved[0][1], moved[1][1]], alone)
