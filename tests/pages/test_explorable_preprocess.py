"""Preprocess, then optimize: the descents in the page against the library's, in Node and in a browser."""

import javascript
import numpy as np
import pytest
import torch
from visiting import button, check_numbers, press, slide, state

from icl_lib import estimators
from icl_lib.tasks import Task

CHAPTER = "book/02_preprocess_then_optimize.html"
NAME = "preprocess"
NEAR = dict(rtol=1e-6, atol=1e-9)


def settings(task, n):
    return {"d": task.d, "s": task.s, "n": n, "sigma": task.sigma}


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
    x, y, w, *_ = drawn = task.sample(5, n, seed=generator, dtype=torch.float64)
    script = """
        const { STEPS, moments, estimates, risks, parts } = icl.explorables.preprocess;
        return { STEPS, found: data.prompts.map((one) => {
          const found = estimates(one, data.settings);
          const split = found.plain.map((w) => parts(w, one.w));
          return { ...moments(one), ...found, risks: risks(found, one), split };
        }) };
    """
    data = {"prompts": javascript.rows(drawn), "settings": settings(task, n)}
    here = javascript.run("preprocess", script, data)
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


def test_prompts_of_the_page_have_the_task_s_law_and_are_averaged_over():
    script = """
        const { STEPS, draw, prompt, average } = icl.explorables.preprocess;
        const drawn = Array.from({ length: 500 }, (_, i) => draw(i + 1, 11, 13));
        const seen = drawn.map((one) => prompt(one, data));
        return { STEPS, seen, again: prompt(draw(3, 11, 13), data), means: average(drawn, data) };
    """
    task = Task(7, 3, 0.6)
    found = javascript.run("preprocess", script, settings(task, 5))
    assert found["again"] == found["seen"][2]
    x, y, w, *_ = javascript.stacked(found["seen"])
    assert x.shape == (500, 5, 7)
    assert ((w != 0).sum(-1) == 3).all()
    for one, weights in zip(found["seen"], w, strict=True):
        assert sorted(one["support"]) == weights.nonzero()[:, 0].tolist()
    assert (w != 0).double().mean(0).numpy() == pytest.approx(3 / 7, abs=0.1)
    noise = (y - (x @ w[:, :, None])[:, :, 0]) / 0.6
    query = torch.tensor([one["query"] for one in found["seen"]])
    for normal in (w[w != 0], x, query, noise):
        assert normal.mean().item() == pytest.approx(0, abs=0.08)
        assert normal.std().item() == pytest.approx(1, abs=0.08)
    for name, there in estimated(task, x, y, found["STEPS"]).items():
        np.testing.assert_allclose(found["means"][name], task.excess_risk(there, w).mean(-1), rtol=1e-6)


def test_a_setting_that_moves_changes_a_prompt_and_draws_no_other():
    script = """
        const { draw, prompt } = icl.explorables.preprocess;
        return data.map((settings) => prompt(draw(5, 11, 13), settings));
    """
    base = {"d": 11, "s": 3, "n": 5, "sigma": 0.5}
    others = [{"n": 13}, {"s": 4}, {"d": 7}, {"sigma": 1.0}]
    data = [base, *(base | change for change in others)]
    first, longer, denser, smaller, noisier = javascript.run("preprocess", script, data)
    assert longer["x"][:5] == first["x"]
    assert longer["y"][:5] == first["y"]
    assert denser["support"][:3] == first["support"]
    assert smaller["x"] == [row[:7] for row in first["x"]]
    noise = np.array(first["y"]) - np.array(first["x"]) @ first["w"]
    np.testing.assert_allclose(noisier["y"], first["y"] + noise)


# ------------------------------------------------------------------------------------- in a browser


def look(root):
    """What the page's explorable shows now, after a comparison of its numbers with the library's."""
    now = state(root, 'seedShown: root.querySelector("[role=status]").textContent')
    task = Task(now["d"], now["s"], now["sigma"])
    expected = {}
    for before, prompts in (("", [now["prompt"]]), ("average-", now["averaged"])):
        x, y, w, *_ = javascript.stacked(prompts)
        assert x.shape[1:] == (now["n"], task.d)
        found = estimated(task, x, y, now["T"])
        expected |= {before + name: task.excess_risk(w_hat, w).mean().item() for name, w_hat in found.items()}
        if not before:
            for name in ("plain", "preprocessed"):
                error = (found[name] - w).square()
                expected |= {f"{name}-on": error[w != 0].sum(), f"{name}-off": error[w == 0].sum()}
    check_numbers(now, expected)
    assert {name: text for name, (text, _) in now["settings"].items()} == {
        name: f"{now[name]:g}" for name in ("d", "s", "n", "sigma", "T")
    }
    assert now["seedShown"] == f"seed {now['seed']}"
    if now["seed"] <= len(now["averaged"]):
        assert now["prompt"] == now["averaged"][now["seed"] - 1]
    return now


@pytest.mark.browser
def test_it_is_driven_by_mouse(root):
    before = look(root)
    for name in ("n", "sigma", "T", "s", "d"):
        slide(root, name, 0.9)
        after = look(root)
        assert after[name] > before[name]
        assert after["pictures"] != before["pictures"]
        before = after
    slide(root, "d", 0.3)
    after = look(root)
    assert after["d"] == after["s"] < before["s"]  # no more weights than covariates
    slide(root, "s", 0.9)
    first = look(root)
    assert first["s"] <= after["d"]
    button(root, "new prompt").click()
    other = look(root)
    assert other["seed"] == first["seed"] + 1
    assert other["prompt"]["w"] != first["prompt"]["w"]
    button(root, "previous prompt").click()
    assert look(root) == first


@pytest.mark.browser
def test_it_is_driven_by_keyboard(root):
    before = look(root)
    root.locator("input[name=d]").focus()
    for name in ("d", "s", "n", "sigma"):
        press(root, "ArrowRight")
        after = look(root)
        assert after[name] > before[name]
        for key, value in (("Home", min), ("End", max)):
            press(root, key)
            moved = look(root)
            assert moved[name] == value(moved[name], after[name])
        press(root, "ArrowLeft")
        before = look(root)
        assert before[name] < moved[name]
        press(root, "Tab")
    press(root, "Space")
    assert look(root)["seed"] == before["seed"] + 1
    press(root, "Tab", *["Enter"] * (before["seed"] + 3))
    assert look(root)["seed"] == 1
    press(root, "Tab", "ArrowRight")
    assert look(root)["T"] == 2
    press(root, "End")
    last = look(root)["T"]
    press(root, "Tab", "Space")  # plays, from the first step as it was at the last
    assert look(root)["T"] < last


def wait_for_steps(root, condition):
    root.page.wait_for_function(f"(root) => root.state().T {condition}", arg=root.element_handle())


def look_at_rest(root):
    """The number of steps, at which the explorable stays."""
    stopped = look(root)["T"]
    root.page.wait_for_timeout(500)
    assert look(root)["T"] == stopped
    return stopped


@pytest.mark.browser
def test_steps_play_until_the_reader_stops_them(root):
    wait_for_steps(root, "=== 1")
    button(root, "play").click()
    wait_for_steps(root, "> 4")
    button(root, "pause").click()
    stopped = look_at_rest(root)
    button(root, "play").click()
    wait_for_steps(root, f"> {stopped + 2}")
    slide(root, "T", 0.98)  # the reader's hand stops it, too
    look_at_rest(root)
    button(root, "play").click()
    button(root, "play").wait_for()  # it has stopped at the end
    assert look(root)["T"] == 4096
    button(root, "play").click()
    wait_for_steps(root, "< 99")
    # A reader who wants no motion takes the steps one by one.
    root.page.emulate_media(reduced_motion="reduce")
    button(root, "next T").wait_for()
    stopped = look(root)["T"]
    button(root, "next T").click()
    assert look_at_rest(root) > stopped
