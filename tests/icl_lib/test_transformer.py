"""The transformer: token form against a plain loop, Gram form against token form, masks, constructions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_lib.constructions import preprocess_then_optimize_transformer
from icl_lib.estimators import at_queries, gradient_descent, preprocess_then_optimize
from icl_lib.tasks import Task, gram, seeded
from icl_lib.transformer import ATTENTION, Transformer

B, N, QUERIES = 11, 13, 3
DRAWN = Task(3, 2).sample(B, N, seed=1, queries=QUERIES, dtype=torch.float64)


def by_hand(model, weights, drawn):
    """The definition, one token, head and key at a time."""
    out = torch.zeros(drawn.x_query.shape[:2], dtype=drawn.x.dtype)
    for b in range(len(drawn.x)):
        n = int(drawn.n[b])
        rows = [torch.cat([drawn.x[b, i], drawn.y[b, i, None]]) for i in range(n)]
        rows += [torch.cat([query, query.new_zeros(1)]) for query in drawn.x_query[b]]
        z = [row @ weights["W_in"] for row in rows]
        for layer, H in enumerate(model.heads):
            update = [torch.zeros_like(row) for row in z]
            for h in range(H):
                Q, K, V, O = (weights[f"W_{name}.{layer}"][h] for name in "QKVO")  # noqa: E741
                for i, row in enumerate(z):
                    scores = torch.stack([(row @ Q) @ (z[j] @ K) for j in range(n)])
                    if model.attention == "linear":
                        share = scores / n
                    elif model.attention == "relu":
                        share = (scores / math.sqrt(Q.shape[1])).relu() / n
                    else:
                        share = (scores / math.sqrt(Q.shape[1])).softmax(0)
                    update[i] = update[i] + sum(share[j] * (z[j] @ V) for j in range(n)) @ O
            z = [row + change for row, change in zip(z, update, strict=True)]
        out[b] = torch.stack([row @ weights["w_out"] for row in z[n:]])
    return out


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("heads", [(2,), (2, 2), (3, 1, 2)])
def test_token_form_is_the_definition(attention, heads):
    """And what is past a prompt's length has no part in it."""
    model = Transformer(5, heads, 7, 3, attention, init_scale=1.0)
    weights = model.init(seeded(), torch.float64)
    drawn = Task(5, 2).sample(3, (2, 6), seed=1, queries=2, dtype=torch.float64)
    torch.testing.assert_close(model.predict(weights, drawn), by_hand(model, weights, drawn))


@settings(max_examples=40, deadline=None)
@given(
    d=st.sampled_from([2, 3, 5]),
    heads=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    D=st.sampled_from([7, 11, 17]),
    k=st.sampled_from([1, 2, 13]),
    stack=st.sampled_from([(), (2,)]),
    seed=st.integers(0, 1000),
)
def test_gram_form_equals_token_form(d, heads, D, k, stack, seed):
    """To 1e-12 in float64 and 1e-5 in float32, over sizes, heads per layer, masks, lengths and stacks."""
    model = Transformer(d, heads, D, k, init_scale=0.5)
    generator = seeded(seed)
    members = [model.init(generator, torch.float64) for _ in range(math.prod(stack))]
    weights = {
        name: torch.stack([member[name] for member in members]).view(*stack, *shape)
        for name, shape in model.shapes().items()
    }
    coins = [torch.randint(0, 2, (H,), generator=generator) for H in heads]
    off = {layer: coin.nonzero()[:, 0].tolist() for layer, coin in enumerate(coins)}
    drawn = Task(d, 1).sample(B, (3, N), seed=generator, queries=QUERIES, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        cast = {name: w.to(dtype) for name, w in model.switched_off(weights, off).items()}
        prompts = drawn.to(dtype)
        w_hat = model.effective_weights(cast, gram(prompts))
        assert w_hat.shape == (*stack, B, d)
        difference = (prompts.x_query @ w_hat[..., None])[..., 0] - model.predict(cast, prompts)
        assert difference.norm() < tolerance * model.predict(cast, prompts).norm()


@pytest.mark.parametrize("heads", [(3,), (2, 5), (2, 3, 1)])
def test_gradients_of_both_forms_agree(heads):
    model = Transformer(3, heads, 7, 5)
    weights = {name: w.requires_grad_() for name, w in model.init(seeded(), torch.float64).items()}
    w_hat = model.effective_weights(weights, gram(DRAWN))
    forms = (model.predict(weights, DRAWN), at_queries(w_hat, DRAWN.x_query))
    grads = [torch.autograd.grad(form.square().sum(), list(weights.values())) for form in forms]
    for tokens, grams in zip(*grads, strict=True):
        torch.testing.assert_close(tokens, grams)


def test_layer_weights_are_those_of_the_truncated_model():
    model = Transformer(3, (2, 3, 1), 7, 5)
    weights = model.init(seeded(), torch.float64)
    G = gram(DRAWN)
    by_layer = model.layer_weights(weights, G)
    assert by_layer.shape == (4, B, 3)
    for layer in (1, 2, 3):
        shorter = Transformer(3, model.heads[:layer], 7, 5)
        torch.testing.assert_close(by_layer[layer], shorter.effective_weights(weights, G))


@pytest.mark.parametrize("attention", ATTENTION)
def test_masking_a_head_is_its_output_set_to_zero(attention):
    model = Transformer(3, (2, 5), 7, 3, attention)
    weights = model.init(seeded(), torch.float64)
    zeroed = weights | {"W_O.1": weights["W_O.1"].clone()}
    zeroed["W_O.1"][2] = 0
    for off, expected in (({1: [2]}, zeroed), ({0: [], 1: []}, weights)):
        predicted = model.predict(model.switched_off(weights, off), DRAWN)
        assert torch.equal(predicted, model.predict(expected, DRAWN))
    assert not torch.allclose(model.predict(zeroed, DRAWN), model.predict(weights, DRAWN))


def test_excess_risk_is_exact_for_linear_attention():
    task, model = Task(3, 2, rho=0.5), Transformer(3, (2, 1), 7, 5, init_scale=1.0)
    weights = model.init(seeded(), torch.float64)
    drawn = task.sample(2, N, seed=1, queries=300_000, dtype=torch.float64)
    sampled = (model.predict(weights, drawn) - drawn.target()).square().mean(-1)
    torch.testing.assert_close(model.excess_risk(weights, task, drawn), sampled, rtol=0.02, atol=0)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5])
def test_construction_is_preprocess_then_optimize(steps):
    """At context tokens and queries alike, in both forms; without preprocessing heads it predicts zero."""
    d, eta = 5, 0.17
    model, weights = preprocess_then_optimize_transformer(d, steps, eta)
    assert model.heads == (d,) + (1,) * steps
    drawn = Task(d, 2).sample(B, N, seed=0, queries=QUERIES, dtype=torch.float64)
    w_hat = preprocess_then_optimize(drawn.x, drawn.y, steps, eta, per_prompt=False)
    expected = at_queries(w_hat, torch.cat([drawn.x, drawn.x_query], 1))
    torch.testing.assert_close(model.read_tokens(weights, drawn), expected, atol=1e-10, rtol=1e-10)
    G = gram(drawn)
    torch.testing.assert_close(model.effective_weights(weights, G), w_hat, atol=1e-10, rtol=1e-10)
    off = model.switched_off(weights, {0: range(d)})
    assert (model.effective_weights(off, G) == 0).all()


def test_one_head_can_take_gradient_steps():
    """A width of d + 1 is enough for gradient descent: Q and K read x, V reads y minus the prediction."""
    d, eta, steps = 3, 0.2, 4
    model = Transformer(d, (1,) * steps, d + 2, d + 1)
    weights = {name: torch.zeros(shape).double() for name, shape in model.shapes().items()}
    weights["W_in"][:, : d + 1] = torch.eye(d + 1)
    for layer in range(steps):
        weights[f"W_Q.{layer}"][0, :d, :d] = torch.eye(d)
        weights[f"W_K.{layer}"][0, :d, :d] = torch.eye(d)
        weights[f"W_V.{layer}"][0, d:, 0] = torch.tensor([1.0, -1.0])
        weights[f"W_O.{layer}"][0, 0, d + 1] = eta
    weights["w_out"][d + 1] = 1
    expected = gradient_descent(DRAWN.x, DRAWN.y, range(steps + 1), eta, per_prompt=False)
    torch.testing.assert_close(model.layer_weights(weights, gram(DRAWN)), expected)
