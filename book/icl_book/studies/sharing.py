"""Which head serves which task, in one-layer models of several tasks (paper B, claim B10).

All outputs of a head come from one KQ. What head h does for task k is written in OV: mu_hk, the weight of y_k
in output k. On paper B's pattern the diagonal of KQ^h is omega_h; for tasks on blocks of the covariates it
is omega sum_k A_hk I_k, where I_k is one on block k and the rows of A are the heads' directions.
To first order in omega the model is debiased gradient descent for every task as soon as

    sum_h mu_hk = 0  and  sum_h mu_hk A_hj = step / omega  for j = k, else 0.

That fixes the sums and not the heads: N + 1 heads can do it, and with opposite pairs any N independent
directions do, of which one block each (the tasks split up) is one choice.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icl_book.studies.debiased import debiased_step
from icl_lib import checks, circuits
from icl_lib.attention_layer import AttentionLayer
from icl_lib.circuits import DUMMY, diagonal
from icl_lib.estimators import Estimator, at_queries, ridge
from icl_lib.tasks import MultiTask, Prompts


class Sharing(NamedTuple):
    """Scores of models (*S). A head serves a task if its service is DUMMY of the model's largest or more."""

    split: Float[Tensor, "*S"]  # largest share of one task in a head's service, mean over active heads
    both: Int[Tensor, "*S"]  # number of heads that serve two tasks or more ...
    own: Int[Tensor, "*S tasks"]  # ... that serve this task alone ...
    dummy: Int[Tensor, "*S"]  # ... and that serve none
    balance: Float[Tensor, "*S tasks"]  # |sum_h mu_hk| / sum_h |mu_hk|
    opposite: Float[Tensor, "*S"]  # how close to its opposite an active head finds another, 1 at best
    inside: Float[Tensor, "*S"]  # KQ's energy inside the block of the task served most, mean over active


def mu(ov: Float[Tensor, "*S H tasks p"]) -> Float[Tensor, "*S H tasks"]:
    """mu_hk, the weight of y_k in output k."""
    tasks = ov.shape[-2]
    return ov[..., -tasks:].diagonal(dim1=-2, dim2=-1)


def service(kq: Float[Tensor, "*S H p p"], ov: Float[Tensor, "*S H tasks p"]) -> Float[Tensor, "*S H tasks"]:
    """Size of head h's part in output k: |mu_hk| times the root mean square of KQ's diagonal on x.

    A head has one KQ for all its outputs, so that its shares are those of |mu_hk|.
    """
    d = kq.shape[-1] - ov.shape[-2]
    return mu(ov).abs() * diagonal(kq, d).square().mean(-1, keepdim=True).sqrt()


def sharing(
    kq: Float[Tensor, "*S H p p"], ov: Float[Tensor, "*S H tasks p"], blocks: Sequence[Sequence[int]]
) -> Sharing:
    """The scores of models with one output a block."""
    mus, served = mu(ov), service(kq, ov)
    checks.shape("blocks", torch.empty(len(blocks)), mus.shape[-1])
    d = kq.shape[-1] - len(blocks)
    serves = served >= DUMMY * served.amax((-2, -1), keepdim=True)  # (*S, H, tasks)
    count = serves.sum(-1)  # tasks of a head, (*S, H)
    active = count > 0
    share = served.amax(-1) / served.sum(-1).clamp_min(torch.finfo(served.dtype).tiny)
    x_block = kq[..., :d, :d].square()
    energy = torch.stack([x_block[..., list(b), :][..., list(b)].sum((-2, -1)) for b in blocks], -1)
    inside = energy.gather(-1, served.argmax(-1, keepdim=True))[..., 0] / x_block.sum((-2, -1))
    entries = diagonal(kq, d)
    match = torch.minimum(-_cosines(entries), -_cosines(mus))  # (*S, H, H)
    match = torch.where(active[..., None, :], match, -1.0)
    return Sharing(
        split=_mean(share, active),
        both=(count > 1).sum(-1),
        own=(serves & (count == 1)[..., None]).sum(-2),
        dummy=(~active).sum(-1),
        balance=mus.sum(-2).abs() / mus.abs().sum(-2),
        opposite=_mean(match.amax(-1), active),
        inside=_mean(inside, active),
    )


def in_pairs(directions: Float[Tensor, "N tasks"]) -> Float[Tensor, "H tasks"]:
    """Directions A of H = 2 N heads: each given one, and its opposite."""
    return torch.cat([directions, -directions])


def on_a_ring(heads: int, angle: float = 0.0) -> Float[Tensor, "H 2"]:
    """Directions A of heads evenly spread over a circle, for two tasks; they sum to zero."""
    at = angle + 2 * math.pi * torch.arange(heads, dtype=torch.float64) / heads
    return torch.stack([at.cos(), at.sin()], -1)


def written(
    task: MultiTask, directions: Float[Tensor, "H tasks"], omega: float, step: float
) -> tuple[AttentionLayer, dict[str, Tensor]]:
    """Settings and weights of heads with given directions A whose parts add up to one step for every task.

    KQ^h = omega sum_k A_hk I_k, and mu = (step / omega) A (A^T A)^-1: the smallest that has the sums above.
    Raises ValueError unless the directions sum to zero and are as many independent ones as tasks.
    """
    A = directions
    checks.shape("directions", A, None, len(task.blocks))
    if A.sum(0).abs().max() > 1e-9 or torch.linalg.matrix_rank(A) < len(task.blocks):
        raise ValueError(f"directions = {A}: allowed sum to zero, and {len(task.blocks)} are independent")
    model = AttentionLayer(d=task.d, heads=len(A), tasks=len(task.blocks))
    weights = {name: torch.zeros(shape, dtype=A.dtype) for name, shape in model.shapes().items()}
    on = torch.zeros(len(task.blocks), task.d, dtype=A.dtype)
    for k, block in enumerate(task.blocks):
        on[k, list(block)] = 1
    weights["K"][:, : task.d, : task.d] = torch.eye(task.d, dtype=A.dtype)
    weights["Q"][:, : task.d, : task.d] = torch.diag_embed(math.sqrt(model.p) * omega * (A @ on))
    weights["V"][:, task.d :, task.d :] = torch.eye(model.tasks, dtype=A.dtype)
    weights["O"][:, :, task.d :] = torch.diag_embed(step / omega * A @ torch.linalg.inv(A.T @ A))
    return model, weights


def best_step(task: MultiTask, k: int, L: int) -> float:
    """The best step of debiased gradient descent for task k by itself, L / (L + d_k (1 + noise))."""
    return circuits.best_two_heads(0.0, len(task.blocks[k]), L, task.noise)


def references(task: MultiTask, L: int) -> dict[str, list[Estimator]]:
    """Estimators of each task from its own block and its own y: at the best step, and Bayes.

    The other tasks' y say nothing about beta_k, so that ridge with the noise's variance as the penalty
    (beta_k has variance 1) is Bayes for all the data.
    """

    def descent(k: int) -> Estimator:
        return debiased_step(best_step(task, k, L))

    def posterior(k: int) -> Estimator:
        return lambda x, y: ridge(x, y, task.noise * len(task.blocks[k]))

    tasks = range(len(task.blocks))
    return {"debiased GD": [descent(k) for k in tasks], "ridge": [posterior(k) for k in tasks]}


def reference_loss(estimators: Sequence[Estimator], task: MultiTask, prompts: Prompts) -> float:
    """`evaluation.loss` of one estimator a task, each on its own block: same queries, summed over tasks."""
    total, target = 0.0, prompts.target()
    for k, (block, estimator) in enumerate(zip(task.blocks, estimators, strict=True)):
        w_hat = estimator(prompts.x[..., list(block)], prompts.y[..., k])  # (B, d_k)
        predicted = at_queries(w_hat, prompts.x_query[..., list(block)])  # (B, queries)
        total += (predicted - target[..., k]).square().mean().item()
    return total


def _mean(values: Float[Tensor, "*S H"], over: Tensor) -> Float[Tensor, "*S"]:
    return torch.where(over, values, 0.0).sum(-1) / over.sum(-1)


def _cosines(rows: Float[Tensor, "*S H n"]) -> Float[Tensor, "*S H H"]:
    unit = torch.nn.functional.normalize(rows, dim=-1)
    return unit @ unit.mT
