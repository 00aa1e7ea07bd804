"""Two softmax heads: the page's predictors and loss surface against the library's, in Node and a browser."""

import json
import re

import javascript
import numpy as np
import pytest
import torch
from visiting import NUMBERS, button, check_numbers, slide, three_digits

from icl_lib import approximation, one_layer, predictors
from icl_lib.tasks import Prompts, Task

CHAPTER = "book/11_debiased_gd.html"
NAME = "two_heads"
NEAR = dict(rtol=1e-6, atol=0)
SIGNS = np.array([1.0, -1.0])


def by_the_library(count, omega, mu, prompts, noise):
    """What the page says of `count` heads on some prompts."""
    d = prompts.x.shape[-1]
    signs = SIGNS[:count]
    model, weights = predictors.heads([*omega * signs], [*mu * signs], d)
    found = predictors.predictions(model, weights, prompts)
    task = Task(d, d, noise**0.5, scale=d**-0.5)
    step = count * omega * mu
    estimates = {"debiased": predictors.debiased_step(step), "plain": predictors.gradient_step(step)}
    numbers = {"step": step, "loss": one_layer.loss(model, weights, task, prompts)}
    for name, estimator in estimates.items():
        numbers[f"loss-{name}"] = one_layer.loss_at_queries(estimator, task, prompts)
        numbers[f"unlike-{name}"] = found.unlike(name)
    L = prompts.x.shape[-2]
    numbers["approximate"] = approximation.loss(omega * signs, mu * signs, d, L, noise)
    return model, weights, found, numbers


def attention(omega, x, query):
    """The attention of one head: what a layer with OV = 1 predicts where y is one at one example only."""
    L, d = x.shape
    model, weights = predictors.heads([omega], [1.0], d)
    each = Prompts(
        x.expand(L, L, d),
        torch.eye(L, dtype=x.dtype),
        x.new_zeros(L, d),
        torch.full((L,), L),
        query.expand(L, 1, d),
    )
    return model.predict(weights, each)[:, 0]


def off_the_line(count, omega, mu, x, query):
    """How far the heads' weights, times L, are off debiased gradient descent's, percent; their ends."""
    similar = x @ query
    L = len(similar)
    weights = L * sum(sign * mu * attention(sign * omega, x, query) for sign in SIGNS[:count])
    line = count * omega * mu * (similar - similar.mean())
    bend = 100 * ((weights - line).square().mean() / line.square().mean()).item()
    return bend, weights.min().item(), weights.max().item()


def stacked(rows, L):
    """Prompts of the page as the library's, cut to L examples."""
    x, y, w, asked = (
        torch.tensor([one[name] for one in rows], dtype=torch.float64) for name in ("x", "y", "w", "asked")
    )
    return Prompts(x[:, :L], y[:, :L], w, torch.full((len(x),), L), asked)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("omega", "mu"), [(0.03, 15.8), (0.17, 2.6), (0.8, 0.7)])
def test_the_predictors_of_the_page_are_the_library_s(count, omega, mu, generator):
    d, L, longest, queries, noise = 7, 11, 13, 5, 0.3
    task = Task(d, d, noise**0.5, scale=d**-0.5)
    drawn = task.sample(17, longest, generator=generator, queries=queries, dtype=torch.float64)
    rows = [
        {"x": x.tolist(), "y": y.tolist(), "w": w.tolist(), "asked": asked.tolist()}
        for x, y, w, _, asked in zip(*drawn, strict=True)
    ]
    script = """
        const page = icl.explorables.two_heads;
        const { count, omega, mu, L, noise } = data;
        const prompts = data.rows.map(page.seen);
        const some = page.heads(count, omega, mu);
        const found = page.predictions(prompts, some, L);
        return {
          found, matrices: some.map((one) => page.matrices(one, data.rows[0].w.length)),
          attention: some.map((one) => page.attention(one.omega, prompts[3].similar[2].subarray(0, L))),
          numbers: { ...page.compare(found, noise), step: page.stepOf(some),
            approximate: page.approximateLoss(some, { d: data.rows[0].w.length, noise }, L) },
        };
    """
    data = {"rows": rows, "count": count, "omega": omega, "mu": mu, "L": L, "noise": noise}
    here = javascript.run("two_heads", script, data)
    prompts = stacked(rows, L)
    model, weights, found, numbers = by_the_library(count, omega, mu, prompts, noise)
    for name, there in {
        "heads": found.model,
        "debiased": found.debiased,
        "plain": found.plain,
        "target": prompts.target(),
    }.items():
        np.testing.assert_allclose(here["found"][name], there.flatten(), **NEAR, err_msg=name)
    for h, sign in enumerate(SIGNS[:count]):
        np.testing.assert_allclose(here["matrices"][h]["KQ"], model.kq(weights)[h], **NEAR)
        np.testing.assert_allclose(here["matrices"][h]["OV"], model.ov(weights)[h], **NEAR)
        there = attention(sign * omega, prompts.x[3], prompts.x_query[3, 2])
        np.testing.assert_allclose(here["attention"][h], there, **NEAR)
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
    there = [approximation.loss(*map(np.array, pair), d, L, noise) for pair in zip(omega, mu, strict=True)]
    np.testing.assert_allclose(here["losses"], there, **NEAR)
    for count, valleys, below in zip((1, 2), here["valleys"], here["below"], strict=True):
        signs = SIGNS[:count]
        for size, valley, ends in zip(sizes, valleys, below, strict=True):
            best = approximation.best_mu(size * signs, d, L, noise)
            np.testing.assert_allclose(valley["mu"] * signs, best, **NEAR)
            if count == 2:
                assert 2 * size * valley["mu"] == pytest.approx(
                    approximation.two_heads(size, d, L, noise), rel=1e-6
                )
            assert valley["loss"] == pytest.approx(
                approximation.loss(size * signs, best, d, L, noise), rel=1e-6
            )
            assert ends[0] < valley["mu"] < ends[1]
            for end in ends:
                assert approximation.loss(size * signs, end * signs, d, L, noise) == pytest.approx(
                    level, rel=1e-6
                )


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
    prompts = stacked(found["all"], 13)
    assert prompts.x.shape == (len(found["all"]), 13, d)
    rest = prompts.y - (prompts.x @ prompts.w[..., None])[..., 0]
    for values, variance in [(prompts.w, 1 / d), (prompts.x, 1), (prompts.x_query, 1), (rest, noise)]:
        count = values.numel()
        assert abs(values.mean()) < 5 * (variance / count) ** 0.5
        assert abs(values.var() / variance - 1) < 5 * (2 / count) ** 0.5


# ------------------------------------------------------------------------------------- in a browser

STATE = """(root) => ({
  ...root.state(),
  data: JSON.parse(root.querySelector("script[type='application/json']").textContent),
  numbers: NUMBERS,
  settings: Object.fromEntries([...root.querySelectorAll("input")]
    .map((input) => [input.name, [input.nextElementSibling.textContent, input.ariaValueText]])),
  cells: [...root.querySelectorAll("table")].filter((table) => table.offsetParent)
    .map((table) => [...table.rows].map((line) => [...line.cells].map((cell) => cell.textContent))),
  pressed: [...root.querySelectorAll("[aria-pressed=true]")].map((button) => button.textContent),
  pictures: [...root.querySelectorAll("svg[role=img]")].map((svg) => svg.getAttribute("aria-label")),
})""".replace("NUMBERS", NUMBERS)

EVALUATED = """(root) => JSON.stringify(icl.explorables.two_heads.evaluationPrompts(
  JSON.parse(root.querySelector("script[type='application/json']").textContent)))"""


def state_that_the_library_confirms(root, evaluated):
    """What the page's explorable shows now, after a comparison of all of it with the library."""
    state = root.evaluate(STATE)
    count, omega, mu, L = (state[name] for name in ("count", "omega", "mu", "L"))
    d, noise = (state["data"][name] for name in ("d", "noise"))
    model, weights, _, expected = by_the_library(count, omega, mu, stacked(evaluated, L), noise)
    check_numbers(state["numbers"], expected)
    for name, texts in state["settings"].items():
        assert texts[0] == texts[1]
        assert state[name] == three_digits(texts[0]), name
    matrices = [made[h] for h in range(count) for made in (model.kq(weights), model.ov(weights))]
    for texts, there in zip(state["cells"], matrices, strict=True):
        np.testing.assert_allclose(np.array(texts, float), there, rtol=0, atol=5.001e-3)
    best = approximation.best_mu(omega * SIGNS[:count], d, L, noise)[0]
    chosen = ["two opposite heads"] if count == 2 else ["one head"]
    assert state["pressed"] == chosen + ["keep μ best"] * state["follow"]
    if state["follow"]:
        assert mu == pytest.approx(best, rel=1e-6)
    weighed, surface, attended, predicted = state["pictures"]
    shown = stacked([state["prompt"]], L)
    bend, low, high = off_the_line(count, omega, mu, shown.x[0], shown.x_query[0, 0])
    assert bend == three_digits(re.search(r"by (\S+) percent", weighed)[1])
    for end, text in zip((low, high), re.search(r"from (\S+) to (\S+),", weighed).groups(), strict=True):
        assert end == three_digits(text)
    here = approximation.loss(omega * SIGNS[:count], mu * SIGNS[:count], d, L, noise)
    assert here == three_digits(re.search(r" has (\S+), ", surface)[1])
    assert best == three_digits(re.search(r"best mu there is (\S+)\.$", surface)[1])
    for sign, text in zip(SIGNS[:count], re.findall(r"largest is ([^\s;]+)", attended), strict=True):
        assert attention(sign * omega, shown.x[0], shown.x_query[0, 0]).max().item() == three_digits(text)
    _, _, found, _ = by_the_library(count, omega, mu, shown, noise)
    texts = re.search(r"by (\S+) from debiased and by (\S+) from plain", predicted).groups()
    for name, text in zip(("debiased", "plain"), texts, strict=True):
        assert found.unlike(name) == three_digits(text), name
    return state


@pytest.fixture
def opened(root):
    """The explorable in an open page, and how to look at it."""
    evaluated = json.loads(root.evaluate(EVALUATED))
    return root, lambda: state_that_the_library_confirms(root, evaluated)


@pytest.mark.browser
def test_two_heads_are_moved_by_mouse(opened):
    root, look = opened
    state = look()
    trained, lengths = state["data"]["trained"], state["data"]["lengths"]
    assert [state[name] for name in ("count", "L", "trained")] == [
        2,
        state["data"]["n"],
        trained["two"]["seed"][0],
    ]
    for name, low, high in [("omega", 0.2, 0.9), ("mu", 0.3, 0.7), ("L", 0, 1)]:
        slide(root, name, low)
        before = look()
        slide(root, name, high)
        state = look()
        assert state[name] > before[name]
        renewed = [new != old for new, old in zip(state["pictures"], before["pictures"], strict=True)]
        assert renewed == [True, True, name != "mu", True]  # attention does not depend on mu
    assert state["trained"] is None
    assert state["L"] == lengths[1]
    button(root, "keep μ best").click()
    kept = look()
    assert kept["follow"]
    slide(root, "omega", 0.1)
    state = look()
    assert state["follow"]
    assert state["omega"] < kept["omega"]
    assert state["mu"] > kept["mu"]
    slide(root, "mu", 0.5)
    assert not look()["follow"]
    for count, name, label in [(1, "one", "one head"), (2, "two", "two opposite heads")]:
        button(root, label).click()
        assert look()["count"] == count
        models = trained[name]
        for index in [*range(len(models["seed"])), 0]:
            button(root, "a trained model").click()
            state = look()
            for key, there in zip(("trained", "omega", "mu"), ("seed", "omega", "mu"), strict=True):
                assert state[key] == models[there][index]
            assert root.locator("span[role=status]").inner_text() == f"trained from seed {state['trained']}"
    button(root, "new prompt").click()
    new = look()
    assert new["seed"] == state["seed"] + 1
    assert new["prompt"]["w"] != state["prompt"]["w"]
    assert new["numbers"] == state["numbers"]


@pytest.mark.browser
def test_a_click_on_the_map_sets_omega_and_mu(opened):
    root, look = opened
    surface = root.locator("svg.picked")
    box = surface.bounding_box()
    states = []
    for right, up in [(0.4, 0.4), (0.7, 0.6)]:
        surface.click(position={"x": right * box["width"], "y": (1 - up) * box["height"]})
        states.append(look())
    low, high = states
    assert high["trained"] is None
    assert high["omega"] > low["omega"]
    assert high["mu"] > low["mu"]
    surface.click(position={"x": 2, "y": 2})
    assert look()["omega"] == high["omega"]


@pytest.mark.browser
def test_two_heads_are_moved_by_keyboard(opened):
    root, look = opened
    key = root.page.keyboard.press
    start = look()
    root.locator("input[name=omega]").focus()
    key("End")
    assert look()["omega"] > start["omega"]
    key("ArrowLeft")
    left = look()
    assert start["omega"] < left["omega"]
    key("Tab")
    key("ArrowUp")
    moved = look()
    assert moved["mu"] > left["mu"]
    assert moved["omega"] == left["omega"]
    key("Tab")
    key("ArrowLeft")
    assert look()["L"] == start["L"] - 1
    key("Home")
    assert look()["L"] == start["data"]["lengths"][0]
    for name, value in [("count", 2), ("count", 1), ("follow", True)]:
        key("Tab")
        key("Space")
        assert look()[name] == value
    key("Tab")
    key("Enter")
    assert look()["trained"] == start["data"]["trained"]["one"]["seed"][0]
    key("Tab")
    key("Enter")
    assert look()["seed"] == start["seed"] + 1
