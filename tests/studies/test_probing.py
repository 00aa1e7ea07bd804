"""Probes of features: exact on the construction; descents that must agree with known ones."""

from dataclasses import replace

import pytest
import torch

from icl_book.studies import probing
from icl_lib import estimators
from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.tasks import Task, gram
from icl_lib.training import Runs, Trained, Training
from icl_lib.transformer import Transformer

TASK = Task(5, 2)


@pytest.fixture
def prompts(generator):
    return TASK.sample(50, (7, 13), seed=generator, queries=3, dtype=torch.float64)


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
    assert probing.fit(torch.zeros_like(P), model, weights, prompts) == 0


def test_preconditioned_descent_by_special_cases(generator):
    prompts = TASK.sample(20, 11, seed=generator, dtype=torch.float64)
    plain = estimators.gradient_descent(prompts.x, prompts.y, 3)
    torch.testing.assert_close(probing.preconditioned_descent(prompts.x, prompts.y, 3, 0.0), plain)
    many = probing.preconditioned_descent(prompts.x, prompts.y, 10**9, 0.5)
    torch.testing.assert_close(many, estimators.ols(prompts.x, prompts.y))  # M is invertible


def test_distance_by_hand():
    w_hat = torch.tensor([[1.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
    assert probing.distance(w_hat, -2 * w_hat) == pytest.approx(0, abs=1e-6)
    assert probing.distance(w_hat, torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])) == pytest.approx(0.64)
    assert probing.distance(w_hat, torch.zeros(3, 2)) == 1


def test_features_and_descents_on_them_in_both_forms(prompts, generator):
    model = Transformer(5, (2, 3), 7, 3, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    for layers in (0, 1, 2):
        asked = probing.features(model, weights, prompts, layers)[1]
        F = probing.feature_map(model, weights, prompts, layers)
        torch.testing.assert_close(prompts.x_query @ F, asked)
    prompts = TASK.sample(20, 11, seed=generator, queries=2, dtype=torch.float64)
    P = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    F, steps = probing.feature_map(model, weights, prompts) @ P, [0, 1, 7, 13]
    in_gram_form = prompts.x_query @ probing.descent_on(F, prompts.x, prompts.y, steps)[..., None]
    context, asked = (z @ P for z in probing.features(model, weights, prompts))
    in_token_form = asked @ estimators.gradient_descent(context, prompts.y, steps)[..., None]
    torch.testing.assert_close(in_gram_form, in_token_form)


def test_products_of_the_construction_are_one_a_head_and_group_size_counts_equal_terms():
    found = probing.products(preprocess_then_optimize_transformer(5, 2, 0.1)[1])
    torch.testing.assert_close(found, torch.eye(5).double().diag_embed())
    assert probing.group_size(found.diagonal(dim1=-2, dim2=-1)) == pytest.approx(1)
    assert probing.group_size(torch.tensor([[1.0, -1, 0], [0, 0, 0]])) == pytest.approx(2)
    assert probing.group_size(torch.tensor([[2.0, 0, 0], [0, 1, 1]])) == pytest.approx((4 * 1 + 2 * 2) / 6)


def test_products_are_the_part_of_the_features_that_is_linear_in_r(generator):
    model = Transformer(3, (2,), 7, 5, init_scale=1.0)
    weights = model.init(generator, torch.float64)
    found = probing.products(weights)
    for head in range(2):
        alone = {name: part[head : head + 1] if part.ndim == 3 else part for name, part in weights.items()}
        for i, j in ((0, 0), (0, 2), (2, 1)):
            G = torch.zeros(1, 4, 4, dtype=torch.float64)
            G[0, j, 3] = G[0, 3, j] = 1  # r = e_j and nothing else
            added = model.layer_output(alone, G, weights["W_in"][None], 0)[0, i]
            assert added.norm().item() == pytest.approx(found[head, i, j].item())


def of_construction(task, sigma):
    """The construction for a task, as if it were trained."""
    model, weights = preprocess_then_optimize_transformer(task.d, 1, sigma)
    settings = Training(task, model, n=(7, 13))
    return Runs([Trained(settings, 4, weights, last=weights, history={}, kept={}, skipped=0)])


def test_layers_of_the_construction_follow_their_algorithm():
    # With a small step the constant one and that of the prompt have the same direction after one step.
    runs = of_construction(TASK, 1e-6)
    frame = probing.followed(runs, 13, 50)
    assert set(frame.seed) == {4}
    assert set(frame.layer) == {1, 2}
    found = {algorithm: rows.sort_values("layer").distance for algorithm, rows in frame.groupby("algorithm")}
    others = {"gradient descent", "preconditioned descent", "ridge", "Bayes"}
    assert found.keys() == others | {"preprocess-then-optimize"}
    assert found["preprocess-then-optimize"].tolist() == pytest.approx([1, 0], abs=1e-9)
    assert all(found[name].iloc[1] > 0.01 for name in others)
    without = probing.followed(of_construction(Task(5, 2, weights="half-normal"), 1e-6), 13, 50)
    assert "Bayes" not in without.algorithm.unique()


def test_descents_on_features_are_those_of_each_model(generator):
    runs, steps = of_construction(TASK, 0.1), [1, 3]
    other = Transformer(5, (2, 3), 7, 3, init_scale=1.0)
    weights = other.init(generator, torch.float64)
    control = Runs([replace(runs[0], settings=Training(TASK, other), seed=1, weights=weights)])
    drawn = TASK.sample(20, 13, seed=generator, dtype=torch.float64)
    frame = probing.descents(runs, control, drawn, steps)
    whole, one = (probing.feature_map(m.settings.model, m.weights, drawn) for m in (runs[0], control[0]))
    ideal = estimators.preprocess_then_optimize(drawn.x, drawn.y, steps)
    expected = {
        "gradient descent": estimators.gradient_descent(drawn.x, drawn.y, steps),
        "preprocess-then-optimize": ideal,
        "probed": ideal,  # the construction's features hold the ideal ones
        "whole": probing.descent_on(whole, drawn.x, drawn.y, steps),
        "control": probing.descent_on(one, drawn.x, drawn.y, steps),
    }
    assert set(frame.seed) == {4}
    assert set(frame.method) == {*expected, "trained"}
    own = runs[0].excess_risk(TASK, drawn).mean().item()
    assert frame[frame.method == "trained"].risk.tolist() == pytest.approx([own, own])
    for method, w_hat in expected.items():
        rows = frame[frame.method == method]
        assert rows["T"].tolist() == steps
        risk = TASK.excess_risk(w_hat, drawn.w).mean(-1)  # nothing to trim
        assert rows.risk.tolist() == pytest.approx(risk.tolist())


def test_explained_is_all_for_the_construction_and_little_for_raw_covariates():
    found = probing.explained(of_construction(TASK, 0.1))
    assert found.seed.tolist() == [4]
    assert found[["r2", "white"]].to_numpy() == pytest.approx(1, abs=1e-9)
    assert abs(found.raw.item()) < 0.1  # E[r] = 0: no fixed map gives R x


def test_probe_prompts_are_two_sets_of_the_lengths_of_training():
    fitting, testing = probing.probe_prompts(Training(TASK, Transformer(5, (1,), 7), (7, 13)))
    assert fitting.x.shape == testing.x.shape
    assert not torch.equal(fitting.x, testing.x)
    assert (int(fitting.n.min()), int(fitting.n.max())) == (7, 13)


def test_whitened_prompts_have_covariance_one(prompts):
    white = probing.whitened(prompts)
    S = gram(white)[:, :5, :5]
    torch.testing.assert_close(S, torch.eye(5, dtype=torch.float64).expand_as(S))
    noise, same = (p.y - (p.x @ p.w[..., None])[..., 0] for p in (prompts, white))
    torch.testing.assert_close(same, noise)
    with pytest.raises(ValueError, match=r"whitened = [34]: allowed is an integer >= 5"):
        probing.whitened(TASK.sample(2, (3, 9), seed=torch.Generator().manual_seed(1)))
    # The symmetric root: white prompts stay as they are.
    torch.testing.assert_close(probing.whitened(white).x, white.x)
