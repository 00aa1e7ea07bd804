"""Importance of heads: masking, the scales, effective numbers, the order of heads; pruning."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_lib import heads
from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.heads import effective_number, effective_numbers, importance, masking, maskings, prune, scaled
from icl_lib.tasks import Task, evaluation_prompts
from icl_lib.training import Training, run, trimmed_mean
from icl_lib.transformer import Transformer

TASK = Task(5, 2)


def shapes(weights):
    return {name: tuple(weight.shape) for name, weight in weights.items()}


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_masked_risk_is_that_with_the_output_set_to_zero(attention, generator):
    """And it does not depend on the order of heads."""
    prompts = TASK.sample(211, 13, seed=generator, dtype=torch.float64)
    model = Transformer(5, (3, 2), 7, 3, attention, init_scale=1.0)
    weights = model.init(generator, torch.float64)

    def risk(weights):
        return pytest.approx(trimmed_mean(model.excess_risk(weights, TASK, prompts)).item())

    full, zero, off = masking(model, weights, TASK, prompts)
    assert full == risk(weights)
    predicts_zero = prompts.w.square().sum(-1) if attention == "linear" else prompts.target().square()[:, 0]
    assert zero == pytest.approx(trimmed_mean(predicts_zero).item())
    assert [len(layer) for layer in off] == [3, 2]
    for layer, risks in enumerate(off):
        for head, found in enumerate(risks):
            zeroed = {name: w.clone() for name, w in weights.items()}
            zeroed[f"W_O.{layer}"][head] = 0
            assert found == risk(zeroed)
    order = torch.tensor([2, 0, 1])
    turned = weights | {f"W_{name}.0": weights[f"W_{name}.0"][order] for name in "QKVO"}
    other = masking(model, turned, TASK, prompts)
    assert other[:2] == pytest.approx((full, zero))
    np.testing.assert_allclose(np.concatenate(other.off), [*off[0][order], *off[1]])


def test_every_head_of_the_construction_matters_alike(generator):
    prompts = TASK.sample(5000, 13, seed=generator, dtype=torch.float64)
    model, weights = preprocess_then_optimize_transformer(5, 3, 0.001)
    masked = masking(model, weights, TASK, prompts)
    assert (masked.off[0] > masked.full).all()
    assert effective_number(scaled(masked.off[0], masked.full, masked.zero)) == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_importance_is_that_of_every_model_on_the_evaluation_prompts(attention):
    model = Transformer(5, (2, 3), 7, 3, attention)
    runs = run(Training(TASK, model, n=(5, 11), steps=3, queries=2), (4, 1))
    found = maskings(runs, 11, 211, seed=3)
    drawn = evaluation_prompts(TASK, 11, 211, 3, queries=2)
    for one, trained in zip(found, runs, strict=True):
        expected = masking(model, trained.weights, TASK, drawn)
        assert one[:2] == expected[:2]
        assert all(np.array_equal(a, b) for a, b in zip(one.off, expected.off, strict=True))
    for scale in heads.SCALES:
        values = [[scaled(off, one.full, one.zero, scale) for off in one.off] for one in found]
        expected = [
            (trained.seed, layer, head, one.off[layer][head], scores[layer][head])
            for trained, one, scores in zip(runs, found, values, strict=True)
            for layer, head in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
        ]
        frame = importance(runs, 11, scale=scale, prompts=211, seed=3)
        assert list(frame.columns) == ["seed", "layer", "head", "risk", "importance"]
        assert list(frame.itertuples(index=False, name=None)) == expected
        numbers = [[effective_number(layer) for layer in scores] for scores in values]
        assert np.array_equal(effective_numbers(found, scale), numbers)


@pytest.mark.parametrize("attention", ["linear", "relu", "softmax"])
@settings(max_examples=30, deadline=None)
@given(kept=st.tuples(*(st.lists(st.integers(0, H - 1), min_size=1, unique=True) for H in (3, 2, 5))))
def test_pruning_keeps_exactly_the_named_heads(attention, kept):
    generator = torch.Generator().manual_seed(0)
    model = Transformer(5, (3, 2, 5), 7, 2, attention, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    prompts = TASK.sample(3, 11, seed=generator, dtype=torch.float64)
    small, pruned = prune(model, weights, kept)
    assert small.heads == tuple(map(len, kept))
    assert shapes(pruned) == small.shapes()
    gone = {layer: sorted(set(range(H)) - set(kept[layer])) for layer, H in enumerate(model.heads)}
    masked = model.predict(model.switched_off(weights, gone), prompts)
    torch.testing.assert_close(small.predict(pruned, prompts), masked)


def test_pruning_a_model_whose_heads_split_the_width(generator):
    model = Transformer(5, (4, 4), 12)
    small, pruned = prune(model, model.init(generator), [[0, 2], [3]])
    assert (small.heads, small.k) == ((2, 1), 3)
    assert shapes(pruned) == small.shapes()


def test_scales_by_hand():
    masked = [0.2, 0.4, 1e9, float("nan"), 0.1]
    full, zero = 0.2, 1.0
    np.testing.assert_allclose(scaled(masked, full, zero), [0, 0.25, 1, 1, 0])
    np.testing.assert_allclose(scaled(masked[:3], full, zero, "log ratio"), [0, np.log(2), np.log(5e9)])
    np.testing.assert_allclose(scaled(masked[:3], full, zero, "ratio"), [0, 1, 5e9 - 1])


@given(st.integers(1, 20), st.floats(0.1, 10))
def test_effective_number_counts_equal_heads(H, value):
    assert effective_number([value] * H) == pytest.approx(H)
    assert effective_number([value] + [0.0] * H) == pytest.approx(1)
    assert effective_number([0.0] * H) == 0


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=9), st.floats(0.1, 10))
def test_effective_number_is_between_one_and_all_whatever_the_unit(importances, unit):
    number = effective_number(importances)
    assert 1 - 1e-9 <= number <= len(importances) + 1e-9
    assert effective_number([unit * value for value in importances]) == pytest.approx(number)
