"""Switch heads off: the transformer in the page against the library's, in Node and in a browser."""

import json

import javascript
import numpy as np
import pytest
import torch
from visiting import NUMBERS, button, check_numbers, slide

from icl_lib import explorables
from icl_lib.tasks import WEIGHTS, Prompts, Task, gram
from icl_lib.training import trimmed_mean
from icl_lib.transformer import Transformer, mask_heads

CHAPTER = "book/05_head_importance.html"
NAME = "heads"
NEAR = dict(rtol=1e-6, atol=1e-9)


def measured(model, weights, task, prompts, on):
    """What the page says of a model with the heads of `on`, by the library."""
    masked = mask_heads(weights, [torch.tensor(layer, dtype=torch.float64) for layer in on])
    read = model.layer_weights(masked, gram(prompts))
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


def rows(prompts):
    return [{"x": x.tolist(), "y": y.tolist(), "w": w.tolist()} for x, y, w, *_ in zip(*prompts, strict=True)]


@pytest.mark.parametrize("heads", [(3,), (2, 3), (7, 3, 2), (2, 1, 5, 3)])
def test_the_model_in_the_page_is_the_library_s(heads, generator):
    model = Transformer(5, heads, 13, 11, init_scale=0.7)
    weights = model.init(generator, torch.float64)
    task = Task(5, 2, 0.7)
    prompts = task.sample(211, 17, generator=generator, dtype=torch.float64)
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
    data = {"weights": lists(weights), "prompts": rows(prompts), "masks": masks, "s": task.s}
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
    here = javascript.run("heads", "return icl.explorables.heads.unpack(data)", packed)
    assert here == lists(rounded)


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
    like = Task(7, 3, weights=law).sample(400, 1, generator=generator).w.numpy()
    for moment in (np.sign, abs, np.square):
        assert moment(w[w != 0]).mean() == pytest.approx(moment(like[like != 0]).mean(), abs=0.15)
    for normal in (x, noise):
        assert normal.mean() == pytest.approx(0, abs=0.03)
        assert normal.std() == pytest.approx(1, abs=0.03)
    seen_x, y = (np.array([one[name] for one in found["seen"]]) for name in ("x", "y"))
    assert (seen_x == x[:, :17]).all()
    np.testing.assert_allclose(y, (x @ w[:, :, None])[:, :17, 0] + 0.7 * noise[:, :17])


# ------------------------------------------------------------------------------------- in a browser

STATE = """(root) => JSON.stringify({
  ...root.state(),
  data: JSON.parse(root.querySelector("script[type='application/json']").textContent),
  numbers: NUMBERS,
  cells: [...root.querySelectorAll(".explorable-matrix tbody tr")].slice(1)
    .map((line) => [...line.querySelectorAll("td")].map((cell) => [cell.textContent, cell.className])),
  heads: [...root.querySelectorAll(".explorable-heads button")]
    .map((button) => [button.getAttribute("aria-label"), button.getAttribute("aria-pressed")]),
  pictures: [...root.querySelectorAll("svg[role=img]")].map((svg) => svg.getAttribute("aria-label")),
}, (_, value) => (value instanceof Float64Array ? [...value] : value))""".replace("NUMBERS", NUMBERS)


def state_that_the_library_confirms(root):
    """What the page's explorable shows now, after a comparison of all of it with the library."""
    state = json.loads(root.evaluate(STATE))
    on, data = state["on"], state["data"]
    weights = {
        name: torch.tensor(weight["values"], dtype=torch.float64).reshape(weight["shape"])
        for name, weight in state["weights"].items()
    }
    for name, weight in explorables.unpack(data["weights"]).items():
        torch.testing.assert_close(weights[name], weight)
    x, y, w = (
        torch.tensor([one[name] for one in state["prompts"]], dtype=torch.float64) for name in ("x", "y", "w")
    )
    assert x.shape[1] == state["n"]
    prompts = Prompts(x, y, w, torch.full((len(x),), state["n"]), x[:, :0])
    d, s = data["task"]["d"], data["task"]["s"]
    D, k = weights["W_Q.0"].shape[1:]
    model = Transformer(d, tuple(map(len, on)), D, k)
    task = Task(d, s)
    there = measured(model, weights, task, prompts, on)
    whole = measured(model, weights, task, prompts, [[True] * len(layer) for layer in on])
    expected = {
        "risk": there["risks"][-1],
        "median": there["median"],
        "whole": whole["risks"][-1],
        "zero": trimmed_mean(task.excess_risk(torch.zeros(d), w)).item(),
        "found": there["found"][state["shown"]],
        "found-mean": there["found"].mean(),
    }
    check_numbers(state["numbers"], expected)
    columns = np.array([w[state["shown"]].numpy(), *there["read"][:, state["shown"]]])
    largest = np.argsort(-abs(columns), kind="stable")[:, :s]
    for j, line in enumerate(state["cells"]):
        for c, (text, look) in enumerate(line):
            assert float(text) == pytest.approx(columns[c, j], rel=5.001e-3, abs=5.001e-3)
            assert ("marked" in look) == (j in largest[c])
    expected_heads = [
        [f"layer {layer}, head {head}: {'on' if one else 'off'}", "true" if one else "false"]
        for layer, row in enumerate(on, 1)
        for head, one in enumerate(row, 1)
    ]
    assert state["heads"] == expected_heads
    return state


@pytest.mark.browser
def test_heads_are_switched_by_mouse(root):
    state = state_that_the_library_confirms(root)
    kept, pictures = state["data"]["kept"], state["pictures"]
    assert all(map(all, state["on"]))
    assert state["numbers"]["risk"] == state["numbers"]["whole"]
    button(root, "layer 1, head 2: on").click()
    state = state_that_the_library_confirms(root)
    assert state["on"][0][:3] == [True, False, True]
    assert state["numbers"]["risk"] != state["numbers"]["whole"]
    assert all(new != old for new, old in zip(state["pictures"], pictures, strict=True))
    button(root, "layer 1, head 2: off").click()
    assert state_that_the_library_confirms(root)["on"][0][1]
    for version in ("single", "pruned", "full"):
        button(root, version).click()
        state = state_that_the_library_confirms(root)
        assert [[h for h, one in enumerate(row) if one] for row in state["on"]] == kept[version]
        assert button(root, version).get_attribute("aria-pressed") == "true"
    button(root, "single").click()
    button(root, "new prompts").click()
    new = state_that_the_library_confirms(root)
    assert new["seed"] == state["seed"] + 1
    assert new["prompts"][0]["w"] != state["prompts"][0]["w"]
    for name in ("n", "sigma"):
        slide(root, name, 0.8)
        state = state_that_the_library_confirms(root)
        assert state[name] > new[name]
        output = root.locator(f"input[name={name}] + output")
        assert output.inner_text() == f"{state[name]:g}"
    for column in range(1, len(state["on"][0]) + 1):
        button(root, f"layer 2, head {column}: {'on' if state['on'][1][column - 1] else 'off'}").click()
    after = state_that_the_library_confirms(root)["on"][1]
    assert after == [not one for one in state["on"][1]]


@pytest.mark.browser
def test_heads_are_switched_by_keyboard(root):
    press = root.page.keyboard.press
    button(root, "layer 1, head 1: on").focus()
    for key in ("Tab", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        press(key)
    press("Space")
    assert not state_that_the_library_confirms(root)["on"][1][1]
    for key in ("ArrowDown", "Enter", "ArrowUp", "Enter"):
        press(key)
    state = state_that_the_library_confirms(root)
    assert [row[1] for row in state["on"][:3]] == [True, True, False]
    root.locator("input[name=n]").focus()
    press("ArrowRight")
    press("Tab")
    press("ArrowLeft")
    moved = state_that_the_library_confirms(root)
    assert moved["n"] == state["n"] + 1
    assert moved["sigma"] < state["sigma"]
    button(root, "pruned").focus()
    press("Enter")
    state = state_that_the_library_confirms(root)
    assert [[h for h, one in enumerate(row) if one] for row in state["on"]] == state["data"]["kept"]["pruned"]
