"""Paper B's layer: merged against unmerged attention, several tasks, lengths."""

import math

import pytest
import torch

from icl_lib.attention_layer import ATTENTION, AttentionLayer
from icl_lib.tasks import MultiTask, Task

B, N, QUERIES = 7, 11, 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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


@pytest.mark.parametrize("heads", [1, 2, 5])
@pytest.mark.parametrize("attention", ATTENTION)
def test_merged_is_unmerged(heads, attention):
    model = AttentionLayer(5, heads, attention=attention)
    weights = model.init(seeded(), torch.float64)
    drawn = Task(5, 5).sample(B, (3, N), generator=seeded(1), queries=QUERIES, dtype=torch.float64)
    predicted = model.predict(weights, drawn)
    assert predicted.shape == (B, QUERIES)
    torch.testing.assert_close(predicted, unmerged(model, weights, drawn)[..., 0])


def test_merged_is_unmerged_for_several_tasks():
    task, model = MultiTask(), AttentionLayer(6, 3, tasks=2)
    weights = model.init(seeded(), torch.float64)
    drawn = task.sample(B, N, generator=seeded(1), queries=QUERIES, dtype=torch.float64)
    predicted = model.predict(weights, drawn)
    torch.testing.assert_close(predicted, unmerged(model, weights, drawn))
    error = (predicted - drawn.target()).square().sum(-1).mean(-1)
    torch.testing.assert_close(model.excess_risk(weights, task, drawn), error)


def test_stacked_models_predict_as_alone():
    model = AttentionLayer(5, 2)
    members = [model.init(seeded(seed), torch.float64) for seed in range(3)]
    stack = {name: torch.stack([m[name] for m in members]) for name in members[0]}
    drawn = Task(5, 5).sample(B, N, generator=seeded(1), queries=QUERIES, dtype=torch.float64)
    together = model.predict(stack, drawn)
    assert together.shape == (3, B, QUERIES)
    for member, prediction in zip(members, together, strict=True):
        torch.testing.assert_close(model.predict(member, drawn), prediction)


def test_opposite_heads_make_debiased_gradient_descent():
    """KQ = +-omega I, OV = +-mu e_last: for small omega the prediction is debiased gradient descent."""
    from icl_lib.estimators import debiased_gd

    model, omega, mu = AttentionLayer(5, 2), 1e-4, 2.0
    weights = {name: torch.zeros(shape).double() for name, shape in model.shapes().items()}
    for h, sign in enumerate((1, -1)):
        weights["K"][h] = torch.eye(6)
        weights["Q"][h, :5, :5] = sign * omega * math.sqrt(6) * torch.eye(5)
        weights["V"][h] = torch.eye(6)
        weights["O"][h, 0, -1] = sign * mu
    torch.testing.assert_close(model.kq(weights)[0, :5, :5], omega * torch.eye(5).double())
    drawn = Task(5, 5).sample(B, N, generator=seeded(1), queries=QUERIES, dtype=torch.float64)
    w_hat = debiased_gd(drawn.x, drawn.y, omega, mu)
    expected = (drawn.x_query @ w_hat[..., None])[..., 0]
    torch.testing.assert_close(model.predict(weights, drawn), expected, rtol=1e-3, atol=1e-8)


def test_initial_weights_are_those_of_a_linear_layer():
    weights = AttentionLayer(46, 11).init(seeded())
    for w in weights.values():
        assert w.abs().max() <= 1 / math.sqrt(47)
        assert w.std().item() == pytest.approx(1 / math.sqrt(3 * 47), rel=0.1)


def test_bad_settings():
    with pytest.raises(ValueError, match="heads = 0: allowed is an integer >= 1"):
        AttentionLayer(5, 0)
    with pytest.raises(ValueError, match="tasks = 0: allowed"):
        AttentionLayer(5, 2, tasks=0)
    with pytest.raises(ValueError, match="attention = 'relu': allowed is 'linear' or 'softmax'"):
        AttentionLayer(5, 2, attention="relu")
