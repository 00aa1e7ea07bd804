"""Paper B's layer: merged against unmerged attention, several tasks, lengths."""

import math
from itertools import product

import pytest
import torch

from icl_lib.attention_layer import ATTENTION, AttentionLayer
from icl_lib.constructions import heads_on_pattern
from icl_lib.estimators import at_queries, debiased_gd
from icl_lib.tasks import MultiTask, Task, seeded
from icl_lib.training import stack

B, N, QUERIES = 7, 11, 3
DRAWN = Task(5, 5).sample(B, N, seed=1, queries=QUERIES, dtype=torch.float64)


def unmerged(model, weights, drawn):
    """sum_h O V Z softmax(Z^T K^T Q z_q / sqrt(p)), one query at a time, as in the paper; linear: over n."""
    out = []
    for b in range(len(drawn.x)):
        n = int(drawn.n[b])
        Z = torch.cat([drawn.x[b, :n], drawn.y[b, :n].reshape(n, -1)], 1).T  # (p, n)
        for query in drawn.x_query[b]:
            z_q = torch.cat([query, query.new_zeros(model.tasks)])
            total = 0
            for h in range(model.heads):
                K, Q, V, O = (weights[name][h] for name in "KQVO")  # noqa: E741
                scores = Z.T @ K.T @ Q @ z_q / math.sqrt(model.p)
                total = total + O @ V @ Z @ (
                    scores.softmax(0) if model.attention == "softmax" else scores / n
                )
            out.append(total)
    return torch.stack(out).view(len(drawn.x), -1, model.tasks)


ONE_TASK = product([Task(5, 5)], [1, 2, 5], ATTENTION)


@pytest.mark.parametrize(("task", "heads", "attention"), [*ONE_TASK, (MultiTask(), 3, "softmax")])
def test_merged_is_unmerged(task, heads, attention):
    model = AttentionLayer(task.d, heads, task.outputs, attention)
    weights = model.init(seeded(), torch.float64)
    drawn = task.sample(B, (3, N), seed=1, queries=QUERIES, dtype=torch.float64)
    expected = unmerged(model, weights, drawn).view_as(drawn.target())
    torch.testing.assert_close(model.predict(weights, drawn), expected)
    error = (expected - drawn.target()).square().view(B, QUERIES, task.outputs).sum(-1).mean(-1)
    torch.testing.assert_close(model.excess_risk(weights, task, drawn), error)


def test_stacked_models_predict_as_alone():
    model = AttentionLayer(5, 2)
    members = [model.init(seeded(seed), torch.float64) for seed in range(3)]
    expected = torch.stack([model.predict(member, DRAWN) for member in members])
    torch.testing.assert_close(model.predict(stack(members), DRAWN), expected)


def test_opposite_heads_make_debiased_gradient_descent():
    """KQ = +-omega I, OV = +-mu e_last: for small omega the prediction is debiased gradient descent."""
    omega, mu, signs = 1e-4, 2.0, torch.tensor([1.0, -1.0]).double()
    KQ = omega * signs[:, None, None] * torch.eye(5)
    model, weights = heads_on_pattern(KQ, mu * signs)
    torch.testing.assert_close(model.kq(weights)[:, :5, :5], KQ)
    expected = at_queries(debiased_gd(DRAWN.x, DRAWN.y, omega, mu), DRAWN.x_query)
    torch.testing.assert_close(model.predict(weights, DRAWN), expected, rtol=1e-3, atol=1e-8)


def test_initial_weights_are_those_of_a_linear_layer():
    for w in AttentionLayer(46, 11).init(seeded()).values():
        assert w.abs().max() <= 1 / math.sqrt(47)
        assert w.std().item() == pytest.approx(1 / math.sqrt(3 * 47), rel=0.1)
