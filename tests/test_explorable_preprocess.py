"""Preprocess, then optimize: the descents in the page against the library's, in Node and in a browser."""

import json

import javascript
import numpy as np
import pytest
import torch
from visiting import NUMBERS, button, check_numbers, slide

from icl_lib import estimators
from icl_lib.tasks import Task

CHAPTER = "book/02_preprocess_then_optimize.html"
NAME = "preprocess"
NEAR = dict(rtol=1e-6, atol=1e-9)


def tensors(prompts):
    """x, y and w of prompts that came as JSON."""
    return [torch.tensor([one[name] for one in prompts], dtype=torch.float64) for name in ("x", "y", "w")]


def estimated(task, x, y, steps):
    """All weight vectors that the page shows, by the library: those of the descents (steps, B, d)."""
    return {
        "plain": estimators.gradient_descent(x, y, steps),
        "preprocessed": estimators.preprocess_then_optimize(x, y, steps),
        "ridge": estimators.ridge(x, y, estimators.ridge_penalty(task.d, task.s, task.sigma)),
    }


@pytest.mark.parametrize(
    ("task", "n"),
    [(Task(7, 3, 0.7), 11), (Task(13, 2, 0.05), 5), (Task(2, 1, 1.5), 23), (Task(17, 17, 0.3), 19)],
)
def test_the_descents_in_the_page_are_the_library_s(task, n, generator):
    x, y, w, *_ = task.sample(5, n, generator=generator, dtype=torch.float64)
    script = """
        const { STEPS, moments, estimates, risks, parts } = icl.explorables.preprocess;
        return { STEPS, found: data.prompts.map((one) => {
          const found = estimates(one, data.settings);
          const split = found.plain.map((w) => parts(w, one.w));
          return { ...moments(one), ...found, risks: risks(found, one), split };
        }) };
    """
    prompts = [{"x": a.tolist(), "y": b.tolist(), "w": c.tolist()} for a, b, c in zip(x, y, w, strict=True)]
    settings = {"d": task.d, "s": task.s, "n": n, "sigma": task.sigma}
    here = javascript.run("preprocess", script, {"prompts": prompts, "settings": settings})
    steps, found = here["STEPS"], here["found"]
    assert steps[:17] == [*range(1, 17), 18]
    assert steps[-1] == 4096
    for name, there in zip(("S", "r"), estimators.moments(x, y), strict=True):
        np.testing.assert_allclose([one[name] for one in found], there, **NEAR)
    for name, there in estimated(task, x, y, steps).items():
        by_prompt = there if name == "ridge" else there.transpose(0, 1)
        np.testing.assert_allclose([one[name] for one in found], by_prompt, **NEAR, err_msg=name)
        risks = task.excess_risk(there, w).movedim(-1, 0)
        np.testing.assert_allclose([one["risks"][name] for one in found], risks, rtol=1e-6, err_msg=name)
    error = (estimators.gradient_descent(x, y, steps) - w).square()
    for name, where in (("on", w != 0), ("off", w == 0)):
        split = [[one[name] for one in prompt["split"]] for prompt in found]
        np.testing.assert_allclose(split, (error * where).sum(-1).T, rtol=1e-6, err_msg=name)


def test_prompts_of_the_page_have_the_task_s_law():
    script = """
        const { draw, prompt } = icl.explorables.preprocess;
        const drawn = Array.from({ length: 500 }, (_, i) => draw(i + 1, 11, 13));
        return { again: prompt(draw(3, 11, 13), data), seen: drawn.map((one) => prompt(one, data)) };
    """
    d, s, n, sigma = 7, 3, 5, 0.6
    found = javascript.run("preprocess", script, {"d": d, "s": s, "n": n, "sigma": sigma})
    assert found["again"] == found["seen"][2]
    x, y, w = tensors(found["seen"])
    assert x.shape == (500, n, d)
    assert ((w != 0).sum(-1) == s).all()
    for one, weights in zip(found["seen"], w, strict=True):
        assert sorted(one["support"]) == weights.nonzero()[:, 0].tolist()
    assert (w != 0).double().mean(0).numpy() == pytest.approx(s / d, abs=0.1)
    noise = (y - (x @ w[:, :, None])[:, :, 0]) / sigma
    query = torch.tensor([one["query"] for one in found["seen"]])
    for normal in (w[w != 0], x, query, noise):
        assert normal.mean().item() == pytest.approx(0, abs=0.08)
        assert normal.std().item() == pytest.approx(1, abs=0.08)


def test_a_setting_that_moves_changes_a_prompt_and_draws_no_other():
    script = """
        const { draw, prompt } = icl.explorables.preprocess;
        return data.map((settings) => prompt(draw(5, 11, 13), settings));
    """
    base = {"d": 11, "s": 3, "n": 5, "sigma": 0.5}
    others = [{"n": 13}, {"s": 4}, {"d": 7}, {"sigma": 1.0}]
    first, longer, denser, smaller, noisier = javascript.run(
        "preprocess", script, [base, *({**base, **change} for change in others)]
    )
    assert longer["x"][:5] == first["x"]
    assert longer["y"][:5] == first["y"]
    assert denser["support"][:3] == first["support"]
    assert smaller["x"] == [row[:7] for row in first["x"]]
    noise = np.array(first["y"]) - np.array(first["x"]) @ first["w"]
    np.testing.assert_allclose(noisier["y"], first["y"] + noise)


def test_the_average_is_over_the_prompts_of_many_seeds():
    script = """
        const { STEPS, draw, prompt, average } = icl.explorables.preprocess;
        const drawn = Array.from({ length: 7 }, (_, i) => draw(i + 1, 11, 13));
        const seen = drawn.map((one) => prompt(one, data));
        return { STEPS, seen, means: average(drawn, data) };
    """
    task = Task(11, 3, 0.5)
    found = javascript.run("preprocess", script, {"d": task.d, "s": task.s, "n": 13, "sigma": task.sigma})
    x, y, w = tensors(found["seen"])
    for name, there in estimated(task, x, y, found["STEPS"]).items():
        np.testing.assert_allclose(found["means"][name], task.excess_risk(there, w).mean(-1), rtol=1e-6)


# ------------------------------------------------------------------------------------- in a browser

STATE = """(root) => JSON.stringify({
  ...root.state(),
  numbers: NUMBERS,
  outputs: Object.fromEntries([...root.querySelectorAll("input")]
    .map((input) => [input.name, input.nextElementSibling.textContent])),
  seedShown: root.querySelector("[role=status]").textContent,
  pictures: [...root.querySelectorAll("svg[role=img]")].map((svg) => svg.getAttribute("aria-label")),
})""".replace("NUMBERS", NUMBERS)


def state_that_the_library_confirms(root):
    """What the page's explorable shows now, after a comparison of its numbers with the library's."""
    state = json.loads(root.evaluate(STATE))
    task = Task(state["d"], state["s"], state["sigma"])
    expected = {}
    for before, prompts in (("", [state["prompt"]]), ("average-", state["averaged"])):
        x, y, w = tensors(prompts)
        assert x.shape[1:] == (state["n"], task.d)
        found = estimated(task, x, y, state["T"])
        expected |= {before + name: task.excess_risk(w_hat, w).mean().item() for name, w_hat in found.items()}
        if not before:
            for name in ("plain", "preprocessed"):
                error = (found[name] - w).square()
                expected[f"{name}-on"] = error[w != 0].sum().item()
                expected[f"{name}-off"] = error[w == 0].sum().item()
    check_numbers(state["numbers"], expected)
    assert state["outputs"] == {name: f"{state[name]:g}" for name in ("d", "s", "n", "sigma", "T")}
    assert state["seedShown"] == f"seed {state['seed']}"
    if state["seed"] <= len(state["averaged"]):
        assert state["prompt"] == state["averaged"][state["seed"] - 1]
    return state


@pytest.mark.browser
def test_it_is_driven_by_mouse(root):
    before = state_that_the_library_confirms(root)
    for name in ("n", "sigma", "T", "s", "d"):
        slide(root, name, 0.9)
        after = state_that_the_library_confirms(root)
        assert after[name] > before[name]
        assert after["pictures"] != before["pictures"]
        before = after
    slide(root, "d", 0.3)
    after = state_that_the_library_confirms(root)
    assert after["d"] == after["s"] < before["s"]  # no more weights than covariates
    slide(root, "s", 0.9)
    assert state_that_the_library_confirms(root)["s"] <= after["d"]
    first = state_that_the_library_confirms(root)
    button(root, "new prompt").click()
    other = state_that_the_library_confirms(root)
    assert other["seed"] == first["seed"] + 1
    assert other["prompt"]["w"] != first["prompt"]["w"]
    button(root, "previous prompt").click()
    assert state_that_the_library_confirms(root) == first


@pytest.mark.browser
def test_it_is_driven_by_keyboard(root):
    press = root.page.keyboard.press
    before = state_that_the_library_confirms(root)
    root.locator("input[name=d]").focus()
    for name in ("d", "s", "n", "sigma"):
        press("ArrowRight")
        after = state_that_the_library_confirms(root)
        assert after[name] > before[name]
        for key, value in (("Home", min), ("End", max)):
            press(key)
            moved = state_that_the_library_confirms(root)
            assert moved[name] == value(moved[name], after[name])
        press("ArrowLeft")
        before = state_that_the_library_confirms(root)
        assert before[name] < moved[name]
        press("Tab")
    press("Space")
    assert state_that_the_library_confirms(root)["seed"] == before["seed"] + 1
    press("Tab")
    for _ in range(before["seed"] + 3):
        press("Enter")
    assert state_that_the_library_confirms(root)["seed"] == 1
    press("Tab")
    press("ArrowRight")
    assert state_that_the_library_confirms(root)["T"] == 2
    press("End")
    last = state_that_the_library_confirms(root)["T"]
    press("Tab")
    press("Space")  # plays, from the first step as it was at the last
    assert state_that_the_library_confirms(root)["T"] < last


def wait_for_steps(root, condition):
    root.page.wait_for_function(f"(root) => {condition}", arg=root.element_handle())


@pytest.mark.browser
def test_steps_play_until_the_reader_stops_them(root):
    wait_for_steps(root, "root.state().T === 1")
    button(root, "play").click()
    wait_for_steps(root, "root.state().T > 4")
    button(root, "pause").click()
    stopped = state_that_the_library_confirms(root)["T"]
    root.page.wait_for_timeout(500)
    assert state_that_the_library_confirms(root)["T"] == stopped
    button(root, "play").click()
    wait_for_steps(root, f"root.state().T > {stopped + 2}")
    slide(root, "T", 0.98)  # the reader's hand stops it, too
    stopped = state_that_the_library_confirms(root)["T"]
    root.page.wait_for_timeout(500)
    assert state_that_the_library_confirms(root)["T"] == stopped
    button(root, "play").click()
    button(root, "play").wait_for()  # it has stopped at the end
    assert state_that_the_library_confirms(root)["T"] == 4096


@pytest.mark.browser
def test_a_reader_who_wants_no_motion_takes_the_steps_one_by_one(root):
    button(root, "play").click()
    wait_for_steps(root, "root.state().T > 2")
    root.page.emulate_media(reduced_motion="reduce")
    button(root, "next T").wait_for()
    stopped = state_that_the_library_confirms(root)["T"]
    button(root, "next T").click()
    assert state_that_the_library_confirms(root)["T"] > stopped
    stopped = state_that_the_library_confirms(root)["T"]
    root.page.wait_for_timeout(500)
    assert state_that_the_library_confirms(root)["T"] == stopped
