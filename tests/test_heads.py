"""Importance of heads: masking, the scales, effective numbers, the order of heads."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.heads import effective_number, importance, masked_risks, one_head_off
from icl_lib.tasks import Task
from icl_lib.transformer import Transformer

TASK = Task(5, 2)


@pytest.fixture
def prompts(generator):
    return TASK.sample(50, 13, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_masked_risk_is_that_with_the_output_set_to_zero(attention, prompts, generator):
    model = Transformer(5, (2, 3), 7, 3, attention, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    full, masked = masked_risks(model, weights, TASK, prompts)
    assert full == pytest.approx(model.excess_risk(weights, TASK, prompts).mean().item())  # nothing to trim
    assert [len(layer) for layer in masked] == [2, 3]
    for layer, risks in enumerate(masked):
        for head, risk in enumerate(risks):
            zeroed = {name: w.clone() for name, w in weights.items()}
            zeroed[f"W_O.{layer}"][head] = 0
            assert risk == pytest.approx(model.excess_risk(zeroed, TASK, prompts).mean().item())


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_importance_does_not_depend_on_the_order_of_heads(attention, prompts, generator):
    model = Transformer(5, (3, 2), 7, 3, attention, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    order = torch.tensor([2, 0, 1])
    turned = dict(weights) | {f"W_{name}.0": weights[f"W_{name}.0"][order] for name in "QKVO"}
    full, masked = masked_risks(model, weights, TASK, prompts)
    full_turned, masked_turned = masked_risks(model, turned, TASK, prompts)
    assert full_turned == pytest.approx(full)
    np.testing.assert_allclose(masked_turned[0], masked[0][order])
    np.testing.assert_allclose(masked_turned[1], masked[1])


def test_every_head_of_the_construction_matters_alike(generator):
    prompts = TASK.sample(5000, 13, generator=generator, dtype=torch.float64)
    model, weights = preprocess_then_optimize_transformer(5, 3, 0.001)
    full, masked = masked_risks(model, weights, TASK, prompts)
    assert (masked[0] > full).all()
    zero = prompts.w.square().sum(-1).mean().item()
    assert effective_number(importance(masked[0], full, zero)) == pytest.approx(5, abs=0.2)


def test_scales_by_hand():
    masked = [0.2, 0.4, 1e9, float("nan"), 0.1]
    full, zero = 0.2, 1.0
    np.testing.assert_allclose(importance(masked, full, zero), [0, 0.25, 1, 1, 0])
    np.testing.assert_allclose(importance(masked[:3], full, zero, "log ratio"), [0, np.log(2), np.log(5e9)])
    np.testing.assert_allclose(importance(masked[:3], full, zero, "ratio"), [0, 1, 5e9 - 1])


@given(st.integers(1, 20), st.floats(0.1, 10))
def test_effective_number_counts_equal_heads(heads, value):
    assert effective_number([value] * heads) == pytest.approx(heads)
    assert effective_number([value] + [0.0] * heads) == pytest.approx(1)
    assert effective_number([0.0] * heads) == 0


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=9), st.floats(0.1, 10))
def test_effective_number_is_between_one_and_all_whatever_the_unit(importances, unit):
    number = effective_number(importances)
    assert 1 - 1e-9 <= number <= len(importances) + 1e-9
    assert effective_number([unit * value for value in importances]) == pytest.approx(number)


def test_bad_input():
    with pytest.raises(ValueError, match="layer = 2: allowed is an integer from 0 to 1"):
        one_head_off((2, 3), 2, 0)
    with pytest.raises(ValueError, match="head = 3: allowed is an integer from 0 to 2"):
        one_head_off((2, 3), 1, 3)
    with pytest.raises(ValueError, match="scale = 'linear': allowed is 'bounded' or 'log ratio'"):
        importance([1.0], 0.5, 2.0, "linear")
