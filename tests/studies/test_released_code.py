"""What the released code of paper B does otherwise: against the model's own predictions and sums by hand."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from settings import PAPER_B

from icl_book import paper_b
from icl_book.studies import released_code
from icl_lib.constructions import heads_on_pattern
from icl_lib.tasks import Task, seeded


@pytest.fixture
def settings():
    return paper_b.training(PAPER_B, 2, queries=2)


def drawn(settings, batch=11, **options):
    options = {"n": 7, "queries": 2, "dtype": torch.float64} | options
    return settings.task.sample(batch, seed=torch.Generator().manual_seed(1), **options)


def test_one_softmax_is_the_model_and_a_second_flattens(settings, generator):
    weights, prompts = settings.model.init(generator, torch.float64), drawn(settings)
    expected = settings.model.predict(weights, prompts)
    torch.testing.assert_close(released_code.predict(settings.model, weights, prompts), expected)
    large = weights | {"Q": 100 * weights["Q"]}
    once, twice = (released_code.attention_weights(settings.model, large, prompts, n) for n in (1, 2))
    assert once.max() > 0.99
    assert (twice.amax(-1) / twice.amin(-1)).max() <= math.e + 1e-9
    torch.testing.assert_close(twice, once.exp() / once.exp().sum(-1, keepdim=True))
    assert twice.shape == (11, 2, 2, 7)
    with pytest.raises(ValueError, match="allowed is one length"):
        released_code.predict(settings.model, weights, drawn(settings, n=(3, 7)))


def test_best_factor_and_rescaled_noise():
    prediction, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    assert released_code.best_factor(prediction, target) == pytest.approx(1.0)
    assert released_code.rescaled_noise(Task(5, 5, sigma=math.sqrt(0.1))) == pytest.approx(0.02)
    assert released_code.rescaled_noise(paper_b.training(PAPER_B, 2).task) == pytest.approx(0.2)


def test_gradient_noise_of_a_known_gradient():
    """With KQ = 0 and OV = mu = 0 the prediction is zero and O's gradient -2 mean(target * ybar) at y."""
    model, weights = heads_on_pattern(torch.zeros(1, 3, 3).double(), torch.zeros(1).double())
    settings = replace(paper_b.training(PAPER_B, 1, queries=1), model=model)
    d, L, signal, noise = 3, 7, 1.0, 0.2
    # ybar = <w, xbar> + epsbar and target = <w, x>: E[target^2 ybar^2] with E|w|^4 = (1 + 2 / d).
    fourth = (1 + 2 / d) / L + signal * noise / L
    more = noise * (signal + noise) / L
    for batch, noisy in product((4, 5, 16), (False, True)):
        found = released_code.gradient_noise(replace(settings, batch=batch), weights, 1500, noisy=noisy)
        assert found == pytest.approx(4 * (fourth + noisy * more) / batch, rel=0.15)


def test_noisy_targets_have_the_noise_and_nothing_else_changes(settings):
    released = replace(settings, task=released_code.NoisyTask(**vars(settings.task)))
    plain, noisy = (drawn(each, batch=20000, queries=1) for each in (settings, released))
    torch.testing.assert_close(plain.x, noisy.x)
    torch.testing.assert_close(plain.y, noisy.y)
    error = noisy.target() - plain.target()
    assert error.square().mean().item() == pytest.approx(0.2, rel=0.05)
    assert abs((error * plain.target()).mean().item()) < 0.01
    with pytest.raises(ValueError, match="allowed is one"):
        drawn(released)


def test_training_as_released(settings):
    found = released_code.train_as_released(settings, 2, batch=8)
    assert [model.seed for model in found] == [0, 1]
    assert (found[0].settings.batch, found[0].settings.queries) == (8, 1)
    start = settings.model.init(seeded(0, "init"))
    torch.testing.assert_close(found[0].kept["O"][0], start["O"])
