"""What paper B's chapters share: settings, losses against hand-written sums, weights along training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from settings import PAPER_B

from icl_book import paper_b
from icl_book.experiments import double
from icl_book.studies import anisotropic, debiased
from icl_lib import circuits
from icl_lib.attention_layer import AttentionLayer
from icl_lib.evaluation import loss
from icl_lib.tasks import MultiTask, Task, evaluation_prompts
from icl_lib.training import Runs, run


def test_training_of_a_setting():
    found = paper_b.training(PAPER_B, 2, lr=0.5)
    assert found.task == Task(3, 3, sigma=math.sqrt(0.2), scale=1 / math.sqrt(3))
    assert found.model == AttentionLayer(3, 2)
    assert (found.lr, found.loss, found.schedule, found.n) == (0.5, "squared", "constant", 7)
    assert paper_b.training(PAPER_B, 2, rho=0.5).task.rho == 0.5
    assert paper_b.training(PAPER_B, 2, attention="linear").model.attention == "linear"
    multi = paper_b.training(PAPER_B | {"blocks": [[0, 1], [1, 2]]}, 3)
    assert multi.task == MultiTask(3, ((0, 1), (1, 2)), 0.2)
    assert multi.model == AttentionLayer(3, 3, tasks=2)


def test_one_step_of_each_kind():
    """Without correlation all are (nearly) the same; with it the predicted one is best, then Sigma^-1."""
    isotropic, correlated = {}, {}
    for rho, found in ((0.0, isotropic), (0.7, correlated)):
        task = paper_b.training(PAPER_B | {"rho": rho}, 1).task
        prompts = evaluation_prompts(task, 20, 4000, 0)
        found |= {name: loss(step, task, prompts) for name, step in anisotropic.one_step(task, 20).items()}
    assert isotropic["predicted"] == pytest.approx(isotropic["inverse"], rel=1e-3)
    assert isotropic["predicted"] == pytest.approx(isotropic["plain"], rel=0.05)
    assert correlated["predicted"] < correlated["inverse"] < correlated["plain"]


def test_losses_and_path_of_trained_models():
    settings = paper_b.training(PAPER_B, 2)
    models = run(settings, 1)
    drawn = evaluation_prompts(settings.task, 9, 30, 0, 4)
    expected = loss((settings.model, double(models[0].weights)), settings.task, drawn)
    np.testing.assert_allclose(paper_b.losses(models, [9], 30), [[expected]])
    kq, ov, steps = circuits.path(models)
    assert steps.tolist() == [0, 10, 20]
    torch.testing.assert_close(kq[0, -1].float(), settings.model.kq(models[0].last))
    first = {name: kept[0] for name, kept in models[0].kept.items()}
    np.testing.assert_allclose(ov[0, 0], settings.model.ov(first), rtol=1e-6)


def test_models_whose_heads_have_one_sign_are_not_opposite():
    (model,) = run(paper_b.training(PAPER_B, 2), 1)
    pairs = np.array([[0.1, -0.1], [0.1, 0.2], [-0.1, -0.1], [-0.2, 0.1]])
    found = [replace(model, weights=debiased.heads([*omega], [*np.sign(omega)], 3)[1]) for omega in pairs]
    assert circuits.opposite(Runs(found)).tolist() == [True, False, False, True]


def test_settled():
    """Of levels 1 and 2, within a tenth: from the third look on, from the first on, and never."""
    (model,) = run(paper_b.training(PAPER_B, 2), 1)
    step = torch.arange(1, 9) * 5
    risks = [9.0, 1.2, 1.05, 0.95, 1.0, 1.0, 1.0, 1.0], [2.0] * 8, [1.0] * 7 + [2.0]
    found = [replace(model, history={"step": step, "risk": torch.tensor(risk)}) for risk in risks]
    assert paper_b.settled(Runs(found), 0.1).tolist() == [15, 5, np.inf]


def test_flows_are_those_of_each_start():
    settings = paper_b.training(PAPER_B, 2)
    omega, mu = np.array([[0.1, -0.2], [0.3, 0.1]]), np.array([[0.2, -0.1], [0.5, 0.2]])
    moved = paper_b.flows(omega, mu, [0.0, 2.0], settings)
    assert moved[0].shape == moved[1].shape == (2, 2, 2)
    alone = circuits.gradient_flow(omega[1], mu[1], [0.0, 2.0], 3, 7, 0.2)
    np.testing.assert_allclose([moved[0][1], moved[1][1]], alone)
