"""Training: the same weights every time, alone or stacked, broken off or not; bad steps are left out."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from icl_lib import training
from icl_lib.attention_layer import AttentionLayer
from icl_lib.tasks import MultiTask, Prompts, Task, seeded
from icl_lib.training import CHUNK, PATIENCE, Runs, Training, TrainingDiverged, penalty, run, trimmed_mean
from icl_lib.transformer import Transformer

SMALL = dict(steps=40, n=(5, 11), batch=7, lr=3e-3, evaluate_every=8, evaluate_prompts=13)
LINEAR = Training(Task(3, 2), Transformer(3, (2, 1), D=5, k=2), **SMALL)
SOFTMAX = replace(LINEAR, model=replace(LINEAR.model, attention="softmax"), queries=2)
LAYER = Training(Task(3, 3), AttentionLayer(3, 2), queries=2, **SMALL)
MULTI = replace(LAYER, task=MultiTask(3, ((0, 1), (1, 2))), model=AttentionLayer(3, 2, tasks=2))
KINDS = pytest.mark.parametrize("base", [LINEAR, SOFTMAX, LAYER, MULTI])
EVERY_STEP = -1.0  # seconds between two saves


def same(one, two):
    """Whether two dicts of tensors are equal to the last bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def assert_same(models, others):
    for one, two in zip(models, others, strict=True):
        assert (one.settings, one.seed, one.skipped) == (two.settings, two.seed, two.skipped)
        for part in ("weights", "last", "history", "kept"):
            assert same(getattr(one, part), getattr(two, part))


def states_of(settings, seeds=(0,)):
    """Copies of the state after every step, and what the training ends with."""
    states = []

    def save(state):
        states.append({name: t.clone() for name, t in state.items()})

    return states, run(settings, seeds, save=save, save_every=EVERY_STEP)


@pytest.fixture
def seen(monkeypatch):
    """The prompts of every training step and of every look, as the model is given them."""
    seen, excess_risk = SimpleNamespace(steps=[], looks=[]), Transformer.excess_risk

    def recording(self, weights, task, prompts):
        (seen.steps if torch.is_grad_enabled() else seen.looks).append(prompts)
        return excess_risk(self, weights, task, prompts)

    monkeypatch.setattr(Transformer, "excess_risk", recording)
    return seen


@pytest.fixture
def spoil(monkeypatch):
    """A function that makes one row's loss or gradient non-finite at some steps of a training."""

    def spoil(row, steps, what="loss", value=math.nan):
        count, excess_risk = iter(range(10**6)), Transformer.excess_risk

        def spoiled(self, weights, task, prompts):
            risk = excess_risk(self, weights, task, prompts)
            if torch.is_grad_enabled() and next(count) in steps:
                spoiling = torch.zeros_like(risk)
                spoiling[row] = value
                if what == "loss":
                    return risk + spoiling  # the penalty of inf has a gradient of zero
                risk.register_hook(lambda gradient: gradient + spoiling)
            return risk

        monkeypatch.setattr(Transformer, "excess_risk", spoiled)

    return spoil


# The same weights every time.


@KINDS
def test_train_is_a_run_of_its_settings_and_gives_the_same_bits(base):
    options = {name: value for name, value in vars(base).items() if name not in ("task", "model")}
    assert_same(training.train(base.task, base.model, seeds=(0, 5), **options), run(base, (0, 5)))
    assert_same(training.train(base.task, base.model, **options), run(base, 1))  # one seed, 0
    with pytest.raises(TypeError, match="seed"):
        training.train(base.task, base.model, seed=1)


@KINDS
def test_model_does_not_depend_on_its_stack(base):
    heads = (3, 3) if isinstance(base.model, Transformer) else 3
    base = replace(base, model=replace(base.model, heads=heads), steps=100)
    stacked = run(base, (3, 0, 2))
    assert [model.seed for model in stacked] == [3, 0, 2]
    for model in stacked:
        (alone,) = run(base, (model.seed,))
        for part in ("weights", "last", "history"):
            torch.testing.assert_close(getattr(model, part), getattr(alone, part), atol=1e-5, rtol=1e-5)
        assert {name: tuple(w.shape) for name, w in model.weights.items()} == base.model.shapes()
    assert not same(stacked[0].last, stacked[1].last)


def test_models_learn():
    """The zero vector's risk is 1, and two layers reach a tenth of it."""
    task, model = Task(2, 1, sigma=0.1), Transformer(2, (2, 1), D=5, k=3)
    for found in training.train(task, model, seeds=3, n=(10, 20), steps=300, lr=1e-2, evaluate_every=50):
        assert found.history["risk"][-1] < 0.25


def test_runs_are_a_tuple_of_models_with_their_seeds():
    assert training.which(3) == (0, 1, 2)
    assert training.which([7, 2]) == training.which((7, 2)) == (7, 2)
    runs = run(replace(LINEAR, steps=2), (5, 2, 3))
    assert isinstance(runs, tuple)
    assert (len(runs), runs.settings) == (3, replace(LINEAR, steps=2))
    assert [model.seed for model in runs[1:]] == [2, 3]
    assert isinstance(runs[1:], Runs)
    assert runs[-1] is runs[2]
    stacked = runs.stacked()
    for name, weight in stacked.items():
        assert torch.equal(weight, torch.stack([model.weights[name].double() for model in runs]))
    assert stacked.keys() == runs[0].weights.keys()
    assert same(training.stack([model.weights for model in runs]), stacked)
    assert {weight.dtype for weight in stacked.values()} == {torch.float64}


def test_seeds_reach_everything(seen):
    """Initial weights, prompts and validation prompts differ between seeds, and are the same in one."""
    still = replace(LINEAR, steps=1, lr=0.0)
    one, two = run(still, (0, 1))
    (three,) = run(still, (0,))
    assert same(one.last, three.last)
    assert not any(torch.equal(one.last[name], two.last[name]) for name in one.last)
    for both, again in (seen.steps, seen.looks):
        assert not torch.equal(both.x[0], both.x[1])
        assert torch.equal(both.x[0], again.x[0])
    assert not torch.equal(seen.steps[0].x[0], seen.looks[0].x[0, : LINEAR.batch])


def test_prompts_are_fresh_and_of_the_lengths_asked_for(seen):
    run(LINEAR, (1, 2))
    x = torch.cat([prompts.x for prompts in seen.steps]).flatten(1)
    assert len(x) == 2 * LINEAR.steps
    assert len(x.unique(dim=0)) == len(x)
    lengths = torch.cat([prompts.n.flatten() for prompts in seen.steps])
    assert sorted(set(lengths.tolist())) == list(range(5, 12))
    assert seen.steps[0].x.shape == (2, 7, 11, 3)


# Going on from a saved state.


@pytest.mark.parametrize("at", [1, 8, 10, 15, 16, 17, 39, 40])
@pytest.mark.parametrize("changes", [{}, {"curriculum_mean": 3.0, "weight_decay": 0.1}])
def test_resumed_training_is_the_unbroken_one(at, changes, seen):
    """And it leaves the state alone."""
    settings = replace(LINEAR, **changes)
    states, unbroken = states_of(settings, (0, 4))
    before = {name: t.clone() for name, t in states[at - 1].items()}
    assert_same(run(settings, (0, 4), state=states[at - 1]), unbroken)
    assert same(states[at - 1], before)
    assert len(seen.steps) == LINEAR.steps + LINEAR.steps - at
    for again, first in zip(seen.steps[LINEAR.steps :], seen.steps[at : LINEAR.steps], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


@pytest.mark.parametrize(
    ("bad", "at", "in_a_row"), [({2, 5}, 20, 0), (range(2, PATIENCE + 2), PATIENCE + 2, PATIENCE)]
)
def test_resumed_training_remembers_skipped_steps(bad, at, in_a_row, spoil):
    """A row of bad steps that ends before the next check is forgiven, broken off within it or not."""
    settings = replace(LINEAR, steps=100, evaluate_every=100)
    spoil(0, bad)
    states, unbroken = states_of(settings)
    assert unbroken[0].skipped == len(bad)
    assert states[at - 1]["skipped_in_a_row"].item() == in_a_row
    assert_same(run(settings, 1, state=states[at - 1]), unbroken)


# The update.


@pytest.mark.parametrize("skipped", [set(), {0, 3, 4}])
@pytest.mark.parametrize("clip", [0.05, 100.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_update_is_adamw(weight_decay, clip, skipped, seen, spoil):
    """A plain loop with torch's AdamW, which is not called in skipped steps, ends with the same weights."""
    spoil(0, skipped)
    settings = replace(LINEAR, steps=20, lr=1e-2, weight_decay=weight_decay, clip=clip)
    (model,) = run(settings, 1)
    weights = settings.model.init(seeded(0, "init"))
    parameters = [w.requires_grad_() for w in weights.values()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=weight_decay)
    assert len(seen.steps) == 20
    for step, prompts in enumerate(list(seen.steps)):
        if step in skipped:
            continue
        optimizer.param_groups[0]["lr"] = training.learning_rate(settings, step)
        optimizer.zero_grad()
        row = Prompts(*(part[0] for part in prompts))
        risk = settings.model.excess_risk(weights, settings.task, row)
        penalty(settings, risk).mean().backward()
        norm = clip_grad_norm_(parameters, clip)
        assert (norm > clip) == (clip < 1)  # both cases are met
        optimizer.step()
    for name, weight in weights.items():
        torch.testing.assert_close(model.last[name], weight.detach(), atol=1e-6, rtol=0)
    assert model.skipped == len(skipped)


def test_learning_rate():
    def rates(steps, at, **changes):
        settings = replace(LINEAR, steps=steps, lr=2.0, **changes)
        return [training.learning_rate(settings, step) for step in at]

    assert rates(110, [0, 4, 10, 11]) == pytest.approx([2 / 11, 10 / 11, 2.0, 2.0])  # 11 steps of warm-up
    halfway, last = rates(100, [55, 99])
    assert halfway == pytest.approx(1.0)
    assert 0 < last < 1e-3
    assert rates(1, [0]) == [2.0]
    assert set(rates(100, range(100), schedule="constant")) == {2.0}


def test_penalty_is_the_risk_where_small_and_its_root_where_large():
    risk = torch.tensor([0.0, 3.0, 8.0, 24.0]).double()
    torch.testing.assert_close(penalty(LINEAR, risk), torch.tensor([0.0, 2.0, 4.0, 8.0]).double())
    wide = replace(LINEAR, delta=2.0)
    torch.testing.assert_close(penalty(wide, 4 * risk), torch.tensor([0.0, 8.0, 16.0, 32.0]).double())
    assert penalty(replace(LINEAR, loss="squared"), risk) is risk
    wider = replace(LINEAR, delta=3.0)
    small, error = torch.tensor([1e-7, 1e-5]).double(), torch.tensor([1e5, 2e5]).double()
    torch.testing.assert_close(penalty(wider, small), small, rtol=1e-6, atol=0)
    torch.testing.assert_close(penalty(wider, error.square()), 2 * 3.0 * error, rtol=1e-3, atol=0)


@pytest.mark.parametrize("loss", ["pseudo-huber", "squared"])
def test_loss_is_the_mean_penalty_of_the_prompts(loss, seen):
    settings = replace(LINEAR, steps=1, loss=loss, delta=0.5)
    (model,) = run(settings, 1)
    weights = settings.model.init(seeded(0, "init"))
    row = Prompts(*(part[0] for part in seen.steps[0]))
    expected = penalty(settings, settings.model.excess_risk(weights, settings.task, row)).mean()
    torch.testing.assert_close(model.history["loss"], expected[None])


def test_curriculum_follows_its_schedule(seen):
    """The weights' mean falls from 5 to the task's 1 over half of the 40 steps, and stays there."""
    settings = replace(LINEAR, task=Task(3, 3, mean=1.0), batch=400, curriculum_mean=5.0)
    run(replace(settings, curriculum_share=0.5), 1)
    means = [prompts.w.mean().item() for prompts in seen.steps]
    expected = [1.0 + 4.0 * max(0.0, 1 - step / 20) for step in range(40)]
    assert means == pytest.approx(expected, abs=0.15)  # 5 standard errors


# Starts and kept weights.


@KINDS
def test_training_goes_on_from_given_weights(base):
    first = run(base, 2)
    again = run(replace(base, lr=0.0), 2, starts=[model.last for model in first])
    assert all(same(model.last, start.last) for model, start in zip(again, first, strict=True))


@KINDS
def test_kept_weights_are_those_after_their_steps(base):
    """Before step 0, and after steps 15 and 31."""
    settings = replace(base, keep_every=16)
    states, runs = states_of(settings, (3, 1))
    for row, model in enumerate(runs):
        assert {len(kept) for kept in model.kept.values()} == {3}
        start = settings.model.init(seeded(model.seed, "init"))
        assert same({name: kept[0] for name, kept in model.kept.items()}, start)
        for index, step in ((1, 15), (2, 31)):
            kept = torch.cat([model.kept[name][index].flatten() for name in settings.model.shapes()])
            assert torch.equal(kept, states[step]["flat"][row])


# Looks at the validation prompts.


def test_trimmed_mean_by_hand():
    values = torch.arange(100.0)
    assert trimmed_mean(values).item() == pytest.approx(sum(range(99)) / 99)
    assert trimmed_mean(values[:99]).item() == 49.0  # a share below one prompt leaves none out
    rows = torch.tensor([[1.0, 1e9, 2.0, 3.0], [4.0, 4.0, 4.0, math.inf]])
    assert trimmed_mean(rows, 0.25).tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("steps", "every", "looks"),
    [(16, 8, [8, 16]), (20, 8, [8, 16, 20]), (17, 8, [8, 16, 17]), (3, 8, [3]), (2, 1, [1, 2])],
)
def test_history_has_every_look_and_a_last_partial_one(steps, every, looks):
    """The loss at a look is the mean since the one before."""
    (each,) = run(replace(LINEAR, steps=steps, evaluate_every=1), 1)
    (model,) = run(replace(LINEAR, steps=steps, evaluate_every=every), 1)
    assert model.history["step"].tolist() == looks
    losses = each.history["loss"].tensor_split(looks[:-1])
    torch.testing.assert_close(model.history["loss"], torch.stack([loss.mean() for loss in losses]))
    assert (model.history["loss"] > 0).all()
    assert model.history["risk"].shape == (len(looks),)
    assert (model.history["risk"] > 0).all()


def test_skipped_steps_do_not_count_in_the_mean_loss(spoil):
    still = replace(LINEAR, steps=16, lr=0.0)
    (each,) = run(replace(still, evaluate_every=1), 1)
    spoil(0, {0, *range(8, 16)})
    (model,) = run(still, 1)
    torch.testing.assert_close(model.history["loss"][0], each.history["loss"][1:8].mean())
    assert model.history["loss"][1].isnan()  # all of its steps were skipped


def test_best_weights_have_the_lowest_validation_risk(monkeypatch):
    """Of four looks the second is made the best: the weights of that step are kept beside the last."""
    settings = replace(LINEAR, steps=32, schedule="constant")
    (until_second,) = run(replace(settings, steps=16), 1)
    risks, excess_risk = [4.0, 1.0, 3.0, 2.0], Transformer.excess_risk
    staged = iter(risks)

    def staging(self, weights, task, prompts):
        risk = excess_risk(self, weights, task, prompts)
        return risk if torch.is_grad_enabled() else risk * 0 + next(staged)

    monkeypatch.setattr(Transformer, "excess_risk", staging)
    (model,) = run(settings, 1)
    assert model.history["risk"].tolist() == risks
    assert same(model.weights, until_second.last)
    assert not same(model.weights, model.last)


def test_risk_in_history_is_that_of_the_validation_prompts(seen):
    settings = replace(LINEAR, evaluate_prompts=211)
    (model,) = run(settings, 1)
    assert all(torch.equal(seen.looks[0].x, prompts.x) for prompts in seen.looks)
    validation = Prompts(*(part[0] for part in seen.looks[0]))
    assert len(validation.n) == 211
    risk = model.history["risk"]
    for weights, expected in ((model.weights, risk.min()), (model.last, risk[-1])):
        again = trimmed_mean(settings.model.excess_risk(weights, settings.task, validation))
        torch.testing.assert_close(again, expected)


# Steps that are not finite.


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_bad_steps_are_skipped_and_counted(what, value, spoil):
    clean = run(LINEAR, 3)
    spoil(1, {0, 7, 8, 9, 30}, what, value)
    spoiled = run(LINEAR, 3)
    assert [model.skipped for model in spoiled] == [0, 5, 0]
    assert_same([spoiled[0], spoiled[2]], [clean[0], clean[2]])
    for part in ("weights", "last", "history"):
        assert all(t.isfinite().all() for t in getattr(spoiled[1], part).values())
    assert not same(spoiled[1].last, clean[1].last)


def test_training_survives_fewer_bad_steps_in_a_row_than_the_patience(spoil):
    bad = set(range(1, PATIENCE)) | set(range(PATIENCE + 1, 2 * PATIENCE))
    spoil(0, bad)
    (model,) = run(replace(LINEAR, steps=2 * PATIENCE + CHUNK), 1)
    assert model.skipped == len(bad)


@pytest.mark.parametrize("steps", [PATIENCE + 2, 4 * PATIENCE])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_persistent_bad_steps_raise(steps, weight_decay, spoil):
    """At the end of the training at the latest, with the weights of the last good step, to the last bit."""
    settings = replace(LINEAR, schedule="constant", steps=steps, weight_decay=weight_decay)
    (until_then,) = run(replace(settings, steps=2), (4,))
    spoil(1, range(2, 10**6))
    with pytest.raises(TrainingDiverged, match="training diverged at step") as caught:
        run(settings, (0, 4, 2))
    error = caught.value
    assert (error.settings, error.seed) == (settings, 4)
    assert PATIENCE + 2 <= error.step <= min(steps, PATIENCE + 2 + CHUNK)
    assert same(error.weights, until_then.last)
    assert all(w.isfinite().all() for w in error.weights.values())
    for part in (f"step {error.step}", "seed 4", str(settings)):
        assert part in str(error)
