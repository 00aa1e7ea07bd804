"""What a layer's features are: a linear probe for R x, and descents on probed features (paper A, claim A4).

A token's feature is its residual stream after a layer. Context pairs are read as the query is read, with
their y hidden: a predictor that is fitted on (feature, y) then applies to the query's feature.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from icl_lib import estimators
from icl_lib.estimators import W, X, Y
from icl_lib.tasks import Prompts
from icl_lib.transformer import Transformer, Weights


def features(
    model: Transformer, weights: Weights, prompts: Prompts, layers: int = 1
) -> tuple[Float[Tensor, "B n D"], Float[Tensor, "B queries D"]]:
    """The residual stream after so many layers, at x_i with y_i hidden and at the queries."""
    asked = prompts._replace(x_query=torch.cat([prompts.x, prompts.x_query], -2))
    n_max = prompts.x.shape[-2]
    z = model.token_stream(weights, asked, layers)[..., n_max:, :]
    return z[..., :n_max, :], z[..., n_max:, :]


def ideal(prompts: Prompts) -> Float[Tensor, "B queries d"]:
    """R x at the queries, R = diag(r), r = X^T y / n: what paper A's first layer is to compute."""
    r = estimators.moments(prompts.x, prompts.y)[1] * prompts.x.shape[-2] / prompts.n[:, None]
    return r[:, None] * prompts.x_query


def probe(model: Transformer, weights: Weights, prompts: Prompts, layers: int = 1) -> Float[Tensor, "D d"]:
    """The P with the least sum of squares |P^T z - R x|^2 over the queries of all prompts."""
    z = features(model, weights, prompts, layers)[1]
    return torch.linalg.lstsq(z.flatten(0, 1), ideal(prompts).flatten(0, 1), driver="gelsd").solution


def fit(P: Tensor, model: Transformer, weights: Weights, prompts: Prompts, layers: int = 1) -> float:
    """R^2 of a probe: the share of the ideal features' variation that P^T z explains, at most 1."""
    error = features(model, weights, prompts, layers)[1] @ P - ideal(prompts)
    return 1 - (error.square().sum() / ideal(prompts).square().sum()).item()


def descent_on_features(
    P: Tensor, model: Transformer, weights: Weights, prompts: Prompts, steps: Sequence[int]
) -> Float[Tensor, "steps B queries"]:
    """Predictions at the queries of gradient descent on the first layer's probed features P^T z.

    The step is 1 / lambda_max of the features' covariance in each prompt, as for raw features
    (`estimators.gradient_descent`).
    """
    context, asked = (z @ P for z in features(model, weights, prompts))
    w = estimators.gradient_descent(context, prompts.y, steps)  # (steps, B, d)
    return (asked @ w[..., None])[..., 0]


def preconditioned_descent(x: X, y: Y, steps: int, gamma: float) -> W:
    """Gradient descent on the covariates M x, M = I - gamma S / lambda_max(S), read back as M w.

    gamma in [0, 1] flattens the spectrum of S; linear transformers on dense regression learn such a step
    (called GD++ in the literature).
    """
    S, _ = estimators.moments(x, y)
    top = torch.linalg.eigvalsh(S)[:, -1, None, None]
    M = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) - gamma * S / top
    return (M @ estimators.gradient_descent(x @ M, y, steps)[..., None])[..., 0]


def distance(w_hat: W, candidate: W) -> float:
    """Median over prompts of 1 - cos^2 of the angle between two effective weight vectors, 0 to 1.

    It is the share of w_hat that no multiple of the candidate explains; the scale is left free because a
    layer's read-out has a scale of its own.
    """
    product = (w_hat * candidate).sum(-1).square()
    norms = w_hat.square().sum(-1) * candidate.square().sum(-1)
    return (1 - product / norms.clamp_min(torch.finfo(norms.dtype).tiny)).median().item()


def closest(w_hat: W, candidates: Mapping[object, W]) -> tuple[object, float]:
    """The candidate at the least distance, and that distance."""
    distances = {name: distance(w_hat, candidate) for name, candidate in candidates.items()}
    name = min(distances, key=distances.get)
    return name, distances[name]
