"""How close a one-layer model is to the pattern of paper B (claims B1, B2, B5).

On the pattern a head's KQ is omega I on the covariates and zero elsewhere, and its OV is mu at y and zero
elsewhere; mu sums to zero over the heads. KQ's columns from d on meet the zeros of z_q = [x_q; 0]: they have
no effect on any prediction, and are left out everywhere.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

DUMMY = 0.1  # a head with |omega mu| below this share of the largest one's is a dummy


class Pattern(NamedTuple):
    """Scores of models, each (*S). Where heads are scored one by one, the worst of the active ones counts."""

    diagonal_energy: Float[Tensor, "*S"]  # of KQ's x block: squares on its diagonal / all its squares
    spread: Float[Tensor, "*S"]  # of that diagonal: standard deviation / |mean|
    off_pattern: Float[Tensor, "*S"]  # largest entry outside: of KQ / |omega|, or of OV / |mu|
    balance: Float[Tensor, "*S"]  # |sum mu| / sum |mu| over all heads
    positive: Int[Tensor, "*S"]  # number of active heads with omega > 0 ...
    negative: Int[Tensor, "*S"]  # ... and with omega < 0 ...
    dummy: Int[Tensor, "*S"]  # ... and of the others


def diagonal(kq: Float[Tensor, "*S H p p"], d: int) -> Float[Tensor, "*S H d"]:
    """The diagonal of every head's KQ on the covariates."""
    return kq[..., :d, :d].diagonal(dim1=-2, dim2=-1)


def omega(kq: Float[Tensor, "*S H p p"], d: int) -> Float[Tensor, "*S H"]:
    """omega_h, the mean of the first d diagonal entries of KQ^h."""
    return diagonal(kq, d).mean(-1)


def mu(ov: Float[Tensor, "*S H 1 p"]) -> Float[Tensor, "*S H"]:
    """mu_h, the last entry of OV^h."""
    return ov[..., 0, -1]


def product(kq: Float[Tensor, "*S H p p"], ov: Float[Tensor, "*S H 1 p"]) -> Float[Tensor, "*S"]:
    """sum_h omega_h mu_h, the size of the gradient step; 2 omega mu for two opposite heads (claim B3)."""
    return (omega(kq, kq.shape[-1] - 1) * mu(ov)).sum(-1)


def preconditioner(kq: Float[Tensor, "*S H p p"], ov: Float[Tensor, "*S H 1 p"]) -> Float[Tensor, "*S d d"]:
    """P = sum_h mu_h Omega_h, Omega_h the x block of KQ^h: what heads do together, to first order (claim B9).

    Where mu sums to zero, heads of small Omega predict <x_q, P^T (1/L) sum_i y_i (x_i - xbar)>: see
    `estimators.preconditioned_gd`. On the pattern P is `product` times the identity.
    """
    d = kq.shape[-1] - 1
    return (mu(ov)[..., None, None] * kq[..., :d, :d]).sum(-3)


class Closeness(NamedTuple):
    """How near matrices come to multiples of a given one, each (*S), in the Frobenius norm."""

    cosine: Float[Tensor, "*S"]
    distance: Float[Tensor, "*S"]  # to its nearest multiple, relative to the matrix: sqrt(1 - cosine^2)
    scale: Float[Tensor, "*S"]  # that multiple


def closeness(found: Float[Tensor, "*S d d"], given: Float[Tensor, "d d"]) -> Closeness:
    """How near each matrix comes to a multiple of the given one."""
    inner, norm = (found * given).sum((-2, -1)), found.square().sum((-2, -1)).sqrt()
    scale = inner / given.square().sum()
    rest = (found - scale[..., None, None] * given).square().sum((-2, -1)).sqrt()
    return Closeness(inner / (norm * given.square().sum().sqrt()), rest / norm, scale)


def pattern(kq: Float[Tensor, "*S H p p"], ov: Float[Tensor, "*S H 1 p"]) -> Pattern:
    """The scores of models with one output, d = p - 1."""
    d = kq.shape[-1] - 1
    omegas, mus = omega(kq, d), mu(ov)
    work = (omegas * mus).abs()
    active = work >= DUMMY * work.amax(-1, keepdim=True)
    entries, block = diagonal(kq, d), kq[..., :d, :d]
    energy = entries.square().sum(-1) / block.square().sum((-2, -1))
    spread = entries.std(-1, correction=0) / omegas.abs()
    outside = kq[..., :d].clone()
    outside.diagonal(dim1=-2, dim2=-1).zero_()
    off = torch.maximum(
        outside.abs().amax((-2, -1)) / omegas.abs(), ov[..., 0, :d].abs().amax(-1) / mus.abs()
    )
    return Pattern(
        diagonal_energy=torch.where(active, energy, 1.0).amin(-1),
        spread=torch.where(active, spread, 0.0).amax(-1),
        off_pattern=torch.where(active, off, 0.0).amax(-1),
        balance=mus.sum(-1).abs() / mus.abs().sum(-1),
        positive=(active & (omegas > 0)).sum(-1),
        negative=(active & (omegas < 0)).sum(-1),
        dummy=(~active).sum(-1),
    )
