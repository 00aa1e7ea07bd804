"""Two softmax heads: the page's predictors and loss surface against the library's, in Node and a browser."""

import json
import re

import javascript
import numpy as np
import pytest
import torch
from visiting import button, check_numbers, press, slide, state, three_digits

from icl_book.studies import debiased, released_code
from icl_lib import circuits
from icl_lib.evaluation import loss
from icl_lib.tasks import Task

CHAPTER = "book/11_debiased_gd.html"
NAME = "two_heads"
NEAR = dict(rtol=1e-6, atol=0)
SIGNS = np.array([1.0, -1.0])


def by_the_library(count, omega, mu, prompts, noise):
    """What the page says of `count` heads on some prompts."""
    d = prompts.x.shape[-1]
    signs = SIGNS[:count]
    model, weights = debiased.heads([*omega * signs], [*mu * signs], d)
    found = debiased.predictions(model, weights, prompts)
    task = Task(d, d, noise**0.5, scale=d**-0.5)
    step = count * omega * mu
    estimates = {"debiased": debiased.debiased_step(step), "plain": debiased.gradient_step(step)}
    numbers = {"step": step, "loss": loss((model, weights), task, prompts)}
    for name, estimator in estimates.items():
        numbers[f"loss-{name}"] = loss(estimator, task, prompts, exact=False)
        numbers[f"unlike-{name}"] = found.unlike(name)
    L = prompts.x.shape[-2]
    numbers["approximate"] = circuits.approximate_loss(omega * signs, mu * signs, d, L, noise)
    return model, weights, found, numbers


def off_the_line(attention, mu, step, similar):
    """How far the heads' weights, times L, are off debiased gradient descent's, percent; their ends."""
    weights = len(similar) * mu @ attention
    line = step * (similar - similar.mean())
    bend = 100 * ((weights - line).square().mean() / line.square().mean()).item()
    return bend, weights.min().item(), weights.max().item()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("omega", "mu"), [(0.03, 15.8), (0.17, 2.6), (0.8, 0.7)])
def test_the_predictors_of_the_page_are_the_library_s(count, omega, mu, generator):
    d, L, longest, queries, noise = 7, 11, 13, 5, 0.3
    task = Task(d, d, noise**0.5, scale=d**-0.5)
    drawn = task.sample(17, longest, seed=generator, queries=queries, dtype=torch.float64)
    script = """
        const page = icl.explorables.two_heads;
        const { rows, count, omega, mu, d, L, noise } = data;
        const prompts = rows.map(page.seen);
        const some = page.heads(count, omega, mu);
        const found = page.predictions(prompts, some, L);
        return {
          found, matrices: some.map((one) => page.matrices(one, d)),
          attention: some.map((one) => page.attention(one.omega, prompts[3].similar[2].subarray(0, L))),
          numbers: { ...page.compare(found, noise), step: page.stepOf(some),
            approximate: page.approximateLoss(some, { d, noise }, L) },
        };
    """
    rows = javascript.rows(drawn)
    data = {"rows": rows, "count": count, "omega": omega, "mu": mu, "d": d, "L": L, "noise": noise}
    here = javascript.run("two_heads", script, data)
    prompts = javascript.stacked(rows, L)
    model, weights, found, numbers = by_the_library(count, omega, mu, prompts, noise)
    names = ("heads", "debiased", "plain", "target")
    for name, there in zip(names, (*found[:3], prompts.target()), strict=True):
        np.testing.assert_allclose(here["found"][name], there.flatten(), **NEAR, err_msg=name)
    for name, there in (("KQ", model.kq(weights)), ("OV", model.ov(weights))):
        np.testing.assert_allclose([one[name] for one in here["matrices"]], there, **NEAR)
    there = released_code.attention_weights(model, weights, prompts)[3, 2]
    np.testing.assert_allclose(here["attention"], there, **NEAR)
    assert here["numbers"] == pytest.approx(numbers, rel=1e-6)


def test_the_loss_surface_of_the_page_is_the_library_s(generator):
    d, L, noise = 7, 31, 0.3
    omega, mu = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).tolist()
    script = """
        const page = icl.explorables.two_heads;
        const { d, L, noise, sizes, level } = data;
        const each = (of) => [1, 2].map((count) => sizes.map((omega) => of(count, omega)));
        const three = data.omega.map((row, i) => row.map((omega, h) => ({ omega, mu: data.mu[i][h] })));
        return {
          losses: three.map((some) => page.approximateLoss(some, { d, noise }, L)),
          valleys: each((count, omega) => page.valley(count, omega, { d, noise }, L)),
          below: each((count, omega) => page.below(level, count, omega, { d, noise }, L)),
        };
    """
    sizes, level = [0.03, 0.2, 0.5], 1.5
    data = {"d": d, "L": L, "noise": noise, "omega": omega, "mu": mu, "sizes": sizes, "level": level}
    here = javascript.run("two_heads", script, data)

    def loss_of(omega, mu):
        return circuits.approximate_loss(np.array(omega), np.array(mu), d, L, noise)

    np.testing.assert_allclose(here["losses"], [*map(loss_of, omega, mu)], **NEAR)
    for count, valleys, below in zip((1, 2), here["valleys"], here["below"], strict=True):
        signs = SIGNS[:count]
        for size, valley, ends in zip(sizes, valleys, below, strict=True):
            best = circuits.best_mu(size * signs, d, L, noise)
            np.testing.assert_allclose(valley["mu"] * signs, best, **NEAR)
            if count == 2:
                step = circuits.best_two_heads(size, d, L, noise)
                assert 2 * size * valley["mu"] == pytest.approx(step, rel=1e-6)
            assert valley["loss"] == pytest.approx(loss_of(size * signs, best), rel=1e-6)
            assert ends[0] < valley["mu"] < ends[1]
            at_ends = [loss_of(size * signs, end * signs) for end in ends]
            assert at_ends == pytest.approx([level, level], rel=1e-6)


def test_prompts_of_the_page_have_the_task_s_law():
    script = """
        const { shownPrompt, evaluationPrompts } = icl.explorables.two_heads;
        return { once: shownPrompt(data, 3), again: shownPrompt(data, 3), other: shownPrompt(data, 4),
          all: evaluationPrompts(data) };
    """
    d, noise = 7, 0.3
    found = javascript.run("two_heads", script, {"d": d, "noise": noise, "lengths": [5, 13]})
    assert found["once"] == found["again"]
    assert found["once"]["w"] != found["other"]["w"]
    prompts = javascript.stacked(found["all"], 13)
    assert prompts.x.shape == (len(found["all"]), 13, d)
    rest = prompts.y - (prompts.x @ prompts.w[..., None])[..., 0]
    for values, variance in [(prompts.w, 1 / d), (prompts.x, 1), (prompts.x_query, 1), (rest, noise)]:
        count = values.numel()
        assert abs(values.mean()) < 5 * (variance / count) ** 0.5
        assert abs(values.var() / variance - 1) < 5 * (2 / count) ** 0.5


# ------------------------------------------------------------------------------------- in a browser

MORE = """
  cells: [...root.querySelectorAll("table")].filter((table) => table.offsetParent)
    .map((table) => [...table.rows].map((line) => [...line.cells].map((cell) => cell.textContent))),
  pressed: [...root.querySelectorAll("[aria-pressed=true]")].map((button) => button.textContent),"""
EVALUATED = """(root) => JSON.stringify(icl.explorables.two_heads.evaluationPrompts(
  JSON.parse(root.querySelector("script[type='application/json']").textContent)))"""


@pytest.fixture
def look(root):
    """What the page's explorable shows now, after a comparison of all of it with the library."""
    evaluated = json.loads(root.evaluate(EVALUATED))
    return lambda: compared(state(root, MORE), evaluated)


def said(pattern, text):
    """The numbers in a picture's words, to be compared."""
    return [three_digits(number) for number in re.search(pattern, text).groups()]


def compared(now, evaluated):
    count, omega, mu, L = (now[name] for name in ("count", "omega", "mu", "L"))
    signs, d, noise = SIGNS[:count], now["data"]["d"], now["data"]["noise"]
    prompts = javascript.stacked(evaluated, L)
    model, weights, _, expected = by_the_library(count, omega, mu, prompts, noise)
    check_numbers(now, expected)
    matrices = [made[h] for h in range(count) for made in (model.kq(weights), model.ov(weights))]
    for texts, there in zip(now["cells"], matrices, strict=True):
        np.testing.assert_allclose(np.array(texts, float), there, rtol=0, atol=5.001e-3)
    best = circuits.best_mu(omega * signs, d, L, noise)[0]
    chosen = ["two opposite heads"] if count == 2 else ["one head"]
    assert now["pressed"] == chosen + ["keep μ best"] * now["follow"]
    if now["follow"]:
        assert mu == pytest.approx(best, rel=1e-6)
    weighed, surface, attended, predicted = now["pictures"]
    shown = javascript.stacked([now["prompt"]], L)
    attention = released_code.attention_weights(model, weights, shown)[0, 0]  # (H, L)
    assert [*attention.amax(-1)] == [*map(three_digits, re.findall(r"largest is ([^\s;]+)", attended))]
    similar = shown.x[0] @ shown.x_query[0, 0]
    bend, *ends = off_the_line(attention, torch.tensor(mu * signs), count * omega * mu, similar)
    assert [bend] == said(r"by (\S+) percent", weighed)
    assert ends == said(r"from (\S+) to (\S+),", weighed)
    approximate = circuits.approximate_loss(omega * signs, mu * signs, d, L, noise)
    assert [approximate] == said(r" has (\S+), ", surface)
    assert [best] == said(r"best mu there is (\S+)\.$", surface)
    found = debiased.predictions(model, weights, shown)
    unlike = [found.unlike(name) for name in ("debiased", "plain")]
    assert unlike == said(r"by (\S+) from debiased and by (\S+) from plain", predicted)
    return now


@pytest.mark.browser
def test_two_heads_are_moved_by_mouse(root, look):
    start = look()
    data, trained = start["data"], start["data"]["trained"]
    shown = start["count"], start["L"], start["trained"]
    assert shown == (2, data["n"], trained["two"]["seed"][0])
    for name, low, high in [("omega", 0.2, 0.9), ("mu", 0.3, 0.7), ("L", 0, 1)]:
        slide(root, name, low)
        before = look()
        slide(root, name, high)
        now = look()
        assert now[name] > before[name]
        renewed = [new != old for new, old in zip(now["pictures"], before["pictures"], strict=True)]
        assert renewed == [True, True, name != "mu", True]  # attention does not depend on mu
    assert now["trained"] is None
    assert now["L"] == data["lengths"][1]
    button(root, "keep μ best").click()
    kept = look()
    assert kept["follow"]
    slide(root, "omega", 0.1)
    now = look()
    assert now["follow"]
    assert now["omega"] < kept["omega"]
    assert now["mu"] > kept["mu"]
    slide(root, "mu", 0.5)
    assert not look()["follow"]
    for count, name, label in [(1, "one", "one head"), (2, "two", "two opposite heads")]:
        button(root, label).click()
        assert look()["count"] == count
        models = trained[name]
        for index in [*range(len(models["seed"])), 0]:
            button(root, "a trained model").click()
            now = look()
            shown = now["trained"], now["omega"], now["mu"]
            assert shown == tuple(models[name][index] for name in ("seed", "omega", "mu"))
            assert root.locator("span[role=status]").inner_text() == f"trained from seed {now['trained']}"
    button(root, "new prompt").click()
    new = look()
    assert new["seed"] == now["seed"] + 1
    assert new["prompt"]["w"] != now["prompt"]["w"]
    assert new["numbers"] == now["numbers"]
    # A click on the map sets omega and mu; one beside it sets nothing.
    surface = root.locator("svg.picked")
    box = surface.bounding_box()
    looks = []
    for right, up in [(0.4, 0.4), (0.7, 0.6)]:
        surface.click(position={"x": right * box["width"], "y": (1 - up) * box["height"]})
        looks.append(look())
    low, high = looks
    assert high["trained"] is None
    assert high["omega"] > low["omega"]
    assert high["mu"] > low["mu"]
    surface.click(position={"x": 2, "y": 2})
    assert look()["omega"] == high["omega"]


@pytest.mark.browser
def test_two_heads_are_moved_by_keyboard(root, look):
    start = look()
    root.locator("input[name=omega]").focus()
    press(root, "End")
    assert look()["omega"] > start["omega"]
    press(root, "ArrowLeft")
    left = look()
    assert start["omega"] < left["omega"]
    press(root, "Tab", "ArrowUp")
    moved = look()
    assert moved["mu"] > left["mu"]
    assert moved["omega"] == left["omega"]
    press(root, "Tab", "ArrowLeft")
    assert look()["L"] == start["L"] - 1
    press(root, "Home")
    assert look()["L"] == start["data"]["lengths"][0]
    for keys, name, value in [
        (["Tab", "Space"], "count", 2),
        (["Tab", "Space"], "count", 1),
        (["Tab", "Space"], "follow", True),
        (["Tab", "Enter"], "trained", start["data"]["trained"]["one"]["seed"][0]),
        (["Tab", "Enter"], "seed", start["seed"] + 1),
    ]:
        press(root, *keys)
        assert look()[name] == value
