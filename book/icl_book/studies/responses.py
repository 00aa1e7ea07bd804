"""How predictors respond to contexts of any length: their step, and what is left of the error (claim B8).

Predictions p of targets t = <w, x> are followed through three moments, E[p^2], E[p t] and E[t^2]. These give
the excess risk E[(p - t)^2] and the slope E[p t] / E[t^2], which is the step of a predictor that takes one
gradient step; both also for c p, such as linear attention that divides by another length than the prompt's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from icl_book.experiments import SEED
from icl_book.studies.anisotropic import preconditioner
from icl_lib.estimators import Estimator, at_queries
from icl_lib.tasks import Prompts, Task, evaluation_prompts

Answer = Callable[[Prompts], Float[Tensor, "B queries"]]

PAIRS = 2**20  # of a query and a context pair that `measure` looks at together


class Response(NamedTuple):
    """Moments of the predictions p of several predictors, and of the target t that they share."""

    square: Float[np.ndarray, "members lengths"]  # E[p^2]
    cross: Float[np.ndarray, "members lengths"]  # E[p t]
    target: Float[np.ndarray, " lengths"]  # E[t^2]

    def excess(self, scale: float | Float[np.ndarray, " lengths"] = 1.0) -> np.ndarray:
        """E[(scale p - t)^2], (members, lengths)."""
        return scale**2 * self.square - 2 * scale * self.cross + self.target

    def slope(self, scale: float | Float[np.ndarray, " lengths"] = 1.0) -> np.ndarray:
        """The slope of scale p against t, (members, lengths)."""
        return scale * self.cross / self.target


def of_estimator(estimator: Estimator) -> Answer:
    """An estimator's predictions <w_hat, x> at the queries."""
    return lambda prompts: at_queries(estimator(prompts.x, prompts.y), prompts.x_query)


def measure(
    groups: Mapping[str, Sequence[Answer]], task: Task, lengths: Sequence[int], prompts: int, queries: int
) -> dict[str, Response]:
    """The moments of every group of predictors at each length, all on the same prompts and queries."""
    square = {name: np.zeros((len(group), len(lengths))) for name, group in groups.items()}
    cross = {name: zeros.copy() for name, zeros in square.items()}
    target = np.zeros(len(lengths))
    for column, n in enumerate(lengths):
        drawn = evaluation_prompts(task, n, prompts, SEED, queries)
        at_once = max(1, PAIRS // (n * queries))
        for piece in drawn.split(at_once):
            t = piece.target()
            target[column] += t.square().sum()
            for name, group in groups.items():
                for row, predict in enumerate(group):
                    p = predict(piece)
                    square[name][row, column] += p.square().sum()
                    cross[name][row, column] += (p * t).sum()
    count = prompts * queries
    return {name: Response(square[name] / count, cross[name] / count, target / count) for name in groups}


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


def best_plain_step(d: int, n: int, noise: float) -> float:
    """The best single step of gradient descent, the minimizer of `debiased.gradient_step_loss`."""
    return 1 / (1 + (d + 1 + d * noise) / n)
