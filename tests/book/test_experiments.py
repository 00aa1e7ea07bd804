"""Settings into trainings, and risks of ensembles."""

from dataclasses import replace

import pytest
import torch
from settings import PAPER_A

from icl_book import experiments, parameters
from icl_book.experiments import METHODS
from icl_book.frames import pick
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
    table = experiments.measure({("here", 2): models}, ["where", "H"], [5, 11], 200)
    assert table.columns.tolist() == ["where", "H", "seed", "n", "risk"]
    assert len(table) == 6
    for n in (5, 11):
        prompts = evaluation_prompts(Task(3, 2, 0.5, "half-normal"), n, 200, experiments.SEED)
        for model in models:
            settings, weights = model.settings, experiments.double(model.weights)
            risk = settings.model.excess_risk(weights, settings.task, prompts)
            measured = pick(table, "risk", n=n, where="here", H=2)[model.seed]
            assert measured == pytest.approx(trimmed_mean(risk).item())
    other = experiments.measure({2: models}, "H", [5, 11], 200, task=Task(3, 2, 1.0))
    assert (other.risk != table.risk).all()


def test_ensembles_start_from_given_weights(models):
    starts = [model.weights for model in models]
    again = store.trained(experiments.training(PAPER_A, 2, lr=0.0), 3, starts=starts)
    for found, start in zip(again, starts, strict=True):
        assert all(torch.equal(found.last[name], start[name]) for name in found.last)


def test_references_are_trimmed_risks_on_the_models_prompts():
    task, prompts = Task(3, 2, 0.5), evaluation_prompts(Task(3, 2, 0.5), 5, 200, experiments.SEED)
    table = experiments.references(["ridge", "Bayes"], task, [5, 11], 200)
    w_hat = estimators.ridge(prompts.x, prompts.y, estimators.ridge_penalty(3, 2, 0.5))
    ridge = {n: pick(table, "risk", method="ridge", n=n) for n in (5, 11)}
    assert ridge[5] == pytest.approx(trimmed_mean(task.excess_risk(w_hat, prompts.w)).item())
    assert all(pick(table, "risk", method="Bayes", n=n) < ridge[n] for n in (5, 11))
    positive = experiments.references(["ridge", "Bayes"], Task(3, 2, 0.5, "half-normal"), [5], 20)
    assert set(positive.method) == {"ridge"}


def test_method_risks_are_those_of_the_estimators():
    task = Task(5, 1, sigma=0.5)
    table = experiments.method_risks([*METHODS], task, [7, 13], seeds=3, prompts=50)
    for name, estimator in METHODS.items():
        risk = pick(table, "risk", method=name, n=13)
        assert risk.index.tolist() == [0, 1, 2]
        drawn = evaluation_prompts(task, 13, 50, 2)
        w_hat = estimators.at_best(estimator, task, 13)(drawn.x, drawn.y)
        assert risk[2] == pytest.approx(task.excess_risk(w_hat, drawn.w).mean().item())


def test_method_risks_over_fields_of_the_task():
    methods = ["ridge", "Bayes"]
    table = experiments.method_risks(
        methods, Task(5, 2), 7, 2, 20, weights=["gaussian", "half-normal"], s=[1, 3]
    )
    assert table.columns.tolist() == ["weights", "s", "method", "seed", "n", "risk"]
    assert len(table) == 12  # there is no Bayes predictor of half-normal weights
    alone = experiments.method_risks(["ridge"], Task(5, 3, weights="half-normal"), 7, 2, 20)
    part = table[(table.weights == "half-normal") & (table.s == 3)]
    assert part.risk.tolist() == alone.risk.tolist()


def test_lengths_are_those_of_training():
    def lengths(low, high):
        return experiments.lengths(replace(PAPER_A, n_range=[low, high]))

    assert lengths(16, 48) == [16, 24, 32, 40, 48]
    assert lengths(5, 6) == [5, 6]
    assert lengths(7, 7) == [7]
    assert experiments.middle(replace(PAPER_A, n_range=[16, 48])) == 32


def test_the_task_of_a_setting():
    assert experiments.task(PAPER_A, sigma=1.0) == Task(3, 2, 1.0, "half-normal")
