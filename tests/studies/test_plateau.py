"""Heads added to a model: nothing at zero, preprocessing by hand; slopes by differences; times of leaving."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from icl_book.studies import plateau
from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.tasks import Prompts, Task, gram, seeded
from icl_lib.training import Runs, Trained, Training, run
from icl_lib.transformer import Transformer

TASK = Task(3, 2, sigma=0.5, weights="half-normal")
MODEL = Transformer(3, (2, 1, 2), 7, 5, init_scale=1.0)
SETTINGS = Training(task=TASK, model=MODEL, n=(11, 13))


@pytest.fixture
def prompts(generator) -> Prompts:
    return TASK.sample(17, (11, 13), seed=generator, queries=2, dtype=torch.float64)


@pytest.fixture
def weights(generator):
    return MODEL.init(generator, torch.float64)


@pytest.fixture
def extended(request, weights):
    return plateau.with_preprocessing_heads(MODEL, weights, apart=getattr(request, "param", False))


in_place_and_apart = pytest.mark.parametrize("extended", [False, True], indirect=True)


def correlations(prompts):
    return (prompts.x * prompts.y[..., None]).sum(-2) / prompts.n[:, None]  # (B, d)


@in_place_and_apart
def test_added_heads_that_write_nothing_change_nothing(extended, weights, prompts):
    assert extended.model.shapes() == {name: W.shape for name, W in extended.weights.items()}
    predicted = extended.model.predict(extended.weights, prompts)
    torch.testing.assert_close(predicted, MODEL.predict(weights, prompts))
    silent = plateau.along(extended, 0 * extended.place)
    w_hat = extended.model.effective_weights(silent, gram(prompts))
    torch.testing.assert_close(w_hat, MODEL.effective_weights(weights, gram(prompts)))


def test_in_place_the_later_layers_see_preprocessed_covariates(extended, weights, prompts):
    assert extended.model.heads == (5, 1, 2)
    writing = plateau.along(extended, 0.3 * extended.place)
    r = correlations(prompts)
    x = torch.cat([prompts.x, prompts.x_query], 1)
    expected = MODEL.token_stream(weights, prompts, 1) + 0.3 * (r[:, None] * x) @ weights["W_in"][:-1]
    torch.testing.assert_close(extended.model.token_stream(writing, prompts, 1), expected)
    # Without old heads in layer 1, the later layers are fed (1 + epsilon r_j) x_j itself.
    writing["W_O.0"][:2] = 0
    scale = (1 + 0.3 * r)[:, None]
    fed = prompts._replace(x=prompts.x * scale, x_query=prompts.x_query * scale)
    kept = [name for name in weights if "0" not in name]
    later = {name.replace(".1", ".0").replace(".2", ".1"): weights[name] for name in kept}
    expected = replace(MODEL, heads=(1, 2)).predict(later, fed)
    torch.testing.assert_close(extended.model.predict(writing, prompts), expected)


def test_apart_copies_of_later_heads_compare_the_preprocessed_covariates(weights, prompts):
    model = replace(MODEL, heads=(2, 1))
    weights = {name: W for name, W in weights.items() if "2" not in name}
    extended = plateau.with_preprocessing_heads(model, weights, apart=True)
    assert (extended.model.heads, extended.model.D) == ((5, 2), 10)
    writing = plateau.along(extended, 0.3 * extended.place)
    x = torch.cat([prompts.x, prompts.x_query], 1)
    seen = 0.3 * (correlations(prompts)[:, None] * x) @ weights["W_in"][:-1]  # as x would be seen
    z, n = model.token_stream(weights, prompts, 1), prompts.x.shape[1]
    W_Q, W_K, W_V, W_O = (weights[f"W_{name}.1"][0] for name in "QKVO")
    scores = sum((u @ W_Q) @ (u[:, :n] @ W_K).mT for u in (z, seen)) / prompts.n[:, None, None]
    expected = (z + scores @ (z[:, :n] @ W_V) @ W_O) @ weights["w_out"]
    torch.testing.assert_close(extended.model.read_tokens(writing, prompts), expected)


@in_place_and_apart
def test_slope_and_curvature_are_those_of_finite_differences(extended, prompts):
    low, middle, high = plateau.curve(SETTINGS, extended, prompts, (-1e-4, 0, 1e-4)).mean(-1).tolist()
    slope, curvature = plateau.slope_and_curvature(SETTINGS, extended, prompts)
    assert slope == pytest.approx((high - low) / 2e-4, rel=1e-5, abs=1e-7)
    assert curvature == pytest.approx((high - 2 * middle + low) / 1e-8, rel=1e-4)
    assert (extended.model.D > MODEL.D) == (slope == 0)  # written apart, what matters is epsilon^2


def test_gradient_norm_and_its_error(extended, prompts):
    expected = torch.zeros(3, 7, dtype=torch.float64)
    for place in np.ndindex(3, 7):
        step = torch.zeros_like(expected)
        step[place] = 1e-5
        high, low = (plateau.losses(SETTINGS, extended, prompts, sign * step).mean() for sign in (1, -1))
        expected[place] = (high - low) / 2e-5
    norm, error = plateau.gradient_norm(SETTINGS, extended, prompts, parts=5)
    assert norm == pytest.approx(expected.norm().item(), rel=1e-6)
    alike = Prompts(*(part[:1].expand(6, *part.shape[1:]) for part in prompts))
    assert plateau.gradient_norm(SETTINGS, extended, alike, parts=3)[1] == pytest.approx(0, abs=1e-12)
    assert error > 0


def test_tame_leaves_out_the_prompts_that_are_worst_anywhere(extended, prompts):
    curves = torch.zeros(3, 17)
    curves[0, 4], curves[2, 9], curves[1, 5] = 7.0, torch.nan, 1.0
    tamed, kept = plateau.tame(curves, prompts, trim=2 / 17)
    expected = [prompt for prompt in range(17) if prompt not in (4, 9)]
    torch.testing.assert_close(kept.y, prompts.y[expected])
    torch.testing.assert_close(tamed, curves[:, expected])
    assert plateau.curve(SETTINGS, extended, prompts, (-0.1, 0.0)).shape == (2, 17)


def test_landscape_is_made_of_its_parts(extended, weights, prompts):
    trained, grid = Trained(SETTINGS, 0, weights, weights, {}, {}, 0), (-0.1, 0.0, 0.2)
    found = plateau.landscape(trained, prompts, grid)  # of 17 prompts 1% are none
    loss = plateau.curve(SETTINGS, extended, prompts, grid).mean(-1)
    assert found.epsilon == list(grid)
    np.testing.assert_allclose(found.change, loss - loss[1], atol=1e-12)
    assert (found.slope, found.curvature) == plateau.slope_and_curvature(SETTINGS, extended, prompts)
    assert found.curvature_all == found.curvature
    assert (found.gradient, found.error) == plateau.gradient_norm(SETTINGS, extended, prompts)


def test_landscapes_are_those_of_the_models_on_prompts_of_their_own():
    settings, grid = replace(SETTINGS, steps=3, batch=2), (-0.1, 0.0)
    runs, symmetric = run(settings, (4, 1)), replace(TASK, weights="gaussian")
    frame = plateau.landscapes({"a": runs}, "law", grid, 19, apart=True, weights="gaussian")
    assert list(frame.columns) == ["law", "seed", *plateau.Landscape._fields]
    for row, model in zip(frame.itertuples(index=False, name=None), runs, strict=True):
        drawn = symmetric.sample(19, settings.n, seeded(model.seed, "plateau"), dtype=torch.float64)
        assert row == ("a", model.seed, *plateau.landscape(model, drawn, grid, apart=True))


def test_histories_have_a_row_a_look():
    settings = replace(SETTINGS, steps=5, batch=2, evaluate_every=2, evaluate_prompts=7)
    runs = run(settings, (4, 1))
    frame = plateau.histories({("a", 3): runs}, ["law", "H"])
    assert list(frame.columns) == ["law", "H", "seed", "step", "risk"]
    assert frame.step.tolist() == 2 * [2, 4, 5]
    assert frame.seed.tolist() == 3 * [4] + 3 * [1]
    assert frame.risk.tolist() == [risk for model in runs for risk in model.history["risk"].tolist()]
    assert set(zip(frame.law, frame.H, strict=True)) == {("a", 3)}


def test_effective_heads_of_the_kept_weights():
    model, weights = preprocess_then_optimize_transformer(3, 3, 0.1)
    one = weights | {"W_O.0": weights["W_O.0"] * torch.tensor([1.0, 0.0, 0.0])[:, None, None]}
    kept = {name: torch.stack([one[name], weights[name], one[name]]).float() for name in weights}
    settings = Training(task=Task(3, 1), model=model, n=13, keep_every=20)
    frame = plateau.effective_heads(Runs([Trained(settings, 5, weights, weights, {}, kept, 0)]), 13, 500)
    assert frame[["seed", "step"]].values.tolist() == [[5, 20], [5, 40]]
    every, single = frame.effective
    assert 2.5 < every <= 3
    assert single == pytest.approx(1)


def test_too_narrow_a_stream_is_refused(generator):
    model = Transformer(3, (1,), 3, 2)
    with pytest.raises(ValueError, match="D = 3: allowed is d \\+ 1 = 4 or more"):
        plateau.with_preprocessing_heads(model, model.init(generator))


def test_values_stay_below_a_mark_from_the_last_that_is_not_on():
    def stays(values, mark):
        return plateau.stays_below(pd.Series(values), mark).tolist()

    assert stays([1, 0.8, 1, 0.85, 0.7], 0.9) == [False, False, False, True, True]  # the dip does not stay
    assert stays([0.5, 0.5], 0.9) == [True, True]
    assert stays([1, 0.95, 0.91], 0.9) == [False, False, False]
    assert stays([0.5, np.nan], 0.9) == [False, False]


def test_a_share_has_its_exact_interval():
    assert plateau.exact_share([1, 0, 1, 1]).mean == 0.75
    everyone = plateau.exact_share([1, 1])
    assert everyone.high == 1
    assert everyone.low == pytest.approx(np.sqrt(0.025))  # p^2 = 2.5%
