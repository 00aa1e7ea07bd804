"""Pruned versions: which heads they keep, what is fitted anew, how close they come."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from icl_book import experiments
from icl_book.studies import pruning
from icl_lib import store
from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.tasks import Task, gram
from icl_lib.training import Training
from icl_lib.transformer import Transformer


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_CACHE", str(tmp_path))
    task = Task(3, 2, 0.5)
    settings = Training(task, Transformer(3, (3, 2), 7, 5), (5, 11), 40, 13, curriculum_mean=1.5)
    return store.trained(settings, 2)


def test_versions_keep_the_head_whose_loss_costs_most():
    masked = [[0.2, 0.9, 0.3], [0.5, 0.1], [0.3, float("nan")]]  # nan: the model blew up
    assert pruning.kept(masked, "full") == [[0, 1, 2], [0, 1], [0, 1]]
    assert pruning.kept(masked, "pruned") == [[0, 1, 2], [0], [1]]
    assert pruning.kept(masked, "single") == [[1], [0], [1]]
    with pytest.raises(ValueError, match="version = 'half': allowed is 'full' or 'pruned' or 'single'"):
        pruning.kept(masked, "half")


def test_versions_are_the_masked_model_and_refitting_changes_what_it_says(models, generator):
    prompts = models[0].settings.task.sample(20, 11, seed=generator)
    made = pruning.versions(models, 7)
    heads = {version: model.heads for version, (model, _) in made.items()}
    assert heads == {"full": (3, 2), "pruned": (3, 1), "single": (1, 1)}
    small, weights = made["pruned"]
    for one, pruned in zip(models, weights, strict=True):
        big = one.settings.model
        masked = [big.switched_off(one.weights, {1: [head]}) for head in (1, 0)]
        found = small.effective_weights(pruned, gram(prompts))
        candidates = [big.effective_weights(weights, gram(prompts)) for weights in masked]
        assert any(torch.allclose(found, candidate, atol=1e-5) for candidate in candidates)
    fitted = pruning.smaller(models, 7)
    assert set(fitted) == {(refit, version) for refit in ("nothing", "read-out") for version in made}
    risk = experiments.measure({"made": fitted["nothing", "full"], "whole": models}, "models", [5, 9], 30)
    found, expected = (risk[risk.models == name].risk for name in ("made", "whole"))
    np.testing.assert_allclose(found, expected)
    cut = pruning.again(models.settings, (3, 1), 30)
    trained = store.trained(cut, 2, starts=weights)
    assert cut == replace(models.settings, model=small, steps=30, curriculum_mean=0.0)
    for row, before in enumerate(weights):
        same, read_out = (fitted[refit, "pruned"][row] for refit in ("nothing", "read-out"))
        assert same.settings == read_out.settings == replace(models.settings, model=small)
        assert same.seed == read_out.seed == models[row].seed
        assert all(torch.equal(same.weights[name], before[name]) for name in before)
        changed = [name for name in before if not torch.equal(read_out.weights[name].float(), before[name])]
        assert changed == ["w_out"]
        after = trained[row].weights
        assert {name: tuple(part.shape) for name, part in after.items()} == small.shapes()
        assert not any(torch.equal(after[name], before[name]) for name in before)


def test_again_has_heads_of_the_width_that_they_had():
    model = Transformer(3, (2, 2), 8)  # the width is split
    again = pruning.again(Training(Task(3, 2), model), (2, 1), 30)
    assert (again.model.heads, again.model.k) == ((2, 1), 4)


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_refitted_read_out_is_at_the_minimum(attention, generator):
    model = Transformer(5, (2, 1), 7, 3, attention, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    prompts = Task(5, 2).sample(60, 13, seed=generator, queries=3, dtype=torch.float64)
    refitted = pruning.refit_read_out(model, weights, prompts)
    assert all(torch.equal(refitted[name], weights[name]) for name in weights if name != "w_out")

    def loss(w_out):
        error = model.predict(weights | {"w_out": w_out}, prompts) - prompts.target()
        return ((1 + error.square()).sqrt() - 1).mean()

    before, after = (torch.autograd.functional.jacobian(loss, some["w_out"]) for some in (weights, refitted))
    assert after.abs().max() < 1e-4 * before.abs().max()


def test_refitting_the_construction_finds_its_read_out_again(generator):
    model, weights = preprocess_then_optimize_transformer(3, 2, 0.1)
    prompts = Task(3, 2).sample(60, 13, seed=generator, dtype=torch.float64)
    prompts = prompts._replace(w=model.effective_weights(weights, gram(prompts)))  # what it predicts is right
    refitted = pruning.refit_read_out(model, weights | {"w_out": torch.zeros_like(weights["w_out"])}, prompts)
    torch.testing.assert_close(model.predict(refitted, prompts), prompts.target())
