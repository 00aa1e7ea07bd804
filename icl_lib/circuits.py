"""What the heads of a one-layer model do: scores of KQ and OV, and the loss that predicts them (paper B).

On the paper's pattern a head's KQ is omega I on the covariates and zero elsewhere, and its OV is mu at y and
zero elsewhere; mu sums to zero over the heads (claims B1, B2, B5). KQ's columns from d on meet the zeros of
z_q = [x_q; 0]: they have no effect on any prediction, and are left out everywhere.

The approximate population loss of heads on the pattern (claims B4, B7, B9), with L context pairs, weights
beta ~ N(0, I / d) and noise variance sigma^2 (`noise`), is

    Loss(omega, mu) = 1 + sigma^2 - 2 <mu, omega> + mu^T M(omega) mu,
    M(omega) = omega omega^T + (1 + sigma^2) / L exp(d omega omega^T)      (exp entry by entry)

It is for small omega, and leaves terms of order 1 / L out beside those of order d / L.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.integrate import solve_ivp
from torch import Tensor

from icl_lib.training import Runs, stack

Heads = Float[np.ndarray, " H"]

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


def matrices(runs: Runs) -> tuple[Float[Tensor, "S H p p"], Float[Tensor, "S H tasks p"]]:
    """KQ and OV of trained models."""
    weights, model = runs.stacked(), runs.settings.model
    return model.kq(weights), model.ov(weights)


def opposite(runs: Runs) -> np.ndarray:
    """Which models have active heads of both signs, (S): the others are stuck at one head's loss."""
    found = pattern(*matrices(runs))
    return ((found.positive > 0) & (found.negative > 0)).numpy()


def path(runs: Runs) -> tuple[Tensor, Tensor, np.ndarray]:
    """KQ (S, kept, H, p, p) and OV (S, kept, H, tasks, p) along training, and the steps (kept)."""
    settings = runs.settings
    kept = stack([found.kept for found in runs])
    steps = np.arange(len(next(iter(runs[0].kept.values())))) * settings.keep_every
    return settings.model.kq(kept), settings.model.ov(kept), steps


def second_moment(omega: Heads, d: int, L: int, noise: float) -> Float[np.ndarray, "H H"]:
    """M(omega)."""
    return np.multiply.outer(omega, omega) + _fluctuation(omega, d, L, noise)


def approximate_loss(omega: Heads, mu: Heads, d: int, L: int, noise: float) -> float:
    """The approximate population loss, noise included."""
    return float(1 + noise - 2 * mu @ omega + mu @ second_moment(omega, d, L, noise) @ mu)


def approximate_gradient(omega: Heads, mu: Heads, d: int, L: int, noise: float) -> tuple[Heads, Heads]:
    """The derivatives of the loss by omega and by mu."""
    fluctuation = _fluctuation(omega, d, L, noise)
    by_omega = 2 * mu * (mu @ omega - 1 + d * fluctuation @ (mu * omega))
    by_mu = 2 * (omega * (mu @ omega - 1) + fluctuation @ mu)
    return by_omega, by_mu


def best_mu(omega: Heads, d: int, L: int, noise: float) -> Heads:
    """mu*(omega) = M(omega)^-1 omega, the minimizer at given omega (paper B)."""
    return np.linalg.solve(second_moment(omega, d, L, noise), omega)


def best_one_head(d: int, L: int, noise: float) -> tuple[float, float]:
    """omega = 1 / sqrt(d) and mu = sqrt(d) / (1 + e (1 + sigma^2) d / L), the best single head (claim B4)."""
    return 1 / math.sqrt(d), math.sqrt(d) / (1 + math.e * (1 + noise) * d / L)


def best_two_heads(omega: float, d: int, L: int, noise: float) -> float:
    """The best 2 omega mu of two opposite heads (omega, mu), (-omega, -mu) at given omega.

    The loss falls as omega goes to zero, where this is 1 / (1 + (1 + sigma^2) d / L), which is exactly the
    best step of debiased gradient descent.
    """
    if omega == 0:
        return 1 / (1 + (1 + noise) * d / L)
    ratio = math.sinh(d * omega**2) / (d * omega**2)
    return 1 / (1 + (1 + noise) * d / L * ratio)


def gradient_flow(
    omega: Heads, mu: Heads, times: Sequence[float], d: int, L: int, noise: float
) -> tuple[Float[np.ndarray, "T H"], Float[np.ndarray, "T H"]]:
    """omega(t) and mu(t) at rising times from 0 on, moving along minus the gradient from given values."""
    H = len(omega)

    def velocity(_: float, state: np.ndarray) -> np.ndarray:
        return -np.concatenate(approximate_gradient(state[:H], state[H:], d, L, noise))

    flow = solve_ivp(
        velocity, (0, times[-1]), [*omega, *mu], method="LSODA", t_eval=times, rtol=1e-8, atol=1e-10
    )
    return flow.y[:H].T, flow.y[H:].T


def _fluctuation(omega: Heads, d: int, L: int, noise: float) -> Float[np.ndarray, "H H"]:
    return (1 + noise) / L * np.exp(d * np.multiply.outer(omega, omega))
