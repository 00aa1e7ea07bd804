"""What the released code of paper B does otherwise: against the model's own predictions and sums by hand."""

import math
from dataclasses import replace

import pytest
import torch

from icl_lib import one_layer, released
from icl_lib.constructions import heads_on_pattern
from icl_lib.tasks import Task
from icl_lib.training import seeded

SETTING = {"d": 3, "noise": 0.2, "n": 7, "steps": 6, "keep_every": 3, "batch": 5, "lr": 1e-2}


@pytest.fixture
def settings():
    return one_layer.training(SETTING, 2, queries=2)


@pytest.fixture
def weights(settings):
    return settings.model.init(torch.Generator().manual_seed(0), torch.float64)


def drawn(settings, batch=11, seed=1, **options):
    generator = torch.Generator().manual_seed(seed)
    options = {"n": 7, "queries": 2, "dtype": torch.float64} | options
    return settings.task.sample(batch, generator=generator, **options)


def test_one_softmax_is_the_model(settings, weights):
    prompts = drawn(settings)
    expected = settings.model.predict(weights, prompts)
    torch.testing.assert_close(released.predict(settings.model, weights, prompts), expected)


def test_a_second_softmax_flattens(settings, weights):
    prompts = drawn(settings)
    large = weights | {"Q": 100 * weights["Q"]}
    once = released.attention_weights(settings.model, large, prompts)
    twice = released.attention_weights(settings.model, large, prompts, softmaxes=2)
    assert once.max() > 0.99
    assert (twice.amax(-1) / twice.amin(-1)).max() <= math.e + 1e-9
    torch.testing.assert_close(twice, once.exp() / once.exp().sum(-1, keepdim=True))
    assert twice.shape == (11, 2, 2, 7)


def test_prompts_of_several_lengths_are_refused(settings, weights):
    with pytest.raises(ValueError, match="allowed is one length"):
        released.predict(settings.model, weights, drawn(settings, n=(3, 7)))


def test_best_factor():
    prediction, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    assert released.best_factor(prediction, target) == pytest.approx(1.0)


def test_gradient_noise_of_a_known_gradient():
    """With KQ = 0 and OV = mu = 0 the prediction is zero and O's gradient -2 mean(target * ybar) at y."""
    model, weights = heads_on_pattern(torch.zeros(1, 3, 3).double(), torch.zeros(1).double())
    settings = replace(one_layer.training(SETTING, 1, queries=1), model=model)
    found = released.gradient_noise(settings, weights, 1500)
    d, L, signal, noise = 3, 7, 1.0, 0.2
    # ybar = <w, xbar> + epsbar and target = <w, x>: E[target^2 ybar^2] with E|w|^4 = (1 + 2 / d).
    fourth = (1 + 2 / d) / L + signal * noise / L
    assert found == pytest.approx(4 * fourth / settings.batch, rel=0.15)
    noisy = released.gradient_noise(settings, weights, 1500, noisy=True)
    more = noise * (signal + noise) / L
    assert noisy == pytest.approx(4 * (fourth + more) / settings.batch, rel=0.15)


def test_gradient_noise_falls_as_one_over_the_batch(settings, weights):
    small, large = (
        released.gradient_noise(replace(settings, batch=batch), weights, 800) for batch in (4, 16)
    )
    assert small / large == pytest.approx(4, rel=0.15)


def test_noisy_targets_have_the_noise_and_nothing_else_changes(settings):
    plain, noisy = (
        drawn(replace(settings, task=task), batch=20000, queries=1)
        for task in (settings.task, released.NoisyTask(**vars(settings.task)))
    )
    torch.testing.assert_close(plain.x, noisy.x)
    torch.testing.assert_close(plain.y, noisy.y)
    error = noisy.target() - plain.target()
    assert error.square().mean().item() == pytest.approx(0.2, rel=0.05)
    assert abs((error * plain.target()).mean().item()) < 0.01
    with pytest.raises(ValueError, match="allowed is one"):
        drawn(replace(settings, task=released.NoisyTask(**vars(settings.task))))


def test_training_as_released(settings):
    found = released.train_as_released(settings, 2, batch=8)
    assert [model.settings.seed for model in found] == [0, 1]
    assert (found[0].settings.batch, found[0].settings.queries) == (8, 1)
    start = settings.model.init(seeded(0, "init"))
    torch.testing.assert_close(found[0].kept["O"][0], start["O"])


def test_rescaled_noise():
    assert released.rescaled_noise(Task(5, 5, sigma=math.sqrt(0.1))) == pytest.approx(0.02)
    unit = one_layer.training(SETTING, 2).task
    assert released.rescaled_noise(unit) == pytest.approx(0.2)
