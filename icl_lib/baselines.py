"""What known predictors reach: reference lines for the figures, tuned and evaluated the same way everywhere.

Every model and method is evaluated on the same prompts (`evaluation_prompts`), so that differences are
paired. What a method lets one choose is tuned on other prompts, for the task and length at hand: each
competitor is shown at its best.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from icl_lib import checks, estimators
from icl_lib.tasks import MultiTask, Prompts, Task
from icl_lib.training import seeded

Estimator = Callable[[Tensor, Tensor], Tensor]  # x (B, n, d), y (B, n) -> w_hat (B, d)

DESCENTS = {
    "gradient descent": estimators.gradient_descent,
    "preprocess-then-optimize": estimators.preprocess_then_optimize,
}
METHODS = ("OLS", "ridge", *DESCENTS, "Lasso", "Bayes")
TUNING_PROMPTS = 300
SCALE_PROMPTS = 20_000  # of `best_scale`, which has a closed form
ALPHAS = tuple(np.geomspace(0.003, 1.0, 12).tolist())  # of the Lasso
# Of the descents, up to convergence: iterates are in closed form, so many cost no more than few.
STEPS = tuple(np.unique(np.geomspace(1, 10**9, 55).round().astype(int)).tolist())


def evaluation_prompts(task: Task | MultiTask, n: int, prompts: int, seed: int, queries: int = 1) -> Prompts:
    """The prompts (float64) that a seed is evaluated on."""
    generator = seeded("evaluation", seed, n)
    return task.sample(prompts, n, generator=generator, queries=queries, dtype=torch.float64)


def reference(method: str, task: Task, n: int, max_steps: int = STEPS[-1]) -> Estimator:
    """A method as an estimator for a task and length: tuned, or with the task's own constants.

    ridge has the best penalty and Bayes the true prior; the Lasso's alpha and the descents' numbers of
    steps (at most `max_steps`) are those of the lowest mean risk on the tuning prompts.
    """
    checks.one_of("method", method, METHODS)
    if method == "OLS":
        return estimators.ols
    if method == "ridge":
        penalty = estimators.ridge_penalty(task.d, task.s, task.sigma, task.scale, task.mean)
        return partial(estimators.ridge, penalty=penalty)
    if method == "Lasso":
        return partial(estimators.lasso, alpha=tuned(_lasso_at, ALPHAS, task, n))
    if method == "Bayes":
        prior = {name: getattr(task, name) for name in ("s", "sigma", "weights", "scale", "mean")}
        return partial(estimators.bayes, **prior)
    descent = DESCENTS[method]
    allowed = tuple(steps for steps in STEPS if steps <= max_steps)
    return partial(descent, steps=tuned(descent, allowed, task, n))


def has_bayes(task: Task) -> bool:
    """Whether `estimators.bayes` is there for the task's law, and small enough to sum over."""
    count = estimators.hypotheses(task.d, task.s, task.weights)
    return task.weights != "half-normal" and count <= estimators.MAX_HYPOTHESES


def risks(
    methods: Sequence[str], task: Task, lengths: Sequence[int], seeds: int, prompts: int
) -> dict[str, np.ndarray]:
    """Mean excess risk of each method, (seeds, lengths)."""
    table = {method: np.empty((seeds, len(lengths))) for method in methods}
    for column, n in enumerate(lengths):
        tuned = {method: reference(method, task, n) for method in methods}
        for seed in range(seeds):
            drawn = evaluation_prompts(task, n, prompts, seed)
            for method, estimator in tuned.items():
                risk = task.excess_risk(estimator(drawn.x, drawn.y), drawn.w)
                table[method][seed, column] = risk.mean()
    return table


@cache
def tuned(path: Callable[[Tensor, Tensor, tuple], Tensor], grid: tuple, task: Task, n: int) -> float:
    """The value of the grid with the lowest mean risk on the tuning prompts; path gives (grid, B, d)."""
    drawn = task.sample(TUNING_PROMPTS, n, generator=seeded("tuning", n), dtype=torch.float64)
    risk = task.excess_risk(path(drawn.x, drawn.y, grid), drawn.w).mean(-1)
    return grid[int(risk.argmin())]


def best_scale(estimator: Estimator, task: Task, n: int) -> float:
    """The multiple of an estimator's w_hat with the lowest mean risk on tuning prompts: its fixed step."""
    drawn = task.sample(SCALE_PROMPTS, n, generator=seeded("tuning", n), dtype=torch.float64)
    step = estimator(drawn.x, drawn.y)
    weighted = step @ task.covariance(dtype=step.dtype)
    return ((weighted * drawn.w).sum() / (weighted * step).sum()).item()


def _lasso_at(x: Tensor, y: Tensor, alphas: tuple[float, ...]) -> Tensor:
    return torch.stack([estimators.lasso(x, y, alpha) for alpha in alphas])
