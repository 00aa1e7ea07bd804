"""Heads at their means over prompts in place of off."""

import numpy as np
import pytest
import torch

from icl_book.studies.ablation import mean_ablated, mean_ablated_risks
from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.heads import masking, maskings
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
    masked, drawn = maskings(runs, 11, 60, seed=3), evaluation_prompts(TASK, 11, 60, 3)
    medians = maskings(runs, 11, 60, seed=3, average=torch.median)
    ablated = mean_ablated(runs, masked, 11, 60, seed=3)
    for one, other, middle, model in zip(ablated, masked, medians, runs, strict=True):
        assert one[:2] == other[:2]
        alone = (model.settings.model, model.weights, TASK, drawn)
        expected = masking(*alone, average=torch.median)
        assert middle[:2] == (expected.full, drawn.w.square().sum(-1).median())
        for found, there in ((one.off, mean_ablated_risks(*alone)), (middle.off, expected.off)):
            assert all(np.array_equal(a, b) for a, b in zip(found, there, strict=True))
