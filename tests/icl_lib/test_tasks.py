"""Prompts: shapes, laws of the weights, covariance, noise; dimensions are distinct primes."""

import math

import pytest
import torch

from icl_lib.tasks import WEIGHTS, MultiTask, Prompts, Task, gram, seeded, tokens

B, N, D, S, QUERIES = 13, 11, 7, 3, 5


def test_shapes(generator):
    drawn = Task(D, S).sample(B, N, seed=generator, queries=QUERIES, dtype=torch.float64)
    expected = dict(x=(B, N, D), y=(B, N), w=(B, D), n=(B,), x_query=(B, QUERIES, D))
    assert {name: part.shape for name, part in drawn._asdict().items()} == expected
    assert tokens(drawn).shape == (B, N + QUERIES, D + 1)
    assert gram(drawn).shape == (B, D + 1, D + 1)
    assert drawn.target().shape == (B, QUERIES)


def test_streams_depend_on_the_generator_and_its_names_alone():
    one, two = (Task(D, S).sample(B, N, seed=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    names = [(1, 23), (12, 3), (1, "a"), (1,), (1, 23)]
    *draws, again = [torch.rand(1, generator=seeded(*each)).item() for each in names]
    assert len(set(draws)) == len(draws)
    assert again == draws[0]


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_labels_are_linear_with_noise_of_deviation_sigma(sigma, generator):
    drawn = Task(D, S, sigma=sigma).sample(2000, N, seed=generator, dtype=torch.float64)
    noise = drawn.y - (drawn.x @ drawn.w[..., None])[..., 0]
    assert noise.square().mean().sqrt().item() == pytest.approx(sigma, rel=0.03, abs=1e-12)


def test_support_has_s_entries_uniformly(generator):
    w = Task(D, S).sample(20_000, 1, seed=generator).w
    assert ((w != 0).sum(1) == S).all()
    share = (w != 0).double().mean(0)
    torch.testing.assert_close(share, torch.full((D,), S / D).double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("law", WEIGHTS)
def test_laws_have_second_moment_one(law, generator):
    drawn = Task(D, D, weights=law, scale=0.5).sample(20_000, 1, seed=generator)
    assert drawn.w.square().mean().item() == pytest.approx(0.25, rel=0.03)
    if law in ("half-normal", "binary"):
        assert (drawn.w > 0).all()
    else:
        assert drawn.w.mean().item() == pytest.approx(0, abs=0.01)
    if law in ("rademacher", "binary"):
        assert (drawn.w.abs() == 0.5).all()


def test_mean_can_differ_by_prompt(generator):
    means = [3.0, -2.0]
    w = Task(D, S).sample(10_000, 1, generator, mean=torch.tensor(means).repeat_interleave(5000)).w
    for half, mean in zip(w.split(5000), means, strict=True):
        assert half[half != 0].mean().item() == pytest.approx(mean, abs=0.05)


def test_covariates_have_the_covariance(generator):
    task = Task(3, 2, rho=0.5, variances=(1.0, 4.0, 9.0))
    expected = torch.tensor([[1.0, 1.0, 0.75], [1.0, 4.0, 3.0], [0.75, 3.0, 9.0]])
    torch.testing.assert_close(task.covariance(dtype=torch.float32), expected)
    drawn = task.sample(40_000, 2, seed=generator)
    for x in (drawn.x.flatten(0, 1), drawn.x_query.flatten(0, 1)):
        torch.testing.assert_close(torch.cov(x.T), expected, atol=0.25, rtol=0.05)


@pytest.mark.parametrize("task", [Task(D, S), Task(D, S, rho=0.5, variances=tuple(range(1, D + 1)))])
def test_excess_risk_is_the_error_at_fresh_queries(task, generator):
    drawn = task.sample(3, 2, seed=generator, queries=200_000, dtype=torch.float64)
    w_hat = torch.randn(3, D, generator=generator, dtype=torch.float64)
    sampled = ((drawn.x_query @ w_hat[..., None])[..., 0] - drawn.target()).square().mean(-1)
    torch.testing.assert_close(task.excess_risk(w_hat, drawn.w), sampled, rtol=0.03, atol=0)


def test_tokens_and_gram_by_hand():
    expected = torch.tensor([[[1.0, 2.0, 5.0], [3.0, 4.0, 6.0], [7.0, 8.0, 0.0]]])
    context, query = expected[:, :2], expected[:, 2:, :2]
    drawn = Prompts(context[..., :2], context[..., 2], torch.ones(1, 2), torch.tensor([2]), query)
    assert torch.equal(tokens(drawn), expected)
    assert torch.equal(gram(drawn), context.mT @ context / 2)


def test_rows_past_the_length_are_zero(generator):
    drawn = Task(D, S).sample(500, (3, N), seed=generator)
    assert set(drawn.n.tolist()) == set(range(3, N + 1))
    outside = torch.arange(N) >= drawn.n[:, None]
    assert (drawn.x[outside] == 0).all()
    assert (drawn.y[outside] == 0).all()
    assert (drawn.x[~outside] != 0).all()


def test_multitask(generator):
    task = MultiTask(d=7, blocks=((0, 1, 2), (2, 3, 4, 5, 6)), noise=0.1)
    drawn = task.sample(5000, N, seed=generator, queries=QUERIES, dtype=torch.float64)
    assert drawn.y.shape == (5000, N, 2)
    assert drawn.target().shape == (5000, QUERIES, 2)
    assert tokens(drawn).shape == (5000, N + QUERIES, 9)
    assert (drawn.w[:, 0, 3:] == 0).all()
    assert (drawn.w[:, 1, :2] == 0).all()
    noise = drawn.y - torch.einsum("bnd,btd->bnt", drawn.x, drawn.w)
    for k, d_k in enumerate((3, 5)):
        assert noise[..., k].std().item() == pytest.approx(math.sqrt(0.1 * d_k), rel=0.02)
