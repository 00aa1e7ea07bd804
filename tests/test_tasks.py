"""Prompts: shapes, laws of the weights, covariance, noise; dimensions are distinct primes."""

import math

import pytest
import torch

from icl_lib.tasks import WEIGHTS, MultiTask, Task, gram, tokens

B, N, D, S, QUERIES = 13, 11, 7, 3, 5


@pytest.fixture
def prompts(generator):
    return Task(D, S).sample(B, N, generator=generator, queries=QUERIES, dtype=torch.float64)


def test_shapes(prompts):
    assert prompts.x.shape == (B, N, D)
    assert prompts.y.shape == (B, N)
    assert prompts.w.shape == (B, D)
    assert prompts.n.shape == (B,)
    assert prompts.x_query.shape == (B, QUERIES, D)
    assert tokens(prompts).shape == (B, N + QUERIES, D + 1)
    assert gram(prompts).shape == (B, D + 1, D + 1)
    assert prompts.target().shape == (B, QUERIES)


def test_same_generator_same_prompts():
    one, two = (Task(D, S).sample(B, N, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_labels_are_linear_without_noise(generator):
    drawn = Task(D, S, sigma=0.0).sample(B, N, generator=generator, dtype=torch.float64)
    for b in range(B):
        torch.testing.assert_close(drawn.y[b], drawn.x[b] @ drawn.w[b])


def test_support_has_s_entries_uniformly(generator):
    w = Task(D, S).sample(20_000, 1, generator=generator).w
    assert ((w != 0).sum(1) == S).all()
    share = (w != 0).double().mean(0)
    torch.testing.assert_close(share, torch.full((D,), S / D).double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("law", WEIGHTS)
def test_laws_have_second_moment_one(law, generator):
    drawn = Task(D, D, weights=law, scale=0.5).sample(20_000, 1, generator=generator)
    assert drawn.w.square().mean().item() == pytest.approx(0.25, rel=0.03)
    if law in ("half-normal", "binary"):
        assert (drawn.w > 0).all()
    else:
        assert drawn.w.mean().item() == pytest.approx(0, abs=0.01)
    if law in ("rademacher", "binary"):
        assert (drawn.w.abs() == 0.5).all()


def test_mean_can_differ_by_prompt(generator):
    mean = torch.tensor([3.0, -2.0]).repeat_interleave(5000)
    w = Task(D, S).sample(10_000, 1, generator=generator, mean=mean).w
    assert w[:5000][w[:5000] != 0].mean().item() == pytest.approx(3.0, abs=0.05)
    assert w[5000:][w[5000:] != 0].mean().item() == pytest.approx(-2.0, abs=0.05)


def test_noise_has_deviation_sigma(generator):
    drawn = Task(D, S, sigma=0.7).sample(2000, N, generator=generator)
    noise = drawn.y - (drawn.x @ drawn.w[..., None])[..., 0]
    assert noise.std().item() == pytest.approx(0.7, rel=0.03)


def test_covariance_by_hand():
    task = Task(3, 2, rho=0.5, variances=(1.0, 4.0, 9.0))
    expected = torch.tensor([[1.0, 1.0, 0.75], [1.0, 4.0, 3.0], [0.75, 3.0, 9.0]])
    torch.testing.assert_close(task.covariance(dtype=torch.float32), expected)


def test_covariates_have_the_covariance(generator):
    task = Task(3, 2, rho=0.5, variances=(1.0, 4.0, 9.0))
    drawn = task.sample(40_000, 2, generator=generator)
    for x in (drawn.x.flatten(0, 1), drawn.x_query.flatten(0, 1)):
        torch.testing.assert_close(torch.cov(x.T), task.covariance(dtype=x.dtype), atol=0.25, rtol=0.05)


@pytest.mark.parametrize("task", [Task(D, S), Task(D, S, rho=0.5, variances=tuple(range(1, D + 1)))])
def test_excess_risk_is_the_error_at_fresh_queries(task, generator):
    drawn = task.sample(3, 2, generator=generator, queries=200_000, dtype=torch.float64)
    w_hat = torch.randn(3, D, generator=generator, dtype=torch.float64)
    sampled = ((drawn.x_query @ w_hat[..., None])[..., 0] - drawn.target()).square().mean(-1)
    torch.testing.assert_close(task.excess_risk(w_hat, drawn.w), sampled, rtol=0.03, atol=0)


def test_tokens_and_gram_by_hand(generator):
    drawn = (
        Task(2, 1)
        .sample(1, 2, generator=generator)
        ._replace(
            x=torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]),
            y=torch.tensor([[5.0, 6.0]]),
            x_query=torch.tensor([[[7.0, 8.0]]]),
        )
    )
    expected = torch.tensor([[1.0, 2.0, 5.0], [3.0, 4.0, 6.0], [7.0, 8.0, 0.0]])
    assert torch.equal(tokens(drawn)[0], expected)
    context = expected[:2]
    assert torch.equal(gram(drawn)[0], context.T @ context / 2)


def test_rows_past_the_length_are_zero(generator):
    drawn = Task(D, S).sample(500, (3, N), generator=generator)
    assert set(drawn.n.tolist()) == set(range(3, N + 1))
    outside = torch.arange(N) >= drawn.n[:, None]
    assert (drawn.x[outside] == 0).all()
    assert (drawn.y[outside] == 0).all()
    assert (drawn.x[~outside] != 0).all()


def test_multitask(generator):
    task = MultiTask(d=7, blocks=((0, 1, 2), (2, 3, 4, 5, 6)), noise=0.1)
    drawn = task.sample(5000, N, generator=generator, queries=QUERIES, dtype=torch.float64)
    assert drawn.y.shape == (5000, N, 2)
    assert drawn.target().shape == (5000, QUERIES, 2)
    assert tokens(drawn).shape == (5000, N + QUERIES, 9)
    assert (drawn.w[:, 0, 3:] == 0).all()
    assert (drawn.w[:, 1, :2] == 0).all()
    noise = drawn.y - torch.einsum("bnd,btd->bnt", drawn.x, drawn.w)
    for k, d_k in enumerate((3, 5)):
        assert noise[..., k].std().item() == pytest.approx(math.sqrt(0.1 * d_k), rel=0.02)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dict(d=0), "d = 0: allowed is an integer >= 1"),
        (dict(d=4, s=5), "s = 5: allowed is an integer from 1 to 4"),
        (dict(s=0), "s = 0: allowed"),
        (dict(sigma=-0.1), "sigma = -0.1: allowed is a number >= 0.0"),
        (dict(sigma=float("nan")), "sigma = nan: allowed"),
        (dict(weights="cauchy"), "weights = 'cauchy': allowed is 'gaussian' or 'rademacher'"),
        (dict(weights="binary", mean=1.0), "mean = 1.0: allowed is 0"),
        (dict(rho=1.0), "rho = 1.0: allowed"),
        (dict(d=3, s=1, variances=(1.0, 2.0)), "variances = .*: allowed is a tuple of d = 3"),
        (dict(d=3, s=1, variances=(1.0, 2.0, 0.0)), "an item of variances = 0.0: allowed"),
        (dict(scale=0.0), "scale = 0.0: allowed"),
        (dict(sigma=float("inf")), "sigma = inf: allowed"),
    ],
)
def test_bad_tasks(bad, message):
    with pytest.raises(ValueError, match=message):
        Task(**bad)


@pytest.mark.parametrize(
    ("batch", "n"), [(0, 5), (3, 0), (3, -2), (3, (5, 3)), (3, (0, 3)), (3, 5.0), (3, "40"), (3, (1, 2, 3))]
)
def test_bad_samples(batch, n, generator, no_shape_checks):
    with pytest.raises(ValueError, match="allowed is an integer"):
        Task(D, S).sample(batch, n, generator=generator)


def test_queries_and_means_that_cannot_be(generator):
    with pytest.raises(ValueError, match="queries = 0: allowed is an integer >= 1"):
        Task(D, S).sample(3, N, generator=generator, queries=0)
    with pytest.raises(ValueError, match="mean is given: allowed for binary weights is None"):
        Task(D, S, weights="binary").sample(3, N, generator=generator, mean=torch.ones(3))


@pytest.mark.parametrize("blocks", [(), ((0, 7),), ((),), (1, 2)])
def test_bad_blocks(blocks, no_shape_checks):
    with pytest.raises(ValueError, match=r"block.* = .*: allowed is"):
        MultiTask(d=6, blocks=blocks)
