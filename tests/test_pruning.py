"""Pruned versions: which heads they keep, what is fitted anew, how close they come."""

import numpy as np
import pytest
import torch

from icl_lib import experiments, pruning
from icl_lib.settings import Training
from icl_lib.tasks import Task
from icl_lib.transformer import Transformer, mask_heads


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_CACHE", str(tmp_path))
    task = Task(3, 2, 0.5)
    settings = Training(task, Transformer(3, (3, 2), 7, 5), (5, 11), 40, 13, curriculum_mean=1.5)
    return experiments.ensemble(settings, 2)


def test_versions_keep_the_head_whose_loss_costs_most():
    masked = [[0.2, 0.9, 0.3], [0.5, 0.1], [0.3, float("nan")]]  # nan: the model blew up
    assert pruning.kept(masked, "full") == [[0, 1, 2], [0, 1], [0, 1]]
    assert pruning.kept(masked, "pruned") == [[0, 1, 2], [0], [1]]
    assert pruning.kept(masked, "single") == [[1], [0], [1]]
    with pytest.raises(ValueError, match="version = 'half': allowed is 'full' or 'pruned' or 'single'"):
        pruning.kept(masked, "half")


def test_versions_are_the_masked_model(models, generator):
    prompts = models[0].settings.task.sample(20, 11, generator=generator)
    made = pruning.versions(models, 7)
    assert {version: model.heads for version, (model, _) in made.items()} == {
        "full": (3, 2),
        "pruned": (3, 1),
        "single": (1, 1),
    }
    model, weights = made["pruned"]
    for one, pruned in zip(models, weights, strict=True):
        big = one.settings.model
        candidates = [
            big.effective_weights(mask_heads(one.weights, [None, torch.tensor(mask)]), _gram(prompts))
            for mask in ([1.0, 0.0], [0.0, 1.0])
        ]
        found = model.effective_weights(pruned, _gram(prompts))
        assert any(torch.allclose(found, candidate, atol=1e-5) for candidate in candidates)


def test_refitting_changes_what_it_says(models):
    small, weights = pruning.versions(models, 7)["pruned"]
    refitted = {what: pruning.refit(models, small, weights, what, 30) for what in pruning.REFITS}
    for row, before in enumerate(weights):
        assert all(torch.equal(refitted["nothing"][row][name], before[name]) for name in before)
        changed = {
            name for name in before if not torch.equal(refitted["read-out"][row][name].float(), before[name])
        }
        assert changed == {"w_out"}
        after = refitted["all weights"][row]
        assert {name: tuple(part.shape) for name, part in after.items()} == small.shapes()
        assert not any(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(ValueError, match="what = 'heads'"):
        pruning.refit(models, small, weights, "heads", 30)


def test_risks_of_the_full_version_are_those_of_the_models(models):
    small, weights = pruning.versions(models, 7)["full"]
    found = experiments.risks_of(small, weights, models[0].settings.task, [5, 9], 30)
    np.testing.assert_allclose(found, experiments.risks(models, [5, 9], 30))


def _gram(prompts):
    context = prompts.context()
    return context.mT @ context / prompts.n[:, None, None]
