"""Probes of features: exact on the construction; descents that must agree with known ones."""

import pytest
import torch

from icl_lib import estimators, probing
from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.tasks import Task
from icl_lib.transformer import Transformer

TASK = Task(5, 2)


@pytest.fixture
def prompts(generator):
    return TASK.sample(50, (7, 13), generator=generator, queries=3, dtype=torch.float64)


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_features_at_the_queries_are_the_stream(attention, prompts, generator):
    model = Transformer(5, (2, 3), 7, 3, attention, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    context, asked = probing.features(model, weights, prompts, layers=2)
    torch.testing.assert_close(asked @ weights["w_out"], model.predict(weights, prompts))
    # A pair is read as the query is read: as if it were asked.
    again = prompts._replace(x_query=prompts.x[:, 4:5])
    torch.testing.assert_close(context[:, 4] @ weights["w_out"], model.predict(weights, again)[:, 0])


def test_probe_recovers_the_ideal_features_of_the_construction(prompts):
    model, weights = preprocess_then_optimize_transformer(5, 2, 0.1)
    P = probing.probe(model, weights, prompts)
    assert probing.fit(P, model, weights, prompts) == pytest.approx(1, abs=1e-12)
    context, asked = (z @ P for z in probing.features(model, weights, prompts))
    r = (prompts.x * prompts.y[..., None]).sum(-2) / prompts.n[:, None]
    torch.testing.assert_close(asked, r[:, None] * prompts.x_query)
    torch.testing.assert_close(context, r[:, None] * prompts.x)


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_probe_of_features_that_are_raw_explains_little(attention, prompts, generator):
    model = Transformer(5, (1, 1), 7, 3, attention)
    weights = model.init(generator, torch.float64) | {"W_O.0": torch.zeros(1, 3, 7, dtype=torch.float64)}
    P = probing.probe(model, weights, prompts)
    assert 0 <= probing.fit(P, model, weights, prompts) < 0.5  # E[r] = 0: no fixed map gives R x
    zero = torch.zeros_like(P)
    assert probing.fit(zero, model, weights, prompts) == 0


def test_descent_on_the_constructions_features_is_preprocess_then_optimize(generator):
    prompts = TASK.sample(20, 11, generator=generator, queries=2, dtype=torch.float64)
    model, weights = preprocess_then_optimize_transformer(5, 2, 0.1)
    P = probing.probe(model, weights, prompts)
    steps = [0, 1, 7]
    w_hat = estimators.preprocess_then_optimize(prompts.x, prompts.y, steps)
    expected = (w_hat[:, :, None] * prompts.x_query).sum(-1)
    torch.testing.assert_close(probing.descent_on_features(P, model, weights, prompts, steps), expected)


def test_preconditioned_descent_by_special_cases(generator):
    prompts = TASK.sample(20, 11, generator=generator, dtype=torch.float64)
    plain = estimators.gradient_descent(prompts.x, prompts.y, 3)
    torch.testing.assert_close(probing.preconditioned_descent(prompts.x, prompts.y, 3, 0.0), plain)
    many = probing.preconditioned_descent(prompts.x, prompts.y, 10**9, 0.5)
    torch.testing.assert_close(many, estimators.ols(prompts.x, prompts.y))  # M is invertible


def test_distance_by_hand():
    w_hat = torch.tensor([[1.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
    assert probing.distance(w_hat, -2 * w_hat) == pytest.approx(0, abs=1e-6)
    assert probing.distance(w_hat, torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])) == pytest.approx(0.64)
    assert probing.distance(w_hat, torch.zeros(3, 2)) == 1
