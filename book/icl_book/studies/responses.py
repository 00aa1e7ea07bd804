"""How predictors respond to contexts of any length: their step, and what is left of the error (claim B8)."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from icl_book.experiments import SEED
from icl_book.studies.anisotropic import preconditioner
from icl_lib.estimators import Estimator, at_queries
from icl_lib.tasks import Prompts, Task, evaluation_prompts
from icl_lib.training import Runs

PAIRS = 2**20  # of a query and a context pair that `measure` looks at together


def measure(
    predictors: Mapping[object, Runs | Estimator],
    column: str,
    task: Task,
    lengths: Sequence[int],
    prompts: int,
    queries: int,
    *,
    divisor: Callable[[int], float] = lambda n: n,
) -> pd.DataFrame:
    """What models and estimators predict for <w, x> at each length, all on the same prompts and queries.

    `column`, seed, n, slope (of the predictions against <w, x>: the step of one gradient step), excess risk,
    loss (with the target's noise). `divisor` is what linear attention divides by at length n.
    """
    rows = []
    for n in lengths:
        drawn = evaluation_prompts(task, n, prompts, SEED, queries)
        pieces, target = drawn.split(max(1, PAIRS // (n * queries))), drawn.target()
        for key, predictor in predictors.items():
            for seed, predict in _answers(predictor):
                predicted = torch.cat([predict(piece) for piece in pieces]) * n / divisor(n)
                slope = (predicted * target).sum() / target.square().sum()
                excess = (predicted - target).square().mean().item()
                rows.append((key, seed, n, slope.item(), excess, excess + task.target_noise))
    frame = pd.DataFrame(rows, columns=[column, "seed", "n", "slope", "excess", "loss"])
    return frame.astype({"seed": "Int64"})


def _answers(predictor: Runs | Estimator) -> list[tuple[int | None, Callable[[Prompts], Tensor]]]:
    """The predictions at the queries of each model, with its seed, or of an estimator."""
    if isinstance(predictor, Runs):
        return [(model.seed, model.predict) for model in predictor]
    return [(None, lambda prompts: at_queries(predictor(prompts.x, prompts.y), prompts.x_query))]


def operator(kq: Float[Tensor, "*S H p p"], ov: Float[Tensor, "*S H 1 p"]) -> Float[Tensor, "*S d d"]:
    """A of linear attention, whose prediction at x is <r, A x> plus terms without r = X^T y / n.

    With G = Z Z^T / n it is sum_h OV^h G KQ^h [x; 0]; r is the last column of G, and its last row: OV's entry
    at y meets KQ's block at x, and OV's entries at x meet KQ's row at y.
    """
    at_x = ov[..., 0, :-1, None] * kq[..., -1:, :-1]
    return preconditioner(kq, ov) + at_x.sum(-3)


def step(kq: Float[Tensor, "*S H p p"], ov: Float[Tensor, "*S H 1 p"]) -> Float[Tensor, "*S"]:
    """The gradient step of linear attention, the mean of its operator's diagonal.

    On paper B's pattern it is sum_h omega_h mu_h, `circuits.product`.
    """
    return operator(kq, ov).diagonal(dim1=-2, dim2=-1).mean(-1)
