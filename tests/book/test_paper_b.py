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
    multi = paper_b.training(replace(PAPER_B, blocks=[[0, 1], [1, 2]]), 3)
    assert multi.task == MultiTask(3, ((0, 1), (1, 2)), 0.2)
    assert multi.model == AttentionLayer(3, 3, tasks=2)


def test_one_step_of_each_kind():
    """Without correlation all are (nearly) the same; with it the predicted one is best, then Sigma^-1."""
    isotropic, correlated = {}, {}
    for rho, found in ((0.0, isotropic), (0.7, correlated)):
        task = paper_b.training(replace(PAPER_B, rho=rho), 1).task
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
    frame = paper_b.losses({2: models}, "H", [9], 30)
    assert frame.columns.tolist() == ["H", "seed", "n", "loss"]
    np.testing.assert_allclose(frame.loss, [expected])
    other = Task(3, 3, sigma=2.0)
    drawn = evaluation_prompts(other, 9, 30, 0, 4)
    expected = loss((settings.model, double(models[0].weights)), other, drawn)
    np.testing.assert_allclose(paper_b.losses({2: models}, "H", [9], 30, task=other).loss, [expected])
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


def test_losses_on_the_prompts_of_each_models_own_seed():
    settings = paper_b.training(PAPER_B, 2)
    models = run(settings, 2)
    frame = paper_b.losses({2: models}, "H", [4, 9], 13, queries=3, own=True)
    assert frame[["seed", "n"]].to_numpy().tolist() == [[0, 4], [0, 9], [1, 4], [1, 9]]
    drawn = evaluation_prompts(settings.task, 9, 13, 1, 3)
    expected = loss((settings.model, double(models[1].weights)), settings.task, drawn)
    assert frame.loss.iloc[3] == pytest.approx(expected)


def test_scores_of_heads_on_the_pattern():
    (model,) = run(paper_b.training(PAPER_B, 2), 1)
    sizes = ([0.3, -0.1], [2.0, -1.0]), ([0.2, 0.2], [1.0, 3.0])
    made = [replace(model, weights=debiased.heads(*each, 3)[1], seed=seed) for seed, each in enumerate(sizes)]
    found = paper_b.scores({2: Runs(made)}, "H", 7, 11)
    assert found.index.tolist() == [(2, 0), (2, 1)]
    assert found.index.names == ["H", "seed"]
    assert found.opposite.tolist() == [True, False]
    np.testing.assert_allclose(found.step, [0.7, 0.8], rtol=1e-6)
    np.testing.assert_allclose(found[["omega", "mu"]], [[0.3, 2], [0.2, 3]], rtol=1e-6)
    level = (0.6 * 0.3 + 0.1 * 0.1) / 0.7
    variance = (0.6 * (0.3 - level) ** 2 + 0.1 * (0.1 - level) ** 2) / 0.7
    np.testing.assert_allclose(found.copies, [math.sqrt(variance) / level, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.loss, paper_b.losses({2: Runs(made)}, "H", 7, 11).loss)
    assert set(paper_b.SCORES) | {"opposite"} == set(found)


def test_moves_along_training_and_flow():
    models = run(paper_b.training(PAPER_B, 2), 2)
    moves = paper_b.moves({2: models}, [0.0, 1.0])
    assert moves.columns.tolist() == ["H", "way", "seed", "time", "head", "omega", "mu"]
    kq, ov, steps = circuits.path(models)
    second = moves[(moves.way == "training") & (moves.seed == 1)]
    assert second.time.tolist() == np.repeat(steps, 2).tolist()
    np.testing.assert_allclose(second.omega, circuits.omega(kq[1], 3).flatten())
    np.testing.assert_allclose(second.mu, circuits.mu(ov[1]).flatten())
    starts = moves[(moves.way != "trained") & (moves.time == 0)]
    first, same = (starts[starts.way == way][["omega", "mu"]] for way in ("training", "flow"))
    np.testing.assert_allclose(first, same)
    ends = moves[moves.way == "trained"]
    np.testing.assert_allclose(ends.omega, circuits.omega(circuits.matrices(models)[0], 3).flatten())


def test_flows_are_those_of_each_start():
    settings = paper_b.training(PAPER_B, 2)
    kq, ov = paper_b.fresh(settings, 2, torch.Generator().manual_seed(5))
    again = settings.model.init(torch.Generator().manual_seed(5), torch.float64)
    torch.testing.assert_close(kq[0], settings.model.kq(again))
    moved = paper_b.flows(kq, ov, [0.0, 2.0], settings)
    assert moved.columns.tolist() == ["seed", "time", "head", "omega", "mu"]
    assert len(moved) == 8
    start = circuits.omega(kq[1], 3).numpy(), circuits.mu(ov[1]).numpy()
    alone = circuits.gradient_flow(*start, [0.0, 2.0], 3, 7, 0.2)
    second = moved[moved.seed == 1]
    assert second.time.tolist() == [0.0, 0.0, 2.0, 2.0]
    assert second["head"].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose([second.omega, second.mu], np.reshape(alone, (2, 4)))


def test_models_with_heads_of_both_signs(monkeypatch):
    models = run(paper_b.training(PAPER_B, 2), 3)
    for opposite, left in (([True, False, True], [0, 2]), ([False, True, False], [0, 1, 2])):
        monkeypatch.setattr(paper_b.circuits, "opposite", lambda _, opposite=opposite: np.array(opposite))
        assert [model.seed for model in paper_b.both_signs(models)] == left
