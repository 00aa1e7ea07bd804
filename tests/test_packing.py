"""Models packed into rows and back, padded with heads of zeros; dimensions are distinct primes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_lib import packing
from icl_lib.attention_layer import AttentionLayer
from icl_lib.tasks import MultiTask, Task
from icl_lib.transformer import ATTENTION, Transformer

PRIMES = st.sampled_from([2, 3, 5, 7])
HEADS = st.integers(1, 5)


@st.composite
def transformers(draw):
    """Settings of one to four transformers that differ in their numbers of heads."""
    layers = draw(st.integers(1, 3))
    same = dict(d=draw(PRIMES), D=draw(PRIMES), k=draw(PRIMES), attention=draw(st.sampled_from(ATTENTION)))
    heads = draw(st.lists(st.tuples(*[HEADS] * layers), min_size=1, max_size=4))
    return [(Transformer, same | {"heads": h}) for h in heads]


@st.composite
def attention_layers(draw):
    same = dict(d=draw(PRIMES), tasks=draw(st.integers(1, 3)))
    heads = draw(st.lists(HEADS, min_size=1, max_size=4))
    return [(AttentionLayer, same | {"heads": h}) for h in heads]


def initial(models, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [model.init(generator, dtype) for model in models]


@settings(max_examples=40, deadline=None)
@given(st.one_of(transformers(), attention_layers()))
def test_round_trip(drawn):
    """Rows of the widest model's size hold every model, zeros elsewhere, and give it back unchanged."""
    models = [kind(**options) for kind, options in drawn]
    shapes = packing.widest(models).shapes()
    weights = initial(models)
    rows = torch.stack([packing.pack(w, shapes) for w in weights])
    stacked = packing.unpack(rows, shapes)
    assert {name: tuple(t.shape) for name, t in stacked.items()} == {
        name: (len(models), *shape) for name, shape in shapes.items()
    }
    for row, (model, before) in enumerate(zip(models, weights, strict=True)):
        after = packing.strip({name: t[row] for name, t in stacked.items()}, model.shapes())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert rows[row].count_nonzero() == sum(w.count_nonzero() for w in before.values())


@settings(max_examples=20, deadline=None)
@given(st.one_of(transformers(), attention_layers()))
def test_heads_of_zeros_add_nothing_and_have_no_gradient(drawn):
    models = [kind(**options) for kind, options in drawn]
    wide = packing.widest(models)
    d, tasks = wide.d, getattr(wide, "tasks", 1)
    task = Task(d, d) if tasks == 1 else MultiTask(d, (tuple(range(d)),) * tasks)
    prompts = task.sample(3, (2, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shapes = wide.shapes()
    for model, weights in zip(models, initial(models, torch.float64), strict=True):
        row = packing.pack(weights, shapes).requires_grad_()
        padded = wide.predict(packing.unpack(row, shapes), prompts)
        torch.testing.assert_close(padded, model.predict(weights, prompts), atol=1e-11, rtol=1e-11)
        padded.square().sum().backward()
        inside = packing.pack({name: torch.ones(shape) for name, shape in model.shapes().items()}, shapes)
        assert (row.grad[inside == 0] == 0).all()


def test_widest_takes_the_most_heads_of_each_layer():
    models = [Transformer(3, heads, D=5, k=2) for heads in [(1, 7), (3, 2), (2, 2)]]
    assert packing.widest(models) == Transformer(3, (3, 7), D=5, k=2)
    assert packing.widest([AttentionLayer(3, 2), AttentionLayer(3, 5)]) == AttentionLayer(3, 5)


def test_unpacked_weights_are_views_and_stripped_ones_are_copies():
    model = AttentionLayer(3, 2)
    row = packing.pack(initial([model])[0], model.shapes())
    unpacked = packing.unpack(row, model.shapes())
    stripped = packing.strip(unpacked, model.shapes())
    before = {name: t.clone() for name, t in stripped.items()}
    row.zero_()
    assert all((t == 0).all() for t in unpacked.values())
    assert all(torch.equal(stripped[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], r"models = \[\]: allowed is at least one"),
        (
            [Transformer(3), AttentionLayer(3)],
            "AttentionLayer and Transformer do not stack: allowed is one kind",
        ),
        (
            [AttentionLayer(3), Transformer(3)],
            "AttentionLayer and Transformer do not stack: allowed is one kind",
        ),
        (
            [Transformer(heads=(2,)), Transformer(heads=(2, 2))],
            r"\[1, 2\] layers do not stack: allowed is one",
        ),
        ([Transformer(3), Transformer(5)], r"Transformer\(d=5, .* allowed are other numbers of heads"),
        ([Transformer(attention="relu"), Transformer()], "attention='linear'.* does not stack"),
        ([AttentionLayer(3), AttentionLayer(3, tasks=2)], "tasks=2.* does not stack"),
        # Without k the width is D / heads, so that other numbers of heads are other widths.
        ([Transformer(D=12, heads=(2,)), Transformer(D=12, heads=(3,))], "allowed .* heads of one width"),
    ],
)
def test_models_that_do_not_stack(models, message):
    with pytest.raises(ValueError, match=message) as caught:
        packing.widest(models)
    assert "\n" not in str(caught.value)
