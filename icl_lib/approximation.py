"""The approximate population loss of heads on the pattern, and what it predicts (paper B; claims B4, B7, B9).

With KQ^h = omega_h I and OV^h = mu_h at y, L context pairs, weights beta ~ N(0, I / d) and noise variance
sigma^2 (`noise`):

    Loss(omega, mu) = 1 + sigma^2 - 2 <mu, omega> + mu^T M(omega) mu,
    M(omega) = omega omega^T + (1 + sigma^2) / L exp(d omega omega^T)      (exp entry by entry)

It is for small omega, and leaves terms of order 1 / L out beside those of order d / L.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp

Heads = Float[np.ndarray, " H"]


def second_moment(omega: Heads, d: int, L: int, noise: float) -> Float[np.ndarray, "H H"]:
    """M(omega)."""
    return np.multiply.outer(omega, omega) + _fluctuation(omega, d, L, noise)


def loss(omega: Heads, mu: Heads, d: int, L: int, noise: float) -> float:
    """The approximate population loss, noise included."""
    return float(1 + noise - 2 * mu @ omega + mu @ second_moment(omega, d, L, noise) @ mu)


def gradient(omega: Heads, mu: Heads, d: int, L: int, noise: float) -> tuple[Heads, Heads]:
    """The derivatives of the loss by omega and by mu."""
    fluctuation = _fluctuation(omega, d, L, noise)
    by_omega = 2 * mu * (mu @ omega - 1 + d * fluctuation @ (mu * omega))
    by_mu = 2 * (omega * (mu @ omega - 1) + fluctuation @ mu)
    return by_omega, by_mu


def best_mu(omega: Heads, d: int, L: int, noise: float) -> Heads:
    """mu*(omega) = M(omega)^-1 omega, the minimizer at given omega (paper B)."""
    return np.linalg.solve(second_moment(omega, d, L, noise), omega)


def one_head(d: int, L: int, noise: float) -> tuple[float, float]:
    """omega = 1 / sqrt(d) and mu = sqrt(d) / (1 + e (1 + sigma^2) d / L), the best single head (claim B4)."""
    return 1 / math.sqrt(d), math.sqrt(d) / (1 + math.e * (1 + noise) * d / L)


def two_heads(omega: float, d: int, L: int, noise: float) -> float:
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
        return -np.concatenate(gradient(state[:H], state[H:], d, L, noise))

    flow = solve_ivp(
        velocity, (0, times[-1]), [*omega, *mu], method="LSODA", t_eval=times, rtol=1e-8, atol=1e-10
    )
    return flow.y[:H].T, flow.y[H:].T


def preconditioner(covariance: Float[np.ndarray, "d d"], L: int, noise: float) -> Float[np.ndarray, "d d"]:
    """P of the best w_hat = P^T (1/L) sum_i y_i (x_i - xbar), by the same approximation (claim B9).

    With x ~ N(0, Sigma) two opposite heads with KQ = +-Omega have P = 2 mu Omega in the limit of small Omega.
    Up to a factor 1 - 1/L and a constant the loss is tr[(I - Sigma P) Sigma (I - Sigma P)^T] / d
    + (c / d) tr[Sigma P^T Sigma P], with c = (tr(Sigma) + d sigma^2) / L. It is least at (Sigma + c I)^-1,
    between Sigma^-1 and I.
    """
    d = len(covariance)
    c = (np.trace(covariance) + d * noise) / L
    return np.linalg.inv(covariance + c * np.eye(d))


def _fluctuation(omega: Heads, d: int, L: int, noise: float) -> Float[np.ndarray, "H H"]:
    return (1 + noise) / L * np.exp(d * np.multiply.outer(omega, omega))
