"""Switch heads off: the transformer in the page against the library's, in Node and in a browser."""

import javascript
import numpy as np
import pytest
import torch
from visiting import button, check_numbers, press, slide, state

from icl_book import explorables
from icl_lib.tasks import WEIGHTS, Task, gram
from icl_lib.training import trimmed_mean
from icl_lib.transformer import Transformer

CHAPTER = "book/05_head_importance.html"
NAME = "heads"
NEAR = dict(rtol=1e-6, atol=1e-9)


def measured(model, weights, task, prompts, on):
    """What the page says of a model with the heads of `on`, by the library."""
    off = {layer: [h for h, one in enumerate(row) if not one] for layer, row in enumerate(on)}
    read = model.layer_weights(model.switched_off(weights, off), gram(prompts))
    risks = task.excess_risk(read, prompts.w)
    top = read[-1].abs().topk(task.s).indices
    return {
        "read": read.numpy(),
        "risks": trimmed_mean(risks).numpy(),
        "median": risks[-1].median().item(),
        "found": (prompts.w != 0).gather(-1, top).sum(-1).numpy(),
    }


def lists(weights):
    return {name: {"shape": list(w.shape), "values": w.flatten().tolist()} for name, w in weights.items()}


@pytest.mark.parametrize("heads", [(3,), (2, 3), (7, 3, 2), (2, 1, 5, 3)])
def test_the_model_in_the_page_is_the_library_s(heads, generator):
    model = Transformer(5, heads, 13, 11, init_scale=0.7)
    weights = model.init(generator, torch.float64)
    task = Task(5, 2, 0.7)
    prompts = task.sample(211, 17, seed=generator, dtype=torch.float64)
    masks = [[[True] * H for H in heads], [[False] * H for H in heads]]
    masks += [[(torch.rand(H, generator=generator) < 0.6).tolist() for H in heads] for _ in range(5)]
    script = """
        const { prepare, grams, contexts, layerWeights, measure } = icl.explorables.heads;
        for (const weight of Object.values(data.weights)) weight.values = Float64Array.from(weight.values);
        const model = prepare(data.weights);
        const context = contexts(model, grams(data.prompts));
        return data.masks.map((on) => {
          return measure(layerWeights(model, context, on), data.prompts, data.s);
        });
    """
    data = {"weights": lists(weights), "prompts": javascript.rows(prompts), "masks": masks, "s": task.s}
    for on, here in zip(masks, javascript.run("heads", script, data), strict=True):
        there = measured(model, weights, task, prompts, on)
        np.testing.assert_allclose(np.reshape(here["read"], there["read"].shape), there["read"], **NEAR)
        for name in ("risks", "median", "found"):
            np.testing.assert_allclose(here[name], there[name], **NEAR, err_msg=name)


def test_packed_weights_are_whole_numbers_of_a_scale_and_the_page_reads_them_so(generator):
    weights = Transformer(5, (3, 2), 13, 11).init(generator)
    weights["w_out"] = torch.zeros(13)
    packed = explorables.pack(weights)
    rounded = explorables.unpack(packed)
    for name, weight in weights.items():
        assert rounded[name].shape == weight.shape
        assert (rounded[name] - weight).abs().max() <= packed[name]["scale"] * 0.5001
        assert rounded[name].abs().max().item() == pytest.approx(weight.abs().max().item())
    assert javascript.run("heads", "return icl.explorables.heads.unpack(data)", packed) == lists(rounded)


@pytest.mark.parametrize("law", WEIGHTS)
def test_prompts_of_the_page_have_the_task_s_law(law, generator):
    script = """
        const { draw, observe } = icl.explorables.heads;
        const [drawn, again, other] = [3, 3, 4].map((seed) => draw(data.task, 31, 400, seed));
        return { drawn, again, other, seen: observe(drawn, 17, 0.7) };
    """
    found = javascript.run("heads", script, {"task": {"d": 7, "s": 3, "law": law}})
    assert found["drawn"] == found["again"]
    assert found["drawn"][0]["w"] != found["other"][0]["w"] or law == "binary"
    w, x, noise = (np.array([one[name] for one in found["drawn"]]) for name in ("w", "x", "noise"))
    assert ((w != 0).sum(-1) == 3).all()
    assert (w != 0).mean(0) == pytest.approx(3 / 7, abs=0.1)
    like = Task(7, 3, weights=law).sample(400, 1, seed=generator).w.numpy()
    for moment in (np.sign, abs, np.square):
        assert moment(w[w != 0]).mean() == pytest.approx(moment(like[like != 0]).mean(), abs=0.15)
    for normal in (x, noise):
        assert normal.mean() == pytest.approx(0, abs=0.03)
        assert normal.std() == pytest.approx(1, abs=0.03)
    seen_x, y = (np.array([one[name] for one in found["seen"]]) for name in ("x", "y"))
    assert (seen_x == x[:, :17]).all()
    np.testing.assert_allclose(y, (x @ w[:, :, None])[:, :17, 0] + 0.7 * noise[:, :17])


# ------------------------------------------------------------------------------------- in a browser

MORE = """
  cells: [...root.querySelectorAll(".explorable-matrix tbody tr")].slice(1)
    .map((line) => [...line.querySelectorAll("td")].map((cell) => [cell.textContent, cell.className])),
  heads: [...root.querySelectorAll(".explorable-heads button")]
    .map((button) => [button.getAttribute("aria-label"), button.getAttribute("aria-pressed")]),"""


def look(root):
    """What the page's explorable shows now, after a comparison of all of it with the library."""
    now = state(root, MORE)
    on, shown, settings = now["on"], now["shown"], now["data"]["task"]
    weights = explorables.unpack(now["data"]["weights"])
    assert now["weights"] == lists(weights)
    prompts = javascript.stacked(now["prompts"])
    assert prompts.x.shape[1] == now["n"]
    task = Task(settings["d"], settings["s"])
    model = Transformer(task.d, tuple(map(len, on)), *weights["W_Q.0"].shape[1:])
    there = measured(model, weights, task, prompts, on)
    whole = measured(model, weights, task, prompts, [[True] * len(layer) for layer in on])
    expected = {
        "risk": there["risks"][-1],
        "median": there["median"],
        "whole": whole["risks"][-1],
        "zero": trimmed_mean(task.excess_risk(torch.zeros(task.d), prompts.w)).item(),
        "found": there["found"][shown],
        "found-mean": there["found"].mean(),
    }
    check_numbers(now, expected)
    columns = np.array([prompts.w[shown].numpy(), *there["read"][:, shown]])
    largest = np.argsort(-abs(columns), kind="stable")[:, : task.s]
    for j, line in enumerate(now["cells"]):
        for c, (text, style) in enumerate(line):
            assert float(text) == pytest.approx(columns[c, j], rel=5.001e-3, abs=5.001e-3)
            assert ("marked" in style) == (j in largest[c])
    assert now["heads"] == [
        [f"layer {layer}, head {head}: {'on' if one else 'off'}", "true" if one else "false"]
        for layer, row in enumerate(on, 1)
        for head, one in enumerate(row, 1)
    ]
    return now


def switched_on(state):
    """The numbers of the heads that are on, by layers."""
    return [[h for h, one in enumerate(row) if one] for row in state["on"]]


@pytest.mark.browser
def test_heads_are_switched_by_mouse(root):
    start = look(root)
    assert all(map(all, start["on"]))
    assert start["numbers"]["risk"] == start["numbers"]["whole"]
    button(root, "layer 1, head 2: on").click()
    now = look(root)
    assert now["on"][0][:3] == [True, False, True]
    assert now["numbers"]["risk"] != now["numbers"]["whole"]
    assert all(new != old for new, old in zip(now["pictures"], start["pictures"], strict=True))
    button(root, "layer 1, head 2: off").click()
    assert look(root)["on"][0][1]
    for version in ("single", "pruned", "full"):
        button(root, version).click()
        now = look(root)
        assert switched_on(now) == now["data"]["kept"][version]
        assert button(root, version).get_attribute("aria-pressed") == "true"
    button(root, "single").click()
    button(root, "new prompts").click()
    new = look(root)
    assert new["seed"] == now["seed"] + 1
    assert new["prompts"][0]["w"] != now["prompts"][0]["w"]
    for name in ("n", "sigma"):
        slide(root, name, 0.8)
        now = look(root)
        assert now[name] > new[name]
        assert now["settings"][name][0] == f"{now[name]:g}"
    for head, one in enumerate(now["on"][1], 1):
        button(root, f"layer 2, head {head}: {'on' if one else 'off'}").click()
    assert look(root)["on"][1] == [not one for one in now["on"][1]]


@pytest.mark.browser
def test_heads_are_switched_by_keyboard(root):
    button(root, "layer 1, head 1: on").focus()
    press(root, "Tab", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown", "Space")
    assert not look(root)["on"][1][1]
    press(root, "ArrowDown", "Enter", "ArrowUp", "Enter")
    now = look(root)
    assert [row[1] for row in now["on"][:3]] == [True, True, False]
    root.locator("input[name=n]").focus()
    press(root, "ArrowRight", "Tab", "ArrowLeft")
    moved = look(root)
    assert moved["n"] == now["n"] + 1
    assert moved["sigma"] < now["sigma"]
    button(root, "pruned").focus()
    press(root, "Enter")
    assert switched_on(look(root)) == now["data"]["kept"]["pruned"]
