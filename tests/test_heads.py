"""Importance of heads: masking, the scales, effective numbers, the order of heads; pruning and re-fitting."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.heads import (
    effective_number,
    importance,
    masked_risks,
    mean_ablated_risks,
    one_head_off,
    prune,
    refit_read_out,
)
from icl_lib.tasks import Task, gram
from icl_lib.transformer import Transformer, mask_heads

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


def test_mean_ablation_of_one_prompt_changes_nothing_and_of_a_mean_free_head_is_masking(generator):
    model = Transformer(5, (2, 3), 7, 3, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    one = TASK.sample(1, 13, generator=generator, dtype=torch.float64)
    full, _ = masked_risks(model, weights, TASK, one)
    for risks in mean_ablated_risks(model, weights, TASK, one):
        np.testing.assert_allclose(risks, full)
    # Head j of the construction adds r_j x_j; over a prompt and its mirror image, y -> -y, r has mean 0.
    model, weights = preprocess_then_optimize_transformer(5, 2, 0.1)
    pair = type(one)(*(torch.cat([part, part]) for part in one))
    pair = pair._replace(y=torch.cat([one.y, -one.y]), w=torch.cat([one.w, -one.w]))
    ablated, masked = (
        mean_ablated_risks(model, weights, TASK, pair),
        masked_risks(model, weights, TASK, pair)[1],
    )
    np.testing.assert_allclose(ablated[0], masked[0])


def test_mean_ablation_in_token_form(prompts, generator):
    model = Transformer(5, (2, 1), 7, 3, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    # The second layer adds M x to the read-out, M a row vector a prompt: ablated, its mean over prompts.
    first, last = model.layer_weights(weights, gram(prompts))[1:]
    by_hand = TASK.excess_risk(first + (last - first).mean(0), prompts.w).mean().item()  # nothing to trim
    assert mean_ablated_risks(model, weights, TASK, prompts)[1].tolist() == pytest.approx([by_hand])


# Pruning.


@pytest.mark.parametrize("attention", ["linear", "relu", "softmax"])
@settings(max_examples=30, deadline=None)
@given(kept=st.tuples(*(st.lists(st.integers(0, H - 1), min_size=1, unique=True) for H in (3, 2, 5))))
def test_pruning_keeps_exactly_the_named_heads(attention, kept):
    generator = torch.Generator().manual_seed(0)
    model = Transformer(5, (3, 2, 5), 7, 2, attention, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    prompts = TASK.sample(3, 11, generator=generator, dtype=torch.float64)
    small, pruned = prune(model, weights, kept)
    assert small.heads == tuple(map(len, kept))
    assert {name: tuple(tensor.shape) for name, tensor in pruned.items()} == small.shapes()
    masks = [torch.zeros(H, dtype=torch.float64) for H in model.heads]
    for mask, heads in zip(masks, kept, strict=True):
        mask[heads] = 1
    masked = model.predict(mask_heads(weights, masks), prompts)
    torch.testing.assert_close(small.predict(pruned, prompts), masked)


def test_pruning_a_model_whose_heads_split_the_width(generator):
    model = Transformer(5, (4, 4), 12)
    small, pruned = prune(model, model.init(generator), [[0, 2], [3]])
    assert (small.heads, small.k) == ((2, 1), 3)
    assert {name: tuple(tensor.shape) for name, tensor in pruned.items()} == small.shapes()


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_refitted_read_out_is_at_the_minimum(attention, generator):
    model = Transformer(5, (2, 1), 7, 3, attention, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    prompts = TASK.sample(60, 13, generator=generator, queries=3, dtype=torch.float64)
    refitted = refit_read_out(model, weights, prompts)
    assert all(torch.equal(refitted[name], weights[name]) for name in weights if name != "w_out")

    def loss(w_out):
        error = model.predict(weights | {"w_out": w_out}, prompts) - prompts.target()
        return ((1 + error.square()).sqrt() - 1).mean()

    w_out = refitted["w_out"].requires_grad_()
    (gradient,) = torch.autograd.grad(loss(w_out), w_out)
    assert (
        gradient.abs().max() < 1e-4 * torch.autograd.functional.jacobian(loss, weights["w_out"]).abs().max()
    )


def test_refitting_the_construction_finds_its_read_out_again(generator):
    model, weights = preprocess_then_optimize_transformer(3, 2, 0.1)
    prompts = Task(3, 2).sample(60, 13, generator=generator, dtype=torch.float64)
    prompts = prompts._replace(w=model.effective_weights(weights, gram(prompts)))  # what it predicts is right
    refitted = refit_read_out(model, weights | {"w_out": torch.zeros_like(weights["w_out"])}, prompts)
    torch.testing.assert_close(model.predict(refitted, prompts), prompts.target())


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
    model = Transformer(5, (2, 3), 7, 3)
    weights = model.init(torch.Generator())
    with pytest.raises(ValueError, match=r"kept = \[\[0\]\]: allowed is a list for each of the 2 layers"):
        prune(model, weights, [[0]])
    with pytest.raises(ValueError, match=r"an item of kept\[1\] = 3: allowed is an integer from 0 to 2"):
        prune(model, weights, [[0], [3]])
    with pytest.raises(ValueError, match=r"kept\[1\] = \[2, 2\]: allowed is each head once"):
        prune(model, weights, [[0], [2, 2]])
