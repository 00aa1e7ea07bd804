"""The library as research code uses it: names, precision, heads off, one's own tasks and models."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import icl_lib
from icl_lib import attention_layer, estimators, transformer
from icl_lib.attention_layer import AttentionLayer
from icl_lib.evaluation import evaluate
from icl_lib.models import Module
from icl_lib.tasks import Task, evaluation_prompts, gram, seeded
from icl_lib.training import Training, run, train, trimmed_mean
from icl_lib.transformer import Transformer

TASK, MODEL = Task(3, 2), Transformer(3, (2, 3), D=5, k=2)
OPTIONS = dict(n=(5, 11), steps=20, batch=7, evaluate_every=8, evaluate_prompts=13)


@pytest.fixture(scope="module")
def runs():
    return train(TASK, MODEL, seeds=(4, 1), **OPTIONS)


def test_public_names():
    assert 20 <= len(icl_lib.__all__) <= 30
    assert len(set(icl_lib.__all__)) == len(icl_lib.__all__)
    assert all(getattr(icl_lib, name) is not None for name in icl_lib.__all__)
    with pytest.raises(AttributeError, match=r"\Aicl_lib has no 'magic': allowed are .*\Z"):
        icl_lib.magic  # noqa: B018


def test_import_is_quick():
    """Without torch, until a name is asked for."""
    code = "import sys, icl_lib; assert 'torch' not in sys.modules; icl_lib.Task"
    subprocess.run([sys.executable, "-c", code], check=True)


# Precision.

TRANSFORMERS = [Transformer(3, (2, 3), 7, 5, attention) for attention in transformer.ATTENTION]
LAYERS = [AttentionLayer(3, 2, attention=attention) for attention in attention_layer.ATTENTION]


@pytest.mark.parametrize("model", [*TRANSFORMERS, *LAYERS])
def test_the_wider_precision_is_used(model, generator):
    weights = model.init(generator)
    double = {name: weight.double() for name, weight in weights.items()}
    prompts = TASK.sample(11, (5, 13), 0, queries=2, dtype=torch.float64)
    calls = [lambda held: model.predict(held, prompts), lambda held: model.excess_risk(held, TASK, prompts)]
    if model is TRANSFORMERS[0]:
        G = gram(prompts)
        calls += [lambda held: model.effective_weights(held, G), lambda held: model.layer_weights(held, G)]
        assert model.effective_weights(double, G.float()).dtype == torch.float64
    for call in calls:
        assert call(weights).dtype == torch.float64
        assert torch.equal(call(weights), call(double))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trained_model_on_prompts_of_either_precision(dtype, runs):
    prompts = TASK.sample(11, 7, 0, queries=2, dtype=dtype)
    for model in runs:
        prediction, w_hat = model.predict(prompts), model.effective_weights(prompts)
        assert prediction.dtype == w_hat.dtype == dtype
        expected = estimators.at_queries(w_hat, prompts.x_query)
        torch.testing.assert_close(prediction, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.excess_risk(TASK, prompts), TASK.excess_risk(w_hat, prompts.w))
        assert not prediction.requires_grad


# Heads off.


def test_runs_without_heads(runs):
    for found, whole in zip(runs.without({0: [1], 1: [0, 2]}), runs, strict=True):
        expected = {name: weight.clone() for name, weight in whole.weights.items()}
        expected["W_O.0"][1] = 0
        expected["W_O.1"][[0, 2]] = 0
        torch.testing.assert_close(found.weights, expected, rtol=0, atol=0)
        assert whole.weights["W_O.0"][1].any()
        assert (found.seed, found.settings, found.last) == (whole.seed, whole.settings, whole.last)
    off, expected = MODEL.switched_off(runs.stacked(), {0: [1]}), runs.without({0: [1]}).stacked()
    torch.testing.assert_close(off, expected, rtol=0, atol=0)


def test_runs_of_one_layer_without_heads():
    runs = train(TASK, AttentionLayer(3, 2), seeds=2, queries=2, **OPTIONS)
    prompts = TASK.sample(11, 7, 0)
    for found, whole in zip(runs.without({0: [1]}), runs, strict=True):
        alone = {name: weight[:1] for name, weight in whole.weights.items()}
        torch.testing.assert_close(found.predict(prompts), AttentionLayer(3, 1).predict(alone, prompts))
    assert torch.equal(runs[0].without({}).predict(prompts), runs[0].predict(prompts))


# Tasks and models of one's own.


class NoisyLabels(Task):
    """Labels with noise whose variance is that of x_1."""

    def sample(self, batch, n, seed, **options):
        generator = seed if isinstance(seed, torch.Generator) else seeded("noisy", seed)
        drawn = super().sample(batch, n, generator, **options)
        noise = torch.randn(drawn.y.shape, generator=generator, dtype=drawn.y.dtype)
        return drawn._replace(y=drawn.y + drawn.x[..., 0] * noise)


def test_task_of_ones_own(runs):
    task = NoisyLabels(3, 2)
    own, again = (train(task, MODEL, seeds=(4, 1), **OPTIONS) for _ in range(2))
    for one, two, plain in zip(own, again, runs, strict=True):
        torch.testing.assert_close(one.last, two.last, rtol=0, atol=0)
        assert not any(torch.allclose(weight, plain.last[name]) for name, weight in one.last.items())
    risks = evaluate({"model": own, "OLS": estimators.ols}, task, 11, prompts=23).risk
    drawn = evaluation_prompts(task, 11, 23, 0)
    assert not torch.equal(drawn.y, evaluation_prompts(TASK, 11, 23, 0).y)
    w_hats = [*(model.effective_weights(drawn) for model in own), estimators.ols(drawn.x, drawn.y)]
    expected = [trimmed_mean(task.excess_risk(w_hat, drawn.w)).item() for w_hat in w_hats]
    assert list(risks) == pytest.approx(expected)


class Net(nn.Module):
    """A small network on the correlations of x and y, and the query."""

    def __init__(self, d=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * d, 7), nn.ReLU(), nn.Linear(7, 1))

    def forward(self, prompts):
        r = (prompts.x.mT @ prompts.y[..., None])[..., 0] / prompts.n[..., None]
        asked = prompts.x_query
        return self.layers(torch.cat([asked, r[..., None, :].expand_as(asked)], -1))[..., 0]


OWN = Module(lambda: Net(), d=3)


def test_model_of_ones_own_stacks_its_seeds_and_predicts_as_its_module_does():
    runs = train(TASK, OWN, seeds=(4, 1), queries=2, **OPTIONS)
    risks = evaluate({"own": runs}, TASK, 7, prompts=211, queries=2).risk
    drawn = evaluation_prompts(TASK, 7, 211, 0, queries=2)
    for model, risk in zip(runs, risks, strict=True):
        (alone,) = train(TASK, OWN, seeds=[model.seed], queries=2, **OPTIONS)
        for part in ("weights", "last", "history"):
            torch.testing.assert_close(getattr(model, part), getattr(alone, part), atol=1e-5, rtol=1e-5)
        start = OWN.init(seeded(model.seed, "init"))
        assert not any(torch.equal(model.last[name], weight) for name, weight in start.items())
        net = Net().double()
        net.load_state_dict(model.weights)
        expected = net(drawn).detach()
        torch.testing.assert_close(model.predict(drawn), expected)
        assert risk == pytest.approx(trimmed_mean((expected - drawn.target()).square().mean(-1)).item())
    assert not any(torch.equal(runs[0].last[name], runs[1].last[name]) for name in OWN.shapes())


def test_fresh_weights_of_ones_own_model():
    """The same for the same seed, whatever torch's own generator is at, and that stays where it is."""
    state = torch.get_rng_state()
    one, other = OWN.init(seeded(1)), OWN.init(seeded(2))
    run(Training(TASK, Module(Net, 3), **OPTIONS), 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    torch.testing.assert_close(OWN.init(seeded(1)), one, rtol=0, atol=0)
    assert not any(torch.equal(weight, other[name]) for name, weight in one.items())
    assert OWN.shapes() == {name: tuple(weight.shape) for name, weight in one.items()}
    assert OWN.shapes() == {name: tuple(part.shape) for name, part in Net().named_parameters()}


class Scaled(nn.Module):
    """A parameter without dimensions, and a buffer that stays."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(()))
        self.register_buffer("turn", torch.eye(3).roll(1, 0))

    def forward(self, prompts):
        return self.scale * (prompts.x_query @ self.turn @ (prompts.x.mT @ prompts.y[..., None]))[..., 0]


def test_module_with_a_number_and_a_buffer():
    runs = train(TASK, Module(Scaled, 3), seeds=2, **OPTIONS)
    assert all(model.last["scale"].shape == () for model in runs)
    drawn = evaluation_prompts(TASK, 7, 11, 0)
    turned = (drawn.x_query @ torch.eye(3).roll(1, 0).double() @ (drawn.x.mT @ drawn.y[..., None]))[..., 0]
    for model in runs:
        torch.testing.assert_close(model.predict(drawn), model.weights["scale"].double() * turned)
    risks = evaluate({"own": runs}, TASK, 7, prompts=11).risk
    assert np.isfinite(risks).all()
