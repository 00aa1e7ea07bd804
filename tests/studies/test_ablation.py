"""Heads at their means over prompts in place of off."""

import numpy as np
import pandas as pd
import pytest
import torch

from icl_book import explorables
from icl_book.studies import ablation, pruning
from icl_book.studies.ablation import MEASURES, heads_off, mean_ablated_risks
from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.heads import Masking, masking, scaled
from icl_lib.tasks import Task, evaluation_prompts, gram
from icl_lib.training import Training, run
from icl_lib.transformer import Transformer

TASK = Task(5, 2)


def test_mean_ablation_of_one_prompt_changes_nothing_and_of_a_mean_free_head_is_masking(generator):
    model = Transformer(5, (2, 3), 7, 3, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    one = TASK.sample(1, 13, seed=generator, dtype=torch.float64)
    full = masking(model, weights, TASK, one).full
    for risks in mean_ablated_risks(model, weights, TASK, one):
        np.testing.assert_allclose(risks, full)
    # Head j of the construction adds r_j x_j; over a prompt and its mirror image, y -> -y, r has mean 0.
    model, weights = preprocess_then_optimize_transformer(5, 2, 0.1)
    pair = type(one)(*(torch.cat([part, part]) for part in one))
    pair = pair._replace(y=torch.cat([one.y, -one.y]), w=torch.cat([one.w, -one.w]))
    ablated, off = mean_ablated_risks(model, weights, TASK, pair), masking(model, weights, TASK, pair).off
    np.testing.assert_allclose(ablated[0], off[0])


def test_mean_ablation_in_token_form(generator):
    prompts = TASK.sample(50, 13, seed=generator, dtype=torch.float64)
    model = Transformer(5, (2, 1), 7, 3, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    # The second layer adds M x to the read-out, M a row vector a prompt: ablated, its mean over prompts.
    first, last = model.layer_weights(weights, gram(prompts))[1:]
    by_hand = TASK.excess_risk(first + (last - first).mean(0), prompts.w).mean().item()  # nothing to trim
    assert mean_ablated_risks(model, weights, TASK, prompts)[1].tolist() == pytest.approx([by_hand])


def test_every_model_is_ablated_on_the_prompts_of_its_masking():
    runs = run(Training(TASK, Transformer(5, (2, 1), 7, 3), n=(5, 11), steps=3), (4, 1))
    drawn = evaluation_prompts(TASK, 11, 60, 3)
    found = heads_off({"all": runs}, "models", {"all": 11}, 60, seed=3)
    assert found.models.unique() == ["all"]
    for model in runs:
        alone = (model.settings.model, model.weights, TASK, drawn)
        zero, medians = masking(*alone), masking(*alone, average=torch.median)
        mean = zero._replace(off=mean_ablated_risks(*alone))
        assert medians.zero == drawn.w.square().sum(-1).median()
        expected = {"masked": zero, "medians": medians, "mean-ablated": mean}
        for measure, (way, scale) in MEASURES.items():
            rows, costs = found[(found.seed == model.seed) & (found.measure == measure)], expected[way]
            risks = np.concatenate(costs.off)
            assert list(zip(rows.layer, rows["head"], strict=True)) == [(1, 1), (1, 2), (2, 1)]
            assert rows.risk.tolist() == risks.tolist()
            assert rows.relative.tolist() == (risks / costs.full).tolist()
            assert rows.importance.tolist() == scaled(risks, costs.full, costs.zero, scale).tolist()
    few = heads_off({2: runs}, "models", 11, 60, measures=["log ratio, masked"], seed=3)
    expected = found[found.measure == "log ratio, masked"].assign(models=2).reset_index(drop=True)
    pd.testing.assert_frame_equal(few, expected)


def test_the_first_rank_has_the_head_whose_loss_costs_most(monkeypatch):
    runs = run(Training(TASK, Transformer(5, (4, 1), 7, 3), n=(5, 11), steps=3), 1)
    costs = Masking(1.0, 2.0, [np.array([1.5, np.nan, 9.0, 1.5]), np.array([0.5])])  # nan: it blew up
    monkeypatch.setitem(ablation._SWITCHED_OFF, "masked", lambda *_, **__: [costs])
    found = heads_off({0: runs}, "models", 11, 60, measures=["bounded, masked"])
    assert found["rank"].tolist() == [3, 1, 2, 4, 1]
    assert found.importance.tolist() == [0.5, 1.0, 1.0, 0.5, 0.0]


def test_what_a_page_needs_of_a_model_that_is_shown():
    runs = run(Training(TASK, Transformer(5, (2, 3), 7, 3), n=(5, 11), steps=3), 1)
    off = heads_off({0: runs}, "models", 11, 60, measures=["bounded, masked"])
    page = explorables.transformer(runs[0], off)
    costs = masking(runs.settings.model, runs[0].weights, TASK, evaluation_prompts(TASK, 11, 60, 0))
    assert page["weights"] == explorables.pack(runs[0].weights)
    assert page["task"] == {"d": 5, "s": 2, "law": TASK.weights, "sigma": TASK.sigma}
    assert page["n_range"] == (5, 11)
    expected = [scaled(risks, costs.full, costs.zero).tolist() for risks in costs.off]
    assert list(page["importance"]) == expected
    assert page["kept"] == {version: pruning.kept(costs.off, version) for version in pruning.VERSIONS}
