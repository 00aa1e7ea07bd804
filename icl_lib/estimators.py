"""Estimators that the transformers are measured against, batched over prompts, and each at its best.

An estimator is any function that takes x (B, n, d) and y (B, n) and returns the effective weight vectors
w_hat (B, d), so that the prediction at a query x is <w_hat, x>. S = X^T X / n is the sample covariance and
r = X^T y / n the correlation with y; most estimators depend on the prompt only through these two.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import combinations, product
from math import comb

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_lib import checks
from icl_lib.tasks import Task, seeded

X = Float[Tensor, "B n d"]
Y = Float[Tensor, "B n"]
W = Float[Tensor, "B d"]

Estimator = Callable[[Tensor, Tensor], Tensor]  # x (B, n, d), y (B, n) -> w_hat (B, d)

MAX_HYPOTHESES = 2**17  # of `bayes`: more take minutes
BAYES_CHUNK = 2**16  # prompts x hypotheses that `bayes` looks at together, to stay in the cache
MAX_SWEEPS = 1000  # of `lasso`; a few are usual
TUNING_PROMPTS = 300
ALPHAS = tuple(np.geomspace(0.003, 1.0, 12).tolist())  # of the Lasso
# Of the descents, up to convergence: iterates are in closed form, so many cost no more than few.
STEPS = tuple(np.unique(np.geomspace(1, 10**9, 55).round().astype(int)).tolist())


def ols(x: X, y: Y) -> W:
    """Least squares; where n < d the solution of smallest norm."""
    _check_prompts(x, y)
    return (torch.linalg.pinv(x) @ y[..., None])[..., 0]


def ridge(x: X, y: Y, penalty: float) -> W:
    """argmin |y - X w|^2 + penalty |w|^2, that is (X^T X + penalty I)^-1 X^T y.

    With penalty = sigma^2 / E[w_j^2] (`ridge_penalty`), and weights of mean zero, it is the best of all
    predictors linear in y.
    """
    _check_prompts(x, y)
    checks.number("penalty", penalty, 0.0)
    if penalty == 0:
        return ols(x, y)
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.linalg.solve(x.mT @ x + penalty * identity, (x.mT @ y[..., None])[..., 0])


def ridge_penalty(d: int, s: int, sigma: float, scale: float = 1.0, mean: float = 0.0) -> float:
    """sigma^2 / E[w_j^2] for s of d weights nonzero, each of second moment scale^2 (1 + mean^2)."""
    return sigma**2 * d / (s * scale**2 * (1 + mean**2))


def gradient_descent(
    x: X, y: Y, steps: int | Sequence[int], eta: float = 1.0, *, per_prompt: bool = True
) -> Float[Tensor, "*steps B d"]:
    """Gradient descent from zero on (1/2n) |y - X w|^2, after `steps` steps, or after each of several.

    The step is eta / lambda_max(S) in each prompt, or eta itself if not `per_prompt` (it then diverges
    where eta > 2 / lambda_max). Iterates are in closed form, so that a million steps cost what one does.
    """
    covariance, r = moments(x, y)
    return _descend(covariance, r, steps, eta, per_prompt)


def preprocess_then_optimize(
    x: X, y: Y, steps: int | Sequence[int], eta: float = 1.0, *, per_prompt: bool = True
) -> Float[Tensor, "*steps B d"]:
    """Gradient descent on the covariates R x, R = diag(r), read back as R w (paper A, its algorithm).

    The spectrum of R S R is heavy-tailed over prompts, so the step is eta / lambda_max(R S R) in each; if
    not `per_prompt` it is eta itself, as a transformer's fixed weights have it.
    """
    covariance, r = moments(x, y)
    return r * _descend(preprocessed(covariance, r), r.square(), steps, eta, per_prompt)


def moments(x: X, y: Y) -> tuple[Float[Tensor, "B d d"], W]:
    """The sample covariance S = X^T X / n and the correlations r = X^T y / n."""
    _check_prompts(x, y)
    n = x.shape[-2]
    return x.mT @ x / n, (x.mT @ y[..., None])[..., 0] / n


def preprocessed(covariance: Float[Tensor, "B d d"], r: W) -> Float[Tensor, "B d d"]:
    """R S R, the sample covariance of the preprocessed covariates R x with R = diag(r)."""
    return r[:, :, None] * covariance * r[:, None, :]


def lasso(x: X, y: Y, alpha: float) -> W:
    """argmin (1/2n) |y - X w|^2 + alpha |w|_1 (scikit-learn's objective), exact up to rounding.

    In turns on all prompts at once: a sweep of coordinate descent, and a walk to the minimizer for the
    support and signs that it left. A prompt is done when that one satisfies the optimality conditions.
    """
    covariance, r = moments(x, y)
    checks.number("alpha", alpha, 1e-6)  # at zero the solution need not be unique
    rounding = 100 * torch.finfo(r.dtype).eps
    slack = rounding * r.abs().amax(-1, keepdim=True)
    # A support larger than n makes its part of S singular: a trace of the identity tells the way down.
    largest = covariance.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    covariance = covariance + 0.1 * torch.diag_embed(slack.maximum(rounding * largest).expand_as(r))
    w_hat, w, open_ = torch.zeros_like(r), torch.zeros_like(r), torch.arange(len(r), device=r.device)
    for _ in range(MAX_SWEEPS):
        for j in range(r.shape[1]):
            curvature = covariance[:, j, j]
            pull = r[:, j] - (covariance[:, j] * w).sum(-1) + curvature * w[:, j]
            w[:, j] = (pull.abs() - alpha).relu() * pull.sign() / curvature
        w = _walk_to_minimizer(covariance, r, w, alpha)
        pull = (r - (covariance @ w[..., None])[..., 0]).abs()
        done = ((w != 0) | (pull <= alpha + slack)).all(-1)
        w_hat[open_[done]] = w[done]
        if done.all():
            return w_hat
        covariance, r, slack, w, open_ = (part[~done] for part in (covariance, r, slack, w, open_))
    raise RuntimeError(f"lasso: {len(open_)} prompts are not solved after {MAX_SWEEPS} sweeps")


def _walk_to_minimizer(covariance: Tensor, r: Tensor, w: Tensor, alpha: float) -> Tensor:
    """Minimize the Lasso's objective on the support A of w, S_AA^-1 (r_A - alpha sign).

    On the way a weight that would change its sign stays at zero, and the walk goes on without it.
    """
    w, left = w.clone(), torch.arange(len(w), device=w.device)
    identity = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
    while len(left):
        start, signs = w[left], w[left].sign()
        active = signs != 0
        system = torch.where(active[:, :, None] & active[:, None, :], covariance[left], identity)
        goal = torch.linalg.solve(system, torch.where(active, r[left] - alpha * signs, 0.0))
        kept = goal.sign() == signs
        part, first = torch.where(kept, 1.0, start / (start - goal)).min(-1, keepdim=True)
        reached = start + part * (goal - start)
        reached.scatter_(1, first, torch.where(part < 1, 0.0, reached.gather(1, first)))
        arrived = kept.all(-1)
        w[left] = torch.where(arrived[:, None], goal, reached)
        left = left[~arrived]
    return w


def bayes(
    x: X, y: Y, s: int, sigma: float, weights: str = "gaussian", scale: float = 1.0, mean: float = 0.0
) -> W:
    """The exact posterior mean E[w | X, y]: no predictor has a lower excess risk on average.

    Sums over all C(d, s) supports; the weights on a support are integrated out for `gaussian`
    N(scale mean, scale^2), and enumerated for `rademacher` and `binary`.
    """
    _check_prompts(x, y)
    checks.integer("s", s, 1, x.shape[-1])
    checks.number("sigma", sigma, 1e-6)  # without noise the posterior is a point
    checks.one_of("weights", weights, ("gaussian", "rademacher", "binary"))
    precision, b = x.mT @ x / sigma**2, (x.mT @ y[..., None])[..., 0] / sigma**2
    d, count = x.shape[-1], hypotheses(x.shape[-1], s, weights)
    if count > MAX_HYPOTHESES:
        raise ValueError(
            f"d = {d}, s = {s}: allowed are at most {MAX_HYPOTHESES} hypotheses, and {weights} has {count}"
        )
    chunk = max(1, BAYES_CHUNK // count)
    posterior = {
        "gaussian": partial(_gaussian_posterior, d=d, s=s, scale=scale, mean=mean),
        "rademacher": partial(_signed_posterior, d=d, s=s, signs=(1.0, -1.0), scale=scale),
        "binary": partial(_signed_posterior, d=d, s=s, signs=(1.0,), scale=scale),
    }[weights]
    return torch.cat([posterior(p, q) for p, q in zip(precision.split(chunk), b.split(chunk), strict=True)])


def hypotheses(d: int, s: int, weights: str) -> int:
    """How many hypotheses `bayes` sums over: supports, times signs where these are enumerated."""
    return comb(d, s) * (2**s if weights == "rademacher" else 1)


def debiased_gd(x: X, y: Y, omega: float, mu: float) -> W:
    """(2 omega mu / L) sum_i y_i (x_i - xbar), what two softmax heads do (paper B, claim B3); L = n."""
    _check_prompts(x, y)
    centred = x - x.mean(-2, keepdim=True)
    return 2 * omega * mu * (centred.mT @ y[..., None])[..., 0] / x.shape[-2]


def at_best(estimator: Estimator, task: Task, n: int, max_steps: int = STEPS[-1]) -> Estimator:
    """An estimator for a task and length: tuned, or with the task's own constants.

    Each competitor is shown at its best. Ridge has the best penalty and Bayes the true prior; the Lasso's
    alpha and the descents' numbers of steps (at most `max_steps`) are those of the lowest mean risk on
    tuning prompts, which are not those of any evaluation. Any other function is returned as it is.
    """
    if estimator is ridge:
        penalty = ridge_penalty(task.d, task.s, task.sigma, task.scale, task.mean)
        return partial(ridge, penalty=penalty)
    if estimator is lasso:
        return partial(lasso, alpha=tuned(_lasso_path, ALPHAS, task, n))
    if estimator is bayes:
        return partial(
            bayes, **{name: getattr(task, name) for name in ("s", "sigma", "weights", "scale", "mean")}
        )
    if estimator in (gradient_descent, preprocess_then_optimize):
        allowed = tuple(steps for steps in STEPS if steps <= max_steps)
        return partial(estimator, steps=tuned(estimator, allowed, task, n))
    return estimator


def has_bayes(task: Task) -> bool:
    """Whether `bayes` is there for the task's law, and small enough to sum over."""
    return task.weights != "half-normal" and hypotheses(task.d, task.s, task.weights) <= MAX_HYPOTHESES


@cache
def tuned(path: Callable[[Tensor, Tensor, tuple], Tensor], grid: tuple, task: Task, n: int) -> float:
    """The value of the grid with the lowest mean risk on the tuning prompts; path gives (grid, B, d)."""
    drawn = task.sample(TUNING_PROMPTS, n, seeded("tuning", n), dtype=torch.float64)
    risk = task.excess_risk(path(drawn.x, drawn.y, grid), drawn.w).mean(-1)
    return grid[int(risk.argmin())]


def at_queries(w_hat: W, x_query: Float[Tensor, "B queries d"]) -> Float[Tensor, "B queries"]:
    """The predictions <w_hat, x> at the queries of each prompt."""
    return (x_query @ w_hat[..., None])[..., 0]


def _lasso_path(x: Tensor, y: Tensor, alphas: tuple[float, ...]) -> Tensor:
    return torch.stack([lasso(x, y, alpha) for alpha in alphas])


def _check_prompts(x: Tensor, y: Tensor) -> None:
    checks.shape("x", x, None, None, None)
    checks.shape("y", y, *x.shape[:2])


def _descend(
    covariance: Tensor, r: Tensor, steps: int | Sequence[int], eta: float, per_prompt: bool
) -> Tensor:
    """Iterates of w^{t+1} = w^t + step (r - S w^t) from w^0 = 0: w^t = U (1 - (1 - step l)^t) / l U^T r.

    S = U diag(l) U^T; directions without curvature, l = 0, grow by step u^T r each time.
    """
    checks.number("eta", eta, 0.0)
    several = [steps] if isinstance(steps, int) else steps
    for count in several:
        checks.integer("steps", count, 0)
    spectrum, U = torch.linalg.eigh(covariance)
    # A prompt without any curvature has no gradient either; its step is of no account.
    step = eta / spectrum[:, -1:].clamp_min(torch.finfo(r.dtype).tiny) if per_prompt else eta
    flat = spectrum.abs() <= torch.finfo(r.dtype).tiny
    spectrum = torch.where(flat, 1.0, spectrum)
    decay = step * spectrum  # of the distance to the optimum, in one step
    along = (U.mT @ r[..., None])[..., 0]
    iterates = []
    for count in several:
        covered = torch.where(decay < 1, -torch.expm1(count * torch.log1p(-decay)), 1 - (1 - decay) ** count)
        grown = torch.where(flat, count * step, covered / spectrum)
        iterates.append((U @ torch.where(along == 0, 0.0, grown * along)[..., None])[..., 0])
    return iterates[0] if isinstance(steps, int) else torch.stack(iterates)


def _gaussian_posterior(precision: Tensor, b: Tensor, d: int, s: int, scale: float, mean: float) -> Tensor:
    """Posterior mean for w ~ N(scale mean, scale^2) on an unknown support.

    Each support needs the Cholesky factor L of an s x s matrix. Its entries are written out one by one,
    each for all prompts and supports at once, which is far faster than many small factorizations.
    """
    supports = torch.tensor(list(combinations(range(d), s)), device=b.device).T  # (s, C)
    precision = precision.flatten(1).T.contiguous()  # (d d, B): rows are gathered fast
    b = b.T.contiguous()  # (d, B)
    L: dict[tuple[int, int], Tensor] = {}
    z = []  # L z = target
    log_evidence, determinant = 0.0, 1.0
    for i in range(s):
        for j in range(i + 1):
            entry = precision[supports[i] * d + supports[j]] + (i == j) / scale**2  # (C, B)
            for k in range(j):
                entry -= L[i, k] * L[j, k]
            L[i, j] = entry.sqrt_() if i == j else entry.div_(L[j, j])
        target = b[supports[i]] + mean / scale
        for k in range(i):
            target -= L[i, k] * z[k]
        z.append(target.div_(L[i, i]))
        log_evidence = log_evidence + z[i].square() / 2
        determinant = determinant * L[i, i]
    share = (log_evidence - determinant.log()).softmax(0)
    w_hat = torch.zeros_like(b)
    conditional_mean: dict[int, Tensor] = {}  # L^T conditional_mean = z
    for i in reversed(range(s)):
        rest = z[i]
        for k in range(i + 1, s):
            rest = rest - L[k, i] * conditional_mean[k]
        conditional_mean[i] = rest / L[i, i]
        w_hat.index_add_(0, supports[i], share * conditional_mean[i])
    return w_hat.T


def _signed_posterior(
    precision: Tensor, b: Tensor, d: int, s: int, signs: Sequence[float], scale: float
) -> Tensor:
    """Posterior mean for w uniform on all supports with all signs.

    The log-likelihood of w is <b, w> - w^T precision w / 2, up to a constant.
    """
    supports = torch.tensor(list(combinations(range(d), s)), device=b.device).T  # (s, C)
    precision = precision.flatten(1).T.contiguous() * scale**2
    b = b.T.contiguous() * scale
    linear = [b[supports[i]] for i in range(s)]  # (C, B)
    squared = sum(precision[supports[i] * (d + 1)] for i in range(s)) / 2
    mixed = {(i, j): precision[supports[i] * d + supports[j]] for i, j in combinations(range(s), 2)}
    patterns = list(product(signs, repeat=s))
    log_likelihood = torch.stack(
        [
            sum(v[i] * linear[i] for i in range(s))
            - sum((v[i] * v[j] * entry for (i, j), entry in mixed.items()), squared)
            for v in patterns
        ]
    )  # (V, C, B)
    share = log_likelihood.flatten(0, 1).softmax(0).view_as(log_likelihood)
    w_hat = torch.zeros_like(b)
    for i in range(s):
        expected = sum(v[i] * part for v, part in zip(patterns, share, strict=True))
        w_hat.index_add_(0, supports[i], scale * expected)
    return w_hat.T
