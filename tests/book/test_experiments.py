"""Settings into trainings, and risks of ensembles."""

import pytest
import torch
from settings import PAPER_A

from icl_book import experiments, parameters
from icl_book.experiments import METHODS
from icl_lib import estimators, store
from icl_lib.tasks import Task, evaluation_prompts
from icl_lib.training import Training, trimmed_mean
from icl_lib.transformer import Transformer


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_CACHE", str(tmp_path))
    return store.trained(experiments.training(PAPER_A, 2), 3)


def test_a_setting_says_all():
    found = experiments.training(PAPER_A, 4, sigma=1.0, attention="relu", weight_decay=0.1)
    task, model = Task(3, 2, 1.0, "half-normal"), Transformer(3, (4, 4), D=7, k=2, attention="relu")
    assert found == Training(task, model, n=(5, 11), steps=20, batch=4, lr=0.01, weight_decay=0.1)
    assert experiments.training(PAPER_A, [3, 1, 1]).model.heads == (3, 1, 1)
    assert experiments.training(PAPER_A, 1, layers=5).model.heads == (1,) * 5


@pytest.mark.parametrize("profile", parameters.PROFILES)
def test_every_profiles_settings_are_whole(profile):
    run = parameters.resolve("04_head_counts", profile, symmetric=None, positive=None)
    for setting in (run.symmetric, run.positive):
        assert experiments.training(setting, 2).model.heads


def test_risks_are_those_of_each_model_on_the_same_prompts(models):
    table = experiments.risks(models, [5, 11], 200)
    assert table.shape == (3, 2)
    for column, n in zip(table.T, (5, 11), strict=True):
        prompts = evaluation_prompts(Task(3, 2, 0.5, "half-normal"), n, 200, experiments.SEED)
        for found, model in zip(column, models, strict=True):
            settings, weights = model.settings, experiments.double(model.weights)
            risk = settings.model.excess_risk(weights, settings.task, prompts)
            assert found == pytest.approx(trimmed_mean(risk).item())
    assert (experiments.risks(models, [5, 11], 200, Task(3, 2, 1.0)) != table).all()


def test_ensembles_start_from_given_weights(models):
    starts = [model.weights for model in models]
    again = store.trained(experiments.training(PAPER_A, 2, lr=0.0), 3, starts=starts)
    for found, start in zip(again, starts, strict=True):
        assert all(torch.equal(found.last[name], start[name]) for name in found.last)


def test_references_are_trimmed_risks_on_the_models_prompts():
    task, prompts = Task(3, 2, 0.5), evaluation_prompts(Task(3, 2, 0.5), 5, 200, experiments.SEED)
    table = experiments.references(["ridge", "Bayes"], task, [5, 11], 200)
    w_hat = estimators.ridge(prompts.x, prompts.y, estimators.ridge_penalty(3, 2, 0.5))
    assert table["ridge"][0] == pytest.approx(trimmed_mean(task.excess_risk(w_hat, prompts.w)).item())
    assert (table["Bayes"] < table["ridge"]).all()
    assert "Bayes" not in experiments.references(["ridge", "Bayes"], Task(3, 2, 0.5, "half-normal"), [5], 20)


def test_method_risks_are_those_of_the_estimators():
    task = Task(5, 1, sigma=0.5)
    table = experiments.method_risks([*METHODS], task, [7, 13], seeds=3, prompts=50)
    for name, estimator in METHODS.items():
        assert table[name].shape == (3, 2)
        drawn = evaluation_prompts(task, 13, 50, 2)
        w_hat = estimators.at_best(estimator, task, 13)(drawn.x, drawn.y)
        assert table[name][2, 1] == pytest.approx(task.excess_risk(w_hat, drawn.w).mean().item())


def test_lengths_are_those_of_training():
    assert experiments.lengths({"n_range": [16, 48]}) == [16, 24, 32, 40, 48]
    assert experiments.lengths({"n_range": [5, 6]}) == [5, 6]
    assert experiments.lengths({"n_range": [7, 7]}) == [7]
    assert experiments.middle({"n_range": [16, 48]}) == 32
