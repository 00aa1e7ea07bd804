"""What a layer's features are: a linear probe for R x, and descents on probed features (paper A, claim A4).

A token's feature is its residual stream after a layer. Context pairs are read as the query is read, with
their y hidden: a predictor that is fitted on (feature, y) then applies to the query's feature.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_lib import estimators
from icl_lib.estimators import W, X, Y
from icl_lib.tasks import Prompts, Task, evaluation_prompts, gram, seeded
from icl_lib.training import Training
from icl_lib.transformer import Transformer, Weights

CANDIDATE_STEPS = tuple(range(1, 11))  # of the descents that a layer's weights are compared with
PROBE_PROMPTS, PROBE_QUERIES = 500, 8
GAMMAS = (0.25, 0.5, 0.75, 1.0)


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


def probe_prompts(settings: Training) -> tuple[Prompts, Prompts]:
    """Prompts of the lengths of training, in double precision: to fit a probe to, and to test it on."""
    like = dict(queries=PROBE_QUERIES, dtype=torch.float64)
    fitting, testing = (
        settings.task.sample(PROBE_PROMPTS, settings.n, seed=seeded("probe", part), **like)
        for part in ("fit", "test")
    )
    return fitting, testing


def whitened(prompts: Prompts) -> Prompts:
    """The prompts with context covariates x S^-1/2, of sample covariance I, same w and noise (n >= d)."""
    spectrum, U = torch.linalg.eigh(prompts.x.mT @ prompts.x / prompts.n[:, None, None])
    x = prompts.x @ (U * spectrum.rsqrt()[:, None]) @ U.mT
    return prompts._replace(x=x, y=prompts.y + ((x - prompts.x) @ prompts.w[..., None])[..., 0])


def probe(model: Transformer, weights: Weights, prompts: Prompts, layers: int = 1) -> Float[Tensor, "D d"]:
    """The P with the least sum of squares |P^T z - R x|^2 over the queries of all prompts."""
    z = features(model, weights, prompts, layers)[1]
    return torch.linalg.lstsq(z.flatten(0, 1), ideal(prompts).flatten(0, 1), driver="gelsd").solution


def fit(P: Tensor, model: Transformer, weights: Weights, prompts: Prompts, layers: int = 1) -> float:
    """R^2 of a probe: the share of the ideal features' variation that P^T z explains, at most 1."""
    error = features(model, weights, prompts, layers)[1] @ P - ideal(prompts)
    return 1 - (error.square().sum() / ideal(prompts).square().sum()).item()


def products(weights: Weights) -> Float[Tensor, "H d d"]:
    """|c_hij| where head h of layer 1 adds sum_ij c_hij x_i r_j to a token with covariates x (linear).

    The head scores tokens by z^T M z' and writes z' N, M and N in raw coordinates [x, y]. Of the context it
    sees r_j = mean x'_j y' in two ways, the score reading x' and the value y', or the other way round:
    c_hij = M_ij N_y + M_iy N_j in R^D. What it sees of x' x'^T and y'^2 is left out.
    """
    W_in, d = weights["W_in"], weights["W_in"].shape[-2] - 1
    M = (W_in @ weights["W_Q.0"]) @ (W_in @ weights["W_K.0"]).mT  # (H, d + 1, d + 1)
    N = (W_in @ weights["W_V.0"]) @ weights["W_O.0"]  # (H, d + 1, D)
    direct = M[:, :d, :d, None] * N[:, None, d:]
    turned = M[:, :d, d:, None] * N[:, None, :d]
    return (direct + turned).norm(dim=-1)


def group_size(a: Float[Tensor, "H d"]) -> float:
    """How many r_j x_j a head sums: the effective number of its a_hj^2, heads weighted by |a_h|^2."""
    square = a.square()
    strength = square.sum(-1)
    effective = strength.square() / square.square().sum(-1).clamp_min(torch.finfo(a.dtype).tiny)
    return ((strength * effective).sum() / strength.sum()).item()


def feature_map(
    model: Transformer, weights: Weights, prompts: Prompts, layers: int = 1
) -> Float[Tensor, "B d D"]:
    """F with feature F^T x after so many layers of linear attention, at x with y hidden (Gram form)."""
    return model.residual_stream(weights, gram(prompts), layers)[layers][..., : model.d, :]


def descent_on(
    F: Float[Tensor, "B d m"], x: X, y: Y, steps: int | Sequence[int]
) -> Float[Tensor, "*steps B d"]:
    """Gradient descent on the covariates F^T x, read back as effective weights F w.

    The step is 1 / lambda_max of their covariance in each prompt. F = diag(r) is preprocess-then-optimize.
    """
    return (F @ estimators.gradient_descent(x @ F, y, steps)[..., None])[..., 0]


def preconditioned_descent(
    x: X, y: Y, steps: int | Sequence[int], gamma: float
) -> Float[Tensor, "*steps B d"]:
    """Gradient descent on the covariates M x, M = I - gamma S / lambda_max(S), read back as M w.

    gamma in [0, 1] flattens the spectrum of S; linear transformers on dense regression learn such a step
    (called GD++ in the literature).
    """
    S, _ = estimators.moments(x, y)
    top = torch.linalg.eigvalsh(S)[:, -1, None, None]
    M = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) - gamma * S / top
    return descent_on(M, x, y, steps)


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


def candidates(task: Task, n: int, prompts: Prompts) -> dict[str, dict[object, W]]:
    """Effective weights of known algorithms: for each, those of every choice it leaves open."""
    x, y = prompts.x, prompts.y

    def by_steps(paths: Float[Tensor, "steps B d"], *names: object) -> dict[object, W]:
        return {(steps, *names): w_hat for steps, w_hat in zip(CANDIDATE_STEPS, paths, strict=True)}

    table = {
        "gradient descent": by_steps(estimators.gradient_descent(x, y, CANDIDATE_STEPS)),
        "preconditioned descent": {},
        "preprocess-then-optimize": by_steps(estimators.preprocess_then_optimize(x, y, CANDIDATE_STEPS)),
    }
    for gamma in GAMMAS:
        paths = preconditioned_descent(x, y, CANDIDATE_STEPS, gamma)
        table["preconditioned descent"] |= by_steps(paths, gamma)
    known = {"ridge": estimators.ridge} | ({"Bayes": estimators.bayes} if estimators.has_bayes(task) else {})
    for method, estimator in known.items():
        table[method] = {(): estimators.at_best(estimator, task, n)(x, y)}
    return table


def followed(
    model: Transformer, weights: Weights, task: Task, n: int, prompts: int
) -> dict[str, Float[np.ndarray, " layers"]]:
    """The distance of each layer's effective weights to each algorithm, at its best (linear attention).

    What an algorithm leaves open is chosen for each layer on other prompts than those of the distance.
    """
    tuning = task.sample(prompts, n, seed=seeded("candidates", n), dtype=torch.float64)
    evaluation = evaluation_prompts(task, n, prompts, 0)
    at_tuning, at_evaluation = (
        (model.layer_weights(weights, gram(drawn))[1:], candidates(task, n, drawn))
        for drawn in (tuning, evaluation)
    )
    table = {}
    for name, members in at_tuning[1].items():
        chosen = [closest(w_hat, members)[0] for w_hat in at_tuning[0]]
        found = [
            distance(w_hat, at_evaluation[1][name][choice])
            for w_hat, choice in zip(at_evaluation[0], chosen, strict=True)
        ]
        table[name] = np.array(found)
    return table
