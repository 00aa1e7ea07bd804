"""What paper B's chapters share: settings, losses against hand-written sums, weights along training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from icl_lib import estimators, one_layer
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
