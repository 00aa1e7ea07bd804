"""Bad input is refused in one clear line that names the value, and before any computing."""

import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from icl_lib.attention_layer import AttentionLayer
from icl_lib.estimators import bayes, gradient_descent, lasso, ols, ridge
from icl_lib.evaluation import vary
from icl_lib.heads import prune, scaled
from icl_lib.tasks import MultiTask, Task, gram, seeded
from icl_lib.training import Training, run
from icl_lib.transformer import Transformer

LINEAR = Training(Task(3, 2), Transformer(3, (2, 3), D=5, k=2), steps=1)
LAYER = replace(LINEAR, model=AttentionLayer(3, 2))
SIGNS, BINARY = Task(3, 2, weights="rademacher"), Task(7, 3, weights="binary")
MODEL, WEIGHTS = LINEAR.model, LINEAR.model.init(seeded("weights"))
RELU, ONE_HEAD = replace(MODEL, attention="relu"), replace(MODEL, heads=(1, 1))
OTHER = Task(5, 2).sample(11, 7, 0)  # of another d than the model
X, Y, G = OTHER.x, OTHER.y, gram(OTHER)


class NeverMade(Transformer):
    def init(self, *_):
        pytest.fail("computed before it checked")


UNSEEN = replace(LINEAR, model=NeverMade(3, (2, 1), D=5, k=2))

FIELDS = [  # settings, what is allowed of their fields, and what is not
    (Task(), "an integer >= 1", dict(d=[0])),
    (Task(4, 2), "an integer from 1 to 4", dict(s=[0, 5])),
    (Task(), "a number >= 0.0", dict(sigma=[-0.1, math.nan, math.inf])),
    (Task(), "'gaussian' or 'rademacher' or 'half-normal' or 'binary'", dict(weights=["cauchy"])),
    (BINARY, "0 for binary weights", dict(mean=[1.0])),
    (Task(), "a number from -0.999 to 0.999", dict(rho=[1.0])),
    (Task(), "a number >= 1e-06", dict(scale=[0.0])),
    (Task(3, 1), "a tuple of d = 3 numbers", dict(variances=[(1.0, 2.0)])),
    (Transformer(), "an integer >= 1", dict(d=[0], k=[0])),
    (Transformer(), "a tuple of integers, one at least", dict(heads=[()])),
    (Transformer(), "'linear' or 'relu' or 'softmax'", dict(attention=["cosine"])),
    (Transformer(), "a number >= 0.0", dict(init_scale=[-1.0])),
    (AttentionLayer(), "an integer >= 1", dict(heads=[0], tasks=[0])),
    (AttentionLayer(), "'linear' or 'softmax'", dict(attention=["relu"])),
    (LINEAR, "an integer >= 1", dict(steps=[0], batch=[-3], queries=[0])),
    (LINEAR, "an integer >= 1", dict(evaluate_every=[0], evaluate_prompts=[0])),
    (LINEAR, "a number >= 0", dict(lr=[-0.1, math.nan], weight_decay=[-1.0])),
    (LINEAR, "a number >= 1e-06", dict(clip=[0.0], delta=[0.0])),
    (LINEAR, "a number from 1e-06 to 1", dict(curriculum_share=[0.0, 1.5])),
    (LINEAR, "a number of any size", dict(curriculum_mean=[math.nan])),
    (replace(LINEAR, task=SIGNS), "0 but for gaussian weights", dict(curriculum_mean=[1.0])),
    (LINEAR, "'cosine' or 'constant'", dict(schedule=["linear"])),
    (LINEAR, "'pseudo-huber' or 'squared'", dict(loss=["huber"])),
]
SAMPLES = [(0, 5), (3, 0), (3, -2), (3, (5, 3)), (3, (0, 3)), (3, 5.0), (3, "40"), (3, (1, 2, 3))]
BLOCKS = [(), ((0, 7),), ((),), (1, 2)]
CALLS = [
    # Settings.
    (lambda: Task(3, 1, variances=(1.0, 2.0, 0.0)), "an item of variances = 0.0: allowed"),
    *((partial(MultiTask, 6, blocks), r"block.* = .*: allowed is") for blocks in BLOCKS),
    (lambda: Transformer(heads=(8, 0)), "an item of heads = 0: allowed is an integer >= 1"),
    (lambda: Transformer(heads=(3,), D=16), r"heads = \(3,\): allowed without k are divisors of D = 16"),
    (lambda: replace(LINEAR, n=(5, 3)), "n = 3: allowed is an integer >= 5"),
    (lambda: replace(LINEAR, n=(0, 3)), "n = 0: allowed is an integer >= 1"),
    (lambda: replace(LINEAR, task=Task(5, 2)), "model.d = 3: allowed is task.d = 5"),
    (lambda: replace(LINEAR, task=MultiTask(3, ((0, 1), (1, 2)))), "= Transformer.* is one that predicts 2"),
    (lambda: replace(LAYER, model=AttentionLayer(3, tasks=2)), "= AttentionLayer.* is one that predicts 1"),
    (lambda: replace(LINEAR, model=nn.Linear(3, 1)), r"model = Linear\(...\): allowed is Module\("),
    (lambda: vary(LINEAR, sigma=1.0, learning_rate=0.1), "learning_rate: allowed are the fields D, .*, lr, "),
    # Prompts.
    *((partial(Task(7, 3).sample, *sample, seed=0), "allowed is an integer") for sample in SAMPLES),
    (lambda: Task(7, 3).sample(3, 11, 0, queries=0), "queries = 0: allowed is an integer >= 1"),
    (lambda: BINARY.sample(3, 11, 0, mean=torch.ones(3)), "mean is given: allowed for binary .* is None"),
    (lambda: MODEL.predict(WEIGHTS, OTHER), r"x has shape \(11, 7, 5\): allowed is \(11, 7, 3\)"),
    (lambda: MODEL.effective_weights(WEIGHTS, G), r"G has shape \(11, 6, 6\): allowed is \(any, 4, 4\)"),
    (lambda: RELU.effective_weights(WEIGHTS, G), "attention = 'relu': allowed in Gram form is 'linear'"),
    # Heads off, scales, pruning.
    (lambda: run(LINEAR, 1).without({2: [0]}), "layer = 2: allowed is an integer from 0 to 1"),
    (lambda: run(LINEAR, 1).without({-1: [0]}), "layer = -1: allowed is an integer from 0 to 1"),
    (lambda: run(LINEAR, 1).without({0: [2]}), "a head = 2: allowed is an integer from 0 to 1"),
    (lambda: run(LINEAR, 1).without({1: [3]}), "a head = 3: allowed is an integer from 0 to 2"),
    (lambda: run(LINEAR, 1).without({1: [0, -1]}), "a head = -1: allowed is an integer from 0 to 2"),
    (lambda: run(LAYER, 1).without({1: [0]}), "layer = 1: allowed is an integer from 0 to 0"),
    (lambda: run(LAYER, 1).without({0: [2]}), "a head = 2: allowed is an integer from 0 to 1"),
    (lambda: scaled([1.0], 0.5, 2.0, "linear"), "scale = 'linear': allowed is 'bounded' or 'log ratio'"),
    (lambda: prune(MODEL, WEIGHTS, [[0]]), r"kept = \[\[0\]\]: allowed is a list for each of the 2 layers"),
    (lambda: prune(MODEL, WEIGHTS, [[0], [3]]), r"item of kept\[1\] = 3: allowed is an integer from 0 to 2"),
    (lambda: prune(MODEL, WEIGHTS, [[0], [2, 2]]), r"kept\[1\] = \[2, 2\]: allowed is each head once"),
    # Estimators.
    (lambda: ols(X, Y[:, 1:]), r"y has shape \(11, 6\): allowed is \(11, 7\)"),
    (lambda: ols(X, Y[1:]), r"y has shape \(10, 7\): allowed is \(11, 7\)"),
    (lambda: ridge(X, Y, -1.0), "penalty = -1.0: allowed is a number >= 0"),
    (lambda: lasso(X, Y, 0.0), "alpha = 0.0: allowed is a number >= 1e-06"),
    (lambda: bayes(X, Y, 6, 0.5), "s = 6: allowed is an integer from 1 to 5"),
    (lambda: bayes(X, Y, 2, 0.0), "sigma = 0.0: allowed is a number >= 1e-06"),
    (lambda: bayes(X, Y, 2, 0.5, "half-normal"), "weights = 'half-normal': allowed is 'gaussian'"),
    (lambda: bayes(X.repeat(1, 1, 4), Y, 10, 0.5), "d = 20, s = 10: allowed are at most 131072 hyp"),
    (lambda: gradient_descent(X, Y, -1), "steps = -1: allowed is an integer >= 0"),
    (lambda: gradient_descent(X, Y, 1, -0.1), "eta = -0.1: allowed is a number >= 0"),
    # Seeds and starts.
    (lambda: run(UNSEEN, 0), "seeds = 0: allowed is an integer >= 1"),
    (lambda: run(UNSEEN, []), r"seeds = \[\]: allowed are different seeds, one at least"),
    (lambda: run(UNSEEN, (3, 1, 3)), r"seeds = \(3, 1, 3\): allowed are different seeds"),
    (lambda: run(UNSEEN, [0, -1]), "a seed = -1: allowed is an integer >= 0"),
    (lambda: run(UNSEEN, 1, starts=[]), "0 starts: allowed are as many as seeds, 1"),
    (lambda: run(UNSEEN, 1, starts=[ONE_HEAD.init(seeded(0))]), r"W_Q.0 of a start.*\(2, 5, 2\)"),
]
for base, allowed, bad in FIELDS:
    for name, value in ((name, value) for name, values in bad.items() for value in values):
        refused = partial(replace, base, **{name: value})
        CALLS.append((refused, re.escape(f"{name} = {value!r}: allowed is {allowed}")))


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_bad_input_is_one_clear_line(call, message, no_shape_checks):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
