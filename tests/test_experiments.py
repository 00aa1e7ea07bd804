"""Settings into trainings, and risks of ensembles."""

import numpy as np
import pytest
import torch

from icl_lib import estimators, experiments, heads, parameters
from icl_lib.baselines import evaluation_prompts
from icl_lib.settings import Training
from icl_lib.tasks import Task
from icl_lib.training import trimmed_mean
from icl_lib.transformer import Transformer

SETTING = dict(
    d=3,
    s=2,
    sigma=0.5,
    weights="half-normal",
    n_range=[5, 11],
    layers=2,
    D=7,
    k=2,
    steps=20,
    batch=4,
    lr=0.01,
)


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_CACHE", str(tmp_path))
    return experiments.ensemble(experiments.training(SETTING, 2), 3)


def test_a_setting_says_all():
    assert experiments.training(SETTING, 4, sigma=1.0, attention="relu", weight_decay=0.1) == Training(
        task=Task(3, 2, 1.0, "half-normal"),
        model=Transformer(3, (4, 4), D=7, k=2, attention="relu"),
        n=(5, 11),
        steps=20,
        batch=4,
        lr=0.01,
        weight_decay=0.1,
    )
    assert experiments.training(SETTING, [3, 1, 1]).model.heads == (3, 1, 1)
    assert experiments.training(SETTING, 1, layers=5).model.heads == (1,) * 5


@pytest.mark.parametrize("profile", parameters.PROFILES)
@pytest.mark.parametrize("name", ["symmetric", "positive"])
def test_every_profiles_settings_are_whole(profile, name):
    run = parameters.resolve("04_head_counts", profile, **{name: None})
    assert experiments.training(getattr(run, name), 2).model.heads


def test_a_table_is_given_in_part_and_checked():
    run = parameters.resolve("04_head_counts", "smoke", positive={"sigma": 1.0})
    rest = parameters.resolve("04_head_counts", "smoke", positive=None)
    assert run.positive == rest.positive | {"sigma": 1.0}
    for value, message in (
        ({"sigma": -1}, "sigma = -1: allowed is a number from"),
        ({"sgima": 1}, "sgima in positive: allowed are the parameters d, s"),
        ({"seeds": 5}, "seeds in positive: allowed are the parameters d, s"),
        (0.5, "positive = 0.5: allowed is a table of parameters"),
        ({"n_range": [8]}, r"n_range = \[8\]: allowed is a list of two lengths"),
        ({"n_range": [8, 4]}, r"the high end of n_range = 4: allowed is an integer >= 8"),
        ({"weights": "cauchy"}, "weights = 'cauchy': allowed is 'gaussian' or"),
    ):
        with pytest.raises(ValueError, match=message):
            parameters.check({"positive": value})


def test_risks_are_those_of_each_model_on_the_same_prompts(models):
    lengths = [5, 11]
    table = experiments.risks(models, lengths, 200)
    assert table.shape == (3, 2)
    for column, n in enumerate(lengths):
        prompts = evaluation_prompts(Task(3, 2, 0.5, "half-normal"), n, 200, experiments.SEED)
        for row, model in enumerate(models):
            weights = {name: weight.double() for name, weight in model.weights.items()}
            risk = model.settings.model.excess_risk(weights, model.settings.task, prompts)
            torch.testing.assert_close(torch.tensor(table[row, column]), trimmed_mean(risk))
    assert (experiments.risks(models, lengths, 200, Task(3, 2, 1.0)) != table).all()


def test_ensembles_start_from_given_weights(models):
    again = experiments.ensemble(
        experiments.training(SETTING, 2, lr=0.0), 3, starts=[model.weights for model in models]
    )
    assert all(
        torch.equal(one.last[name], two.weights[name])
        for one, two in zip(again, models, strict=True)
        for name in one.last
    )


def test_references_are_trimmed_risks_on_the_models_prompts():
    task, prompts = Task(3, 2, 0.5), evaluation_prompts(Task(3, 2, 0.5), 5, 200, experiments.SEED)
    table = experiments.references(["ridge", "Bayes"], task, [5, 11], 200)
    w_hat = estimators.ridge(prompts.x, prompts.y, estimators.ridge_penalty(3, 2, 0.5))
    assert table["ridge"][0] == pytest.approx(trimmed_mean(task.excess_risk(w_hat, prompts.w)).item())
    assert (table["Bayes"] < table["ridge"]).all()
    assert "Bayes" not in experiments.references(["ridge", "Bayes"], Task(3, 2, 0.5, "half-normal"), [5], 20)


def test_lengths_are_those_of_training():
    assert experiments.lengths({"n_range": [16, 48]}) == [16, 24, 32, 40, 48]
    assert experiments.lengths({"n_range": [5, 6]}) == [5, 6]
    assert experiments.lengths({"n_range": [7, 7]}) == [7]
    assert experiments.middle({"n_range": [16, 48]}) == 32


def test_maskings_are_those_of_each_model(models):
    found = experiments.maskings(models, 5, 50)
    ablated = experiments.maskings(models, 5, 50, ablate=True)
    medians = experiments.maskings(models, 5, 50, average=torch.median)
    prompts = evaluation_prompts(models[0].settings.task, 5, 50, experiments.SEED)
    zero = prompts.w.square().sum(-1)  # 50 prompts: nothing to trim
    for row, model in enumerate(models):
        rest = (model.settings.model, experiments.double(model.weights), model.settings.task, prompts)
        full, off = heads.masked_risks(*rest)
        assert (found[row].full, ablated[row].full) == (full, full)
        assert (found[row].zero, medians[row].zero) == pytest.approx(
            (zero.mean().item(), zero.median().item())
        )
        np.testing.assert_array_equal(found[row].off, off)
        np.testing.assert_array_equal(ablated[row].off, heads.mean_ablated_risks(*rest))
        np.testing.assert_array_equal(medians[row].off, heads.masked_risks(*rest, torch.median)[1])
    numbers = experiments.effective_numbers(found, "log ratio")
    assert numbers.shape == (3, 2)
    by_hand = heads.importance(found[1].off[0], found[1].full, found[1].zero, "log ratio")
    assert numbers[1, 0] == heads.effective_number(by_hand)
