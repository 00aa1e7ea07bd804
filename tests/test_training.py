"""Training: the same weights every time, alone or stacked, broken off or not; bad steps are left out."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from icl_lib import packing
from icl_lib.attention_layer import AttentionLayer
from icl_lib.settings import Training, learning_rate, penalty
from icl_lib.tasks import MultiTask, Prompts, Task
from icl_lib.training import CHUNK, PATIENCE, TrainingDiverged, seeded, train, trimmed_mean
from icl_lib.transformer import Transformer

SMALL = dict(n=(5, 11), batch=7, lr=3e-3, evaluate_every=8, evaluate_prompts=13)
LINEAR = Training(task=Task(3, 2), model=Transformer(3, (2, 1), D=5, k=2), steps=40, **SMALL)
SOFTMAX = replace(LINEAR, model=replace(LINEAR.model, attention="softmax"), queries=2)
LAYER = Training(task=Task(3, 3), model=AttentionLayer(3, 2), queries=2, steps=40, **SMALL)
MULTI = replace(LAYER, task=MultiTask(3, ((0, 1), (1, 2))), model=AttentionLayer(3, 2, tasks=2))
KINDS = pytest.mark.parametrize("base", [LINEAR, SOFTMAX, LAYER, MULTI])
EVERY_STEP = -1.0  # seconds between two saves


def same(one, two):
    """Whether two dicts of tensors are equal to the last bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def same_models(ones, twos):
    return all(
        one.settings == two.settings
        and same(one.weights, two.weights)
        and same(one.last, two.last)
        and same(one.history, two.history)
        and same(one.kept, two.kept)
        and one.skipped == two.skipped
        for one, two in zip(ones, twos, strict=True)
    )


def with_heads(base, heads):
    """Settings with this many heads in every layer."""
    layered = isinstance(base.model, Transformer)
    return replace(base, model=replace(base.model, heads=(heads,) * 2 if layered else heads))


def states_of(members):
    """Copies of the state after every step, and what the training ends with."""
    states = []
    models = train(
        members,
        save=lambda state: states.append({name: t.clone() for name, t in state.items()}),
        save_every=EVERY_STEP,
    )
    return states, models


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
def test_same_settings_give_the_same_bits(base):
    members = [base, replace(base, seed=5)]
    assert same_models(train(members), train(members))


@KINDS
def test_member_does_not_depend_on_its_stack(base):
    base = replace(base, steps=100)
    members = [
        replace(with_heads(base, heads), seed=seed) for heads, seed in [(2, 3), (3, 3), (1, 3), (2, 0)]
    ]
    stacked = train(members)
    for member, model in zip(members, stacked, strict=True):
        (alone,) = train([member])
        for part in ("weights", "last", "history"):
            torch.testing.assert_close(getattr(model, part), getattr(alone, part), atol=1e-5, rtol=1e-5)
        assert {name: tuple(w.shape) for name, w in model.weights.items()} == member.model.shapes()
    assert not same(stacked[0].last, stacked[3].last)


@KINDS
def test_padding_stays_zero(base):
    base = replace(base, weight_decay=0.1, clip=100.0)
    members = [with_heads(base, heads) for heads in (3, 1)]
    shapes = packing.widest([m.model for m in members]).shapes()
    narrow = {name: torch.ones(shape) for name, shape in members[1].model.shapes().items()}
    padding = packing.pack(narrow, shapes) == 0
    assert padding.any()
    states, _ = states_of(members)
    assert len(states) == base.steps
    for state in states:
        for name in ("flat", "best", "momentum", "square"):
            assert (state[name][1, padding] == 0).all()
            assert (state[name][0, padding] != 0).any() or name == "best"


def test_members_learn():
    """The zero vector's risk is 1, and two layers reach a tenth of it."""
    settings = Training(
        task=Task(2, 1, sigma=0.1),
        model=Transformer(2, (2, 1), D=5, k=3),
        n=(10, 20),
        steps=300,
        lr=1e-2,
        evaluate_every=50,
    )
    for model in train([replace(settings, seed=seed) for seed in (0, 1, 2)]):
        assert model.history["risk"][-1] < 0.25


def test_seeds_reach_everything(seen):
    """Initial weights, prompts and validation prompts differ between seeds, and are the same in one."""
    one, two, three = train([replace(LINEAR, steps=1, lr=0.0, seed=seed) for seed in (0, 1, 0)])
    for name in one.last:
        assert not torch.equal(one.last[name], two.last[name])
        assert torch.equal(one.last[name], three.last[name])
    for prompts in (*seen.steps, *seen.looks):
        assert not torch.equal(prompts.x[0], prompts.x[1])
        assert torch.equal(prompts.x[0], prompts.x[2])
    assert not torch.equal(seen.steps[0].x[0], seen.looks[0].x[0, : LINEAR.batch])


def test_seeded_streams_are_told_apart():
    draws = [torch.rand(1, generator=seeded(*names)).item() for names in [(1, 23), (12, 3), (1, "a"), (1,)]]
    assert len(set(draws)) == len(draws)
    assert torch.rand(1, generator=seeded(1, 23)).item() == draws[0]


def test_prompts_are_fresh_and_of_the_lengths_asked_for(seen):
    train([replace(LINEAR, seed=1), replace(LINEAR, seed=2)])
    x = torch.cat([prompts.x for prompts in seen.steps]).flatten(1)
    assert len(x) == 2 * LINEAR.steps
    assert len(x.unique(dim=0)) == len(x)
    lengths = torch.cat([prompts.n.flatten() for prompts in seen.steps])
    assert sorted(set(lengths.tolist())) == list(range(5, 12))
    assert seen.steps[0].x.shape == (2, 7, 11, 3)


# Going on from a saved state.


@pytest.mark.parametrize("at", [1, 8, 15, 16, 17, 39, 40])
@pytest.mark.parametrize("changes", [{}, {"curriculum_mean": 3.0, "weight_decay": 0.1}])
def test_resumed_training_is_the_unbroken_one(at, changes, seen):
    members = [replace(LINEAR, **changes), replace(with_heads(LINEAR, 3), seed=4, **changes)]
    states, unbroken = states_of(members)
    assert same_models(train(members, state=states[at - 1]), unbroken)
    assert len(seen.steps) == LINEAR.steps + LINEAR.steps - at
    for again, before in zip(seen.steps[LINEAR.steps :], seen.steps[at : LINEAR.steps], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(again, before, strict=True))


def test_resuming_leaves_the_state_alone():
    states, _ = states_of([LINEAR])
    before = {name: t.clone() for name, t in states[9].items()}
    train([LINEAR], state=states[9])
    assert same(states[9], before)


def test_resumed_training_remembers_skipped_steps(spoil):
    spoil(0, {2, 5})
    states, unbroken = states_of([LINEAR])
    assert unbroken[0].skipped == 2
    assert same_models(train([LINEAR], state=states[19]), unbroken)


# The update.


@pytest.mark.parametrize("skipped", [set(), {0, 3, 4}])
@pytest.mark.parametrize("clip", [0.05, 100.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_update_is_adamw(weight_decay, clip, skipped, seen, spoil):
    """A plain loop with torch's AdamW, which is not called in skipped steps, ends with the same weights."""
    spoil(0, skipped)
    settings = replace(LINEAR, steps=20, lr=1e-2, weight_decay=weight_decay, clip=clip)
    (model,) = train([settings])
    weights = settings.model.init(seeded(settings.seed, "init"))
    parameters = [w.requires_grad_() for w in weights.values()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=weight_decay)
    for step, prompts in enumerate(list(seen.steps)):
        if step in skipped:
            continue
        optimizer.param_groups[0]["lr"] = learning_rate(settings, step)
        optimizer.zero_grad()
        row = Prompts(*(part[0] for part in prompts))
        risk = settings.model.excess_risk(weights, settings.task, row)
        penalty(settings, risk).mean().backward()
        norm = clip_grad_norm_(parameters, clip)
        assert (norm > clip) == (clip < 1)  # both cases are met
        optimizer.step()
    assert step == 19
    for name, weight in weights.items():
        torch.testing.assert_close(model.last[name], weight.detach(), atol=1e-6, rtol=0)
    assert model.skipped == len(skipped)


def test_learning_rate():
    cosine = replace(LINEAR, steps=110, lr=2.0)
    expected = {0: 2 / 11, 4: 10 / 11, 10: 2.0, 11: 2.0}  # 11 steps of warm-up
    assert {step: learning_rate(cosine, step) for step in expected} == pytest.approx(expected)
    halfway = replace(LINEAR, steps=100, lr=2.0)
    assert learning_rate(halfway, 55) == pytest.approx(1.0)
    assert 0 < learning_rate(halfway, 99) < 1e-3
    assert [learning_rate(replace(LINEAR, steps=1, lr=2.0), 0)] == [2.0]
    constant = replace(LINEAR, steps=100, lr=2.0, schedule="constant")
    assert {learning_rate(constant, step) for step in range(100)} == {2.0}


def test_penalty_by_hand():
    risk = torch.tensor([0.0, 3.0, 8.0, 24.0]).double()
    torch.testing.assert_close(penalty(LINEAR, risk), torch.tensor([0.0, 2.0, 4.0, 8.0]).double())
    wide = replace(LINEAR, delta=2.0)
    torch.testing.assert_close(penalty(wide, 4 * risk), torch.tensor([0.0, 8.0, 16.0, 32.0]).double())
    assert penalty(replace(LINEAR, loss="squared"), risk) is risk


def test_penalty_is_the_risk_where_small_and_its_root_where_large():
    settings = replace(LINEAR, delta=3.0)
    small = torch.tensor([1e-7, 1e-5]).double()
    torch.testing.assert_close(penalty(settings, small), small, rtol=1e-6, atol=0)
    error = torch.tensor([1e5, 2e5]).double()
    torch.testing.assert_close(penalty(settings, error.square()), 2 * 3.0 * error, rtol=1e-3, atol=0)


@pytest.mark.parametrize("loss", ["pseudo-huber", "squared"])
def test_loss_is_the_mean_penalty_of_the_prompts(loss, seen):
    settings = replace(LINEAR, steps=1, loss=loss, delta=0.5)
    (model,) = train([settings])
    weights = settings.model.init(seeded(settings.seed, "init"))
    row = Prompts(*(part[0] for part in seen.steps[0]))
    expected = penalty(settings, settings.model.excess_risk(weights, settings.task, row)).mean()
    torch.testing.assert_close(model.history["loss"], expected[None])


def test_curriculum_follows_its_schedule(seen):
    """The weights' mean falls from 5 to the task's 1 over half of the 40 steps, and stays there."""
    settings = replace(LINEAR, task=Task(3, 3, mean=1.0), batch=400, curriculum_mean=5.0)
    train([replace(settings, curriculum_share=0.5)])
    means = [prompts.w.mean().item() for prompts in seen.steps]
    expected = [1.0 + 4.0 * max(0.0, 1 - step / 20) for step in range(40)]
    assert means == pytest.approx(expected, abs=0.15)  # 5 standard errors


# Looks at the validation prompts.


# Starts and kept weights.


@KINDS
def test_training_goes_on_from_given_weights(base):
    first = train([base, replace(base, seed=1)])
    still = replace(base, lr=0.0)
    again = train([still, replace(still, seed=1)], starts=[model.last for model in first])
    for model, start in zip(again, first, strict=True):
        assert same(model.last, start.last)


def test_bad_starts():
    with pytest.raises(ValueError, match=r"W_Q.0 of a start.*\(2, 5, 2\)"):
        train([LINEAR], starts=[with_heads(LINEAR, 1).model.init(seeded(0))])
    with pytest.raises(ValueError, match="0 starts: allowed are as many as members, 1"):
        train([LINEAR], starts=[])


@KINDS
def test_kept_weights_are_those_after_their_steps(base):
    few, many = with_heads(base, 1), with_heads(base, 2)
    states, models = states_of([replace(settings, keep_every=16) for settings in (few, many)])
    for settings, model, row in zip((few, many), models, (0, 1), strict=True):
        start = settings.model.init(seeded(settings.seed, "init"))
        assert {len(kept) for kept in model.kept.values()} == {3}  # before step 0, after steps 15 and 31
        assert same({name: kept[0] for name, kept in model.kept.items()}, start)
        shapes = packing.widest([few.model, many.model]).shapes()
        for index, step in ((1, 15), (2, 31)):
            after = packing.unpack(states[step]["flat"][row], shapes)
            assert same(
                {name: kept[index] for name, kept in model.kept.items()},
                packing.strip(after, settings.model.shapes()),
            )


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
    (model,) = train([replace(LINEAR, steps=steps, evaluate_every=every)])
    assert model.history["step"].tolist() == looks
    assert model.history["loss"].shape == model.history["risk"].shape == (len(looks),)
    assert (model.history["loss"] > 0).all()
    assert (model.history["risk"] > 0).all()


def test_loss_in_history_is_the_mean_since_the_look_before():
    (each,) = train([replace(LINEAR, steps=20, evaluate_every=1)])
    (some,) = train([replace(LINEAR, steps=20, evaluate_every=8)])
    loss = each.history["loss"]
    expected = torch.stack([loss[:8].mean(), loss[8:16].mean(), loss[16:].mean()])
    torch.testing.assert_close(some.history["loss"], expected)


def test_skipped_steps_do_not_count_in_the_mean_loss(spoil):
    still = replace(LINEAR, steps=16, lr=0.0)
    (each,) = train([replace(still, evaluate_every=1)])
    spoil(0, {0, *range(8, 16)})
    (model,) = train([still])
    torch.testing.assert_close(model.history["loss"][0], each.history["loss"][1:8].mean())
    assert model.history["loss"][1].isnan()  # all of its steps were skipped


def test_best_weights_have_the_lowest_validation_risk(monkeypatch):
    """Of four looks the second is made the best: the weights of that step are kept beside the last."""
    settings = replace(LINEAR, steps=32, schedule="constant")
    (until_second,) = train([replace(settings, steps=16)])
    looks, excess_risk = [], Transformer.excess_risk

    def staged(self, weights, task, prompts):
        risk = excess_risk(self, weights, task, prompts)
        if torch.is_grad_enabled():
            return risk
        looks.append(risk * 0 + [4.0, 1.0, 3.0, 2.0][len(looks)])
        return looks[-1]

    monkeypatch.setattr(Transformer, "excess_risk", staged)
    (model,) = train([settings])
    assert model.history["risk"].tolist() == [4.0, 1.0, 3.0, 2.0]
    assert same(model.weights, until_second.last)
    assert not same(model.weights, model.last)


def test_risk_in_history_is_that_of_the_validation_prompts(seen):
    settings = replace(LINEAR, evaluate_prompts=211)
    (model,) = train([settings])
    assert all(torch.equal(seen.looks[0].x, prompts.x) for prompts in seen.looks)
    validation = Prompts(*(part[0] for part in seen.looks[0]))
    assert len(validation.n) == 211
    for weights, risk in [
        (model.weights, model.history["risk"].min()),
        (model.last, model.history["risk"][-1]),
    ]:
        again = trimmed_mean(settings.model.excess_risk(weights, settings.task, validation))
        torch.testing.assert_close(again, risk)


# Steps that are not finite.


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_bad_steps_are_skipped_and_counted(what, value, spoil):
    members = [replace(LINEAR, seed=seed) for seed in (0, 1, 2)]
    clean = train(members)
    spoil(1, {0, 7, 8, 9, 30}, what, value)
    spoiled = train(members)
    assert [model.skipped for model in spoiled] == [0, 5, 0]
    assert same_models([spoiled[0], spoiled[2]], [clean[0], clean[2]])
    for part in ("weights", "last", "history"):
        assert all(t.isfinite().all() for t in getattr(spoiled[1], part).values())
    assert not same(spoiled[1].last, clean[1].last)


def test_a_skipped_step_leaves_the_weights_as_they_were(spoil):
    settings = replace(LINEAR, schedule="constant", weight_decay=0.1)
    (shorter,) = train([replace(settings, steps=15)])
    spoil(0, range(15, 20))
    (model,) = train([replace(settings, steps=20)])
    assert same(model.last, shorter.last)
    assert model.skipped == 5


def test_training_survives_fewer_bad_steps_in_a_row_than_the_patience(spoil):
    bad = set(range(1, PATIENCE)) | set(range(PATIENCE + 1, 2 * PATIENCE))
    spoil(0, bad)
    (model,) = train([replace(LINEAR, steps=2 * PATIENCE + CHUNK)])
    assert model.skipped == len(bad)


@pytest.mark.parametrize("steps", [PATIENCE + 2, 4 * PATIENCE])
def test_persistent_bad_steps_raise(steps, spoil):
    """At the end of the training at the latest, with the weights of the last good step."""
    settings = replace(LINEAR, schedule="constant")
    (until_then,) = train([replace(settings, steps=2, seed=1)])
    members = [replace(settings, steps=steps, seed=seed) for seed in (0, 1, 2)]
    spoil(1, range(2, 10**6))
    with pytest.raises(TrainingDiverged, match="training diverged at step") as caught:
        train(members)
    error = caught.value
    assert error.settings == members[1]
    assert PATIENCE + 2 <= error.step <= min(steps, PATIENCE + 2 + CHUNK)
    assert same(error.weights, until_then.last)
    assert all(w.isfinite().all() for w in error.weights.values())
    assert f"step {error.step}" in str(error)
    assert str(members[1]) in str(error)


def test_absurd_learning_rate_diverges():
    settings = replace(LINEAR, steps=4 * PATIENCE, lr=1e30, loss="squared")
    with pytest.raises(TrainingDiverged) as caught:
        train([settings])
    assert all(w.isfinite().all() for w in caught.value.weights.values())


def test_resumed_training_diverges_where_the_unbroken_one_does(spoil):
    """A row of bad steps that ends before the next check is forgiven, broken off within it or not."""
    settings = replace(LINEAR, steps=100)
    bad = range(2, PATIENCE + 2)
    assert len(bad) == PATIENCE
    spoil(0, bad)
    states, unbroken = states_of([settings])
    assert states[PATIENCE + 1]["skipped_in_a_row"].item() == PATIENCE
    assert same(train([settings], state=states[PATIENCE + 1])[0].last, unbroken[0].last)


# Bad input.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps = 0: allowed is an integer >= 1"),
        ({"batch": -3}, "batch = -3: allowed is an integer >= 1"),
        ({"queries": 0}, "queries = 0: allowed is an integer >= 1"),
        ({"n": (5, 3)}, "n = 3: allowed is an integer >= 5"),
        ({"n": (0, 3)}, "n = 0: allowed is an integer >= 1"),
        ({"lr": -0.1}, "lr = -0.1: allowed is a number >= 0"),
        ({"lr": math.nan}, "lr = nan: allowed is a number >= 0"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0: allowed is a number >= 0"),
        ({"clip": 0.0}, "clip = 0.0: allowed is a number >= 1e-06"),
        ({"delta": 0.0}, "delta = 0.0: allowed is a number >= 1e-06"),
        ({"schedule": "linear"}, "schedule = 'linear': allowed is 'cosine' or 'constant'"),
        ({"loss": "huber"}, "loss = 'huber': allowed is 'pseudo-huber' or 'squared'"),
        ({"seed": -1}, "seed = -1: allowed is an integer >= 0"),
        ({"evaluate_every": 0}, "evaluate_every = 0: allowed is an integer >= 1"),
        ({"evaluate_prompts": 0}, "evaluate_prompts = 0: allowed is an integer >= 1"),
        ({"curriculum_mean": math.nan}, "curriculum_mean = nan: allowed is a number"),
        ({"curriculum_share": 0.0}, "curriculum_share = 0.0: allowed is a number from 1e-06 to 1"),
        ({"curriculum_share": 1.5}, "curriculum_share = 1.5: allowed is a number from 1e-06 to 1"),
        ({"task": Task(5, 2)}, "model.d = 3: allowed is task.d = 5"),
        ({"task": MultiTask(3, ((0, 1), (1, 2)))}, "model = Transformer.* allowed is one that predicts 2"),
        ({"model": AttentionLayer(3, tasks=2)}, "model = AttentionLayer.* allowed is one that predicts 1"),
        (
            {"task": Task(3, 2, weights="rademacher"), "curriculum_mean": 1.0},
            "curriculum_mean = 1.0: allowed is 0 but for gaussian weights",
        ),
    ],
)
def test_bad_settings_are_one_clear_line(changes, message):
    """Raised when the settings are made, and so before any computing."""
    with pytest.raises(ValueError, match=message) as caught:
        replace(LINEAR, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [lambda: AttentionLayer(3, 0), lambda: Transformer(3, (2, 0), D=4)])
def test_no_heads(model):
    with pytest.raises(ValueError, match="heads = 0: allowed is an integer >= 1"):
        replace(LINEAR, model=model())


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 1e-4},
        {"steps": 41},
        {"task": Task(3, 1)},
        {"model": replace(LINEAR.model, k=3)},
        {"model": replace(LINEAR.model, heads=(2,))},
        {"model": AttentionLayer(3)},
    ],
)
def test_members_that_do_not_stack(other, monkeypatch):
    monkeypatch.setattr(Transformer, "init", lambda *_: pytest.fail("computed before it checked"))
    with pytest.raises(ValueError, match=r"not stack.*allowed") as caught:
        train([LINEAR, replace(LINEAR, **other)])
    assert "\n" not in str(caught.value)


def test_no_members():
    with pytest.raises(ValueError, match="allowed is at least one"):
        train([])
