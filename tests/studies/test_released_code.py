"""What the released code of paper B does otherwise: against the model's own predictions and sums by hand."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from settings import PAPER_B

from icl_book import paper_b
from icl_book.studies import debiased, released_code
from icl_lib.constructions import heads_on_pattern
from icl_lib.evaluation import loss
from icl_lib.store import not_covered
from icl_lib.tasks import evaluation_prompts, seeded
from icl_lib.training import Runs, run, stack


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
    several = stack([weights, large])  # models side by side: each is predicted as by itself
    for place, each in enumerate((weights, large)):
        by_itself = released_code.predict(settings.model, each, prompts, 2)
        together = released_code.predict(settings.model, several, prompts, 2)
        torch.testing.assert_close(together[place], by_itself)
    with pytest.raises(ValueError, match="allowed is one length"):
        released_code.predict(settings.model, weights, drawn(settings, n=(3, 7)))


def test_opposite_heads_at_their_best_and_with_a_given_mu():
    """Against the same two heads by themselves, and the best mu's neighbours."""
    task, n, omegas, mu = paper_b.training(PAPER_B, 2).task, 7, [0.3, 0.9], 1.7
    frame = released_code.opposite_heads(omegas, mu, task, n, 2, 50)
    assert frame.columns.tolist() == ["omega", "best_mu", "loss", "loss_of_given", "seed"]
    assert len(frame) == 4
    for row in frame.itertuples():
        drawn = evaluation_prompts(task, n, 50, row.seed, 4)

        def loss_with(mu, omega=row.omega, drawn=drawn):
            return loss(debiased.heads([omega, -omega], [mu, -mu], task.d), task, drawn)

        assert row.loss_of_given == pytest.approx(loss_with(mu))
        assert row.loss == pytest.approx(loss_with(row.best_mu))
        assert row.loss < min(loss_with(0.99 * row.best_mu), loss_with(1.01 * row.best_mu))


def test_best_factor():
    prediction, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    assert released_code.best_factor(prediction, target).item() == pytest.approx(1.0)
    factors = released_code.best_factor(torch.stack([prediction, -2 * prediction]), target)
    assert factors.flatten().tolist() == pytest.approx([1.0, -0.5])


def test_gradient_noise_of_a_known_gradient():
    """With KQ = 0 and OV = mu = 0 the prediction is zero and O's gradient -2 mean(target * ybar) at y."""
    _, weights = heads_on_pattern(torch.zeros(1, 3, 3).double(), torch.zeros(1).double())
    (trained,) = run(paper_b.training(PAPER_B, 1), 1)
    runs = Runs([replace(trained, weights=weights)] * 2)
    d, L, signal, noise = 3, 7, 1.0, 0.2
    # ybar = <w, xbar> + epsbar and target = <w, x>: E[target^2 ybar^2] with E|w|^4 = (1 + 2 / d).
    fourth = (1 + 2 / d) / L + signal * noise / L
    more = noise * (signal + noise) / L
    for batch, noisy in product((4, 5, 16), (False, True)):
        traces = released_code.gradient_noise(runs, batch, 1, noisy, 1500)
        assert traces == pytest.approx([4 * (fourth + noisy * more) / batch] * 2, rel=0.15)
        assert traces[0] != traces[1]  # each model has batches of its own


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
    models = run(released_code.as_released(settings, batch=8), 2)
    assert [model.seed for model in models] == [0, 1]
    assert (models.settings.batch, models.settings.queries) == (8, 1)
    start = settings.model.init(seeded(0, "init"))
    torch.testing.assert_close(models[0].kept["O"][0], start["O"])
    assert not_covered(models.settings)  # by the store, which would take it for another training
