"""Linear regression in context: the distributions of prompts in both papers.

A prompt is n pairs (x_i, y_i) with y_i = <w, x_i> + eps_i and a query x; the weights w are new in every
prompt. Symbols are those of the papers: d covariates, s nonzero weights, noise sigma, covariance Sigma.
A task of one's own is a subclass with another `sample`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from icl_lib import checks

WEIGHTS = ("gaussian", "rademacher", "half-normal", "binary")


def seeded(*names: object, device: str | torch.device = "cpu") -> Generator:
    """A generator whose stream the names determine, and no two lists of names share."""
    names = tuple(int(name) if isinstance(name, Integral) else name for name in names)  # NumPy's, too
    digest = hashlib.sha256(repr(names).encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Prompts(NamedTuple):
    """A batch of prompts. Rows from length n on are zero, so that prompts of any length stack."""

    x: Float[Tensor, "*batch n_max d"]  #: covariates of the context
    y: Float[Tensor, "..."]  #: (*batch, n_max), or (*batch, n_max, tasks) of several tasks
    w: Float[Tensor, "..."]  #: (*batch, d), or (*batch, tasks, d) of several tasks
    n: Int[Tensor, "*batch"]  #: context pairs of each prompt
    x_query: Float[Tensor, "*batch queries d"]  #: covariates whose labels are asked for

    @property
    def several(self) -> bool:
        """Whether there are several tasks at once, in a dimension of their own."""
        return self.y.ndim == self.x.ndim

    def to(self, dtype: torch.dtype) -> "Prompts":
        """The same prompts in another precision."""
        return Prompts(*(part.to(dtype) if part.is_floating_point() else part for part in self))

    def split(self, size: int) -> list["Prompts"]:
        """The batch in pieces of at most so many prompts."""
        return [Prompts(*parts) for parts in zip(*(part.split(size) for part in self), strict=True)]

    def inside(self) -> Bool[Tensor, "*batch n_max"]:
        """Which rows of the context hold a pair: those before n."""
        return torch.arange(self.x.shape[-2], device=self.n.device) < self.n[..., None]

    def context(self) -> Float[Tensor, "*batch n_max p"]:
        """The context's token rows [x_i, y_i]."""
        return torch.cat([self.x, self.y if self.several else self.y[..., None]], -1)

    def target(self) -> Tensor:
        """The best predictions <w, x> at the queries: (*batch, queries) or (*batch, queries, tasks)."""
        return self.x_query @ self.w.mT if self.several else (self.x_query @ self.w[..., None])[..., 0]


@dataclass(frozen=True)
class Task:
    """Linear regression with s of d weights nonzero, on a uniformly drawn support.

    Sparse (s < d), dense (s = d) and anisotropic (`rho` or `variances`) regression are all this task.
    Paper A: d = 16, s = 4, Sigma diagonal. Paper B: s = d = 5, scale = 1/sqrt(d), Sigma_ij = rho^|i-j|.
    Raises ValueError, in one line, for a value outside its range.
    """

    d: int = 16  #: covariates
    s: int = 4  #: how many of their weights are not zero
    sigma: float = 0.5  #: standard deviation of the noise in y
    #: law of a nonzero weight, N(mean, 1), or rademacher, +-1, or half-normal, |N(0, 1)|, or binary, 1
    weights: str = "gaussian"
    mean: float = 0.0  #: of that law; only gaussian weights have one
    scale: float = 1.0  #: that the nonzero weights are multiplied by
    rho: float = 0.0  #: correlation of neighbouring covariates, in (-1, 1)
    variances: tuple[float, ...] | None = None  #: diagonal of Sigma; None is ones

    def __post_init__(self):
        checks.integer("d", self.d)
        checks.integer("s", self.s, 1, self.d)
        checks.number("sigma", self.sigma, 0.0)
        checks.one_of("weights", self.weights, WEIGHTS)
        checks.number("mean", self.mean)
        if self.mean and self.weights != "gaussian":
            raise ValueError(f"mean = {self.mean!r}: allowed is 0 for {self.weights} weights")
        checks.number("scale", self.scale, 1e-6)
        checks.number("rho", self.rho, -0.999, 0.999)
        if self.variances is not None:
            if not isinstance(self.variances, tuple) or len(self.variances) != self.d:
                raise ValueError(
                    f"variances = {self.variances!r}: allowed is a tuple of d = {self.d} numbers"
                )
            for variance in self.variances:
                checks.number("an item of variances", variance, 1e-12)

    outputs = 1  # labels of a pair

    @property
    def target_noise(self) -> float:
        """Variance of the noise in the label that is asked for."""
        return self.sigma**2

    def covariance(self, **like: torch.dtype | torch.device) -> Float[Tensor, "d d"]:
        """Sigma, the covariance of x."""
        index = torch.arange(self.d, **like)
        variances = torch.tensor(self.variances or (1.0,) * self.d, **like)
        correlation = self.rho ** (index[:, None] - index).abs()
        return (variances[:, None] * variances).sqrt() * correlation

    @property
    def isotropic(self) -> bool:
        """Whether Sigma is the identity."""
        return self.rho == 0 and self.variances is None

    def excess_risk(self, w_hat: Tensor, w: Tensor) -> Tensor:
        """E[(<w_hat, x> - y)^2] - sigma^2 = |w_hat - w|_Sigma^2, exact over the query x (paper A).

        w_hat (..., d) and w (..., d) broadcast; the result lacks the last dimension.
        """
        error = w_hat - w
        if self.isotropic:
            return error.square().sum(-1)
        return ((error @ self.covariance(dtype=error.dtype, device=error.device)) * error).sum(-1)

    def sample(
        self,
        batch: int,
        n: int | tuple[int, int],
        seed: int | Generator,
        *,
        queries: int = 1,
        mean: Float[Tensor, " batch"] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Prompts:
        """Draw prompts.

        Parameters
        ----------
        batch, n, queries : int
            Prompts; context pairs of each, or (low, high) of lengths uniform between the two, both included;
            covariates of each whose labels are asked for.
        seed : int or torch.Generator
            Where the randomness comes from; prompts are on the generator's device.
        mean : (batch,), optional
            Replaces that of gaussian weights, prompt by prompt: the curriculum draws from N(mean, 1).
        dtype : torch.dtype
            Precision of all numbers.
        """
        checks.integer("batch", batch)
        if mean is not None and self.weights != "gaussian":
            raise ValueError(f"mean is given: allowed for {self.weights} weights is None")
        like = _drawn_from(seed)
        nonzero = torch.randn(batch, self.s, dtype=dtype, **like)
        if self.weights == "gaussian":
            nonzero = nonzero + (self.mean if mean is None else mean[:, None])
        elif self.weights == "half-normal":
            nonzero = nonzero.abs()
        elif self.weights == "rademacher":
            nonzero = nonzero.sign()
        else:
            nonzero = torch.ones_like(nonzero)
        support = torch.rand(batch, self.d, **like).topk(self.s).indices
        w = torch.zeros(batch, 1, self.d, dtype=dtype, device=like["device"])
        w[:, 0].scatter_(1, support, self.scale * nonzero)
        sigma = torch.tensor([self.sigma], dtype=dtype, device=like["device"])
        factor = None
        if not self.isotropic:
            factor = torch.linalg.cholesky(self.covariance(dtype=dtype, device=like["device"]))
        prompts = _observe(w, sigma, n, queries, factor, like)
        return prompts._replace(y=prompts.y[..., 0], w=w[:, 0])


@dataclass(frozen=True)
class MultiTask:
    """Several dense tasks that share x; task k sees the coordinates in blocks[k] (paper B, multi-task).

    w_k ~ N(0, I) on its block and zero elsewhere; the noise of task k has variance noise * d_k.
    """

    d: int = 6
    blocks: tuple[tuple[int, ...], ...] = ((0, 1, 2, 3), (2, 3, 4, 5))
    noise: float = 0.1

    def __post_init__(self):
        checks.integer("d", self.d)
        checks.number("noise", self.noise, 0.0)
        if not isinstance(self.blocks, tuple) or not self.blocks:
            raise ValueError(f"blocks = {self.blocks!r}: allowed is a tuple of blocks, one at least")
        for block in self.blocks:
            checks.integers("a block", block, 0, self.d - 1)

    @property
    def outputs(self) -> int:
        """Labels of a pair, one a task."""
        return len(self.blocks)

    @property
    def target_noise(self) -> float:
        """Variance of the noise in the labels that are asked for, zero as in paper B."""
        return 0.0

    def sample(
        self,
        batch: int,
        n: int | tuple[int, int],
        seed: int | Generator,
        *,
        queries: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> Prompts:
        """Draw prompts as `Task.sample` does, with y (batch, n, tasks) and w (batch, tasks, d)."""
        checks.integer("batch", batch)
        like = _drawn_from(seed)
        in_block = torch.zeros(len(self.blocks), self.d, dtype=dtype, device=like["device"])
        for task, block in enumerate(self.blocks):
            in_block[task, list(block)] = 1
        w = torch.randn(batch, *in_block.shape, dtype=dtype, **like) * in_block
        sigma = (self.noise * in_block.sum(-1)).sqrt()
        return _observe(w, sigma, n, queries, None, like)


def evaluation_prompts(task: Task | MultiTask, n: int, prompts: int, seed: int, queries: int = 1) -> Prompts:
    """The prompts, in double precision, that a seed is evaluated on: the same for all that is compared."""
    return task.sample(prompts, n, seeded("evaluation", seed, n), queries=queries, dtype=torch.float64)


def _drawn_from(seed: int | Generator) -> dict:
    """Generator and device of what is drawn."""
    generator = seed if isinstance(seed, Generator) else seeded("prompts", seed)
    return dict(generator=generator, device=generator.device)


def _observe(
    w: Float[Tensor, "B tasks d"],
    sigma: Float[Tensor, " tasks"],
    n: int | tuple[int, int],
    queries: int,
    factor: Float[Tensor, "d d"] | None,
    like: dict,
) -> Prompts:
    """Draw lengths, x = factor @ N(0, I) and y = <w, x> + N(0, sigma^2) for given weights."""
    low, high = checks.lengths(n)
    checks.integer("queries", queries)
    batch, tasks, d = w.shape
    lengths = torch.randint(low, high + 1, (batch,), **like)
    x = torch.randn(batch, high + queries, d, dtype=w.dtype, **like)
    x = x if factor is None else x @ factor.mT
    context, x_query = x[:, :high], x[:, high:]
    y = context @ w.mT + sigma * torch.randn(batch, high, tasks, dtype=w.dtype, **like)
    drawn = Prompts(context, y, w, lengths, x_query)
    if low == high:
        return drawn
    inside = drawn.inside()[..., None]
    return drawn._replace(x=context * inside, y=y * inside)


def together(weights: Mapping[str, Tensor], data: "Prompts | Tensor") -> "tuple[dict, Prompts | Tensor]":
    """Weights and prompts, or weights and a tensor, in the wider precision of the two."""
    held = next(iter(weights.values())).dtype
    dtype = torch.promote_types(held, data.x.dtype if isinstance(data, Prompts) else data.dtype)
    return {name: weight.to(dtype) for name, weight in weights.items()}, data.to(dtype)


def squared_error(prediction: Tensor, prompts: Prompts) -> Float[Tensor, "*S B"]:
    """(prediction - <w, x>)^2: the mean over the queries, summed over tasks."""
    squared = (prediction - prompts.target()).square()
    return (squared.sum(-1) if prompts.several else squared).mean(-1)


def tokens(prompts: Prompts) -> Float[Tensor, "*batch tokens p"]:
    """The token rows [x_i, y_i] of the context, then the queries' [x, 0] (paper A's E, transposed)."""
    context, query = prompts.context(), prompts.x_query
    hidden = query.new_zeros(*query.shape[:-1], context.shape[-1] - query.shape[-1])
    return torch.cat([context, torch.cat([query, hidden], -1)], -2)


def gram(prompts: Prompts) -> Float[Tensor, "*batch p p"]:
    """G = E_ctx^T E_ctx / n, all that linear attention sees of the context (see `transformer`)."""
    context = prompts.context()
    return context.mT @ context / prompts.n[..., None, None]
