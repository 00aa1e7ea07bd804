"""What small trained models are like, as the papers say of large ones: fixed seeds, a few seconds each."""

import math

import pytest
import torch

from icl_lib import AttentionLayer, Task, Transformer, circuits, estimators, evaluate, train


def test_two_softmax_heads_end_opposite():
    """Paper B: omegas of opposite signs, mus that sum to about zero, and a loss near debiased descent's."""
    task = Task(3, 3, sigma=0.3, scale=1 / math.sqrt(3))
    options = dict(n=30, steps=600, batch=32, queries=2, lr=2e-2, schedule="constant", loss="squared")
    runs = train(task, AttentionLayer(3, 2), seeds=8, evaluate_every=100, **options)
    kq, ov = circuits.matrices(runs)
    apart = (circuits.omega(kq, 3).prod(-1) < 0) & (circuits.mu(ov).prod(-1) < 0)
    assert apart.sum() >= 7
    assert circuits.opposite(runs).sum() >= 7
    assert (circuits.pattern(kq, ov).balance[apart] < 0.2).all()
    risk = evaluate({"two heads": runs, "zero": lambda x, y: 0 * x[:, 0]}, task, 30, queries=4).risk
    assert (risk[:8] < 0.25 * risk[8]).sum() >= 7


def test_a_head_a_covariate_beats_one_head():
    """Paper A: with that many layer 1 preprocesses; with one head a model does no better than ridge."""
    task = Task(7, 1, sigma=0.3, weights="half-normal")
    options = dict(seeds=2, n=(8, 24), steps=800, batch=24, lr=7e-3, evaluate_every=100)
    models = {H: train(task, Transformer(7, (H, 1), D=18, k=8), **options) for H in (7, 1)}
    frame = evaluate({"seven": models[7], "one": models[1], "ridge": estimators.ridge}, task, 12)
    risk = {name: rows.to_numpy() for name, rows in frame.groupby("predictor").risk}
    assert risk["seven"].max() < 0.7 * risk["one"].min()
    assert risk["seven"].max() < risk["ridge"] < risk["one"].min()


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_a_head_that_writes_nothing_can_be_switched_off(attention, generator):
    """Its risks and predictions are the same to the last bit; those of a head that writes are not."""
    task = Task(3, 2)
    transformer = Transformer(3, (5, 1), D=7, k=2, attention=attention)
    (model,) = train(task, transformer, n=(5, 11), steps=20, batch=7)
    prompts = task.sample(50, 12, generator, dtype=torch.float64)
    model.weights["W_O.0"][3] = 0
    for heads, same in (([3], True), ([2], False)):
        off = model.without({0: heads})
        assert torch.equal(off.predict(prompts), model.predict(prompts)) is same
        assert torch.equal(off.excess_risk(task, prompts), model.excess_risk(task, prompts)) is same
