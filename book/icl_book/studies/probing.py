"""What a layer's features are: a linear probe for R x, and descents on probed features (paper A, claim A4).

A token's feature is its residual stream after a layer. Context pairs are read as the query is read, with
their y hidden: a predictor that is fitted on (feature, y) then applies to the query's feature.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from icl_lib import checks, estimators
from icl_lib.estimators import W, X, Y
from icl_lib.tasks import Prompts, Task, evaluation_prompts, gram, seeded
from icl_lib.training import Runs, Training, trimmed_mean
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
    checks.integer("the least n of prompts that are whitened", int(prompts.n.min()), prompts.x.shape[-1])
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


def explained(runs: Runs) -> pd.DataFrame:
    """R^2 of probes for R x, fitted and tested on prompts of the lengths of training: a row a model.

    seed, raw (of x itself), r2 (of the features after layer 1), white (of these in whitened prompts).
    """
    plain = probe_prompts(runs.settings)
    white = tuple(map(whitened, plain))
    rows = []
    for trained in runs:
        of_model = runs.settings.model, trained.weights
        found = []
        for (fitting, testing), layers in ((plain, 0), (plain, 1), (white, 1)):
            P = probe(*of_model, fitting, layers)
            found.append(fit(P, *of_model, testing, layers))
        rows.append((trained.seed, *found))
    return pd.DataFrame(rows, columns=["seed", "raw", "r2", "white"])


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


def descents(runs: Runs, control: Runs, prompts: Prompts, steps: Sequence[int]) -> pd.DataFrame:
    """1%-trimmed mean risk of descents at several numbers of steps: seed, method, T, risk.

    Methods: gradient descent on raw covariates; preprocess-then-optimize; on the models' features after
    layer 1, `whole` as they stand or `probed` for R x by a probe fitted to prompts of its own; `control`, on
    the features of the other models as they stand. The first two are the same for each seed. `trained` is the
    model's own risk, the same at each T.
    """
    x, y, task = prompts.x, prompts.y, runs.settings.task
    fitting, _ = probe_prompts(runs.settings)
    known = {
        "gradient descent": estimators.gradient_descent(x, y, steps),
        "preprocess-then-optimize": estimators.preprocess_then_optimize(x, y, steps),
    }
    frames = []
    for model, other in zip(runs, control, strict=True):
        P = probe(model.settings.model, model.weights, fitting)
        F, F_other = (feature_map(of.settings.model, of.weights, prompts) for of in (model, other))
        w_hat = known | {
            "probed": descent_on(F @ P, x, y, steps),
            "whole": descent_on(F, x, y, steps),
            "control": descent_on(F_other, x, y, steps),
        }
        risks = {method: trimmed_mean(task.excess_risk(w, prompts.w)) for method, w in w_hat.items()}
        risks["trained"] = trimmed_mean(model.excess_risk(task, prompts)).item()
        frame = pd.DataFrame(risks, pd.Index(steps, name="T")).reset_index()
        frames.append(frame.melt("T", var_name="method", value_name="risk").assign(seed=model.seed))
    return pd.concat(frames, ignore_index=True)[["seed", "method", "T", "risk"]]


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


def followed(runs: Runs, n: int, prompts: int) -> pd.DataFrame:
    """The distance of each layer's effective weights to each algorithm (linear attention).

    seed, layer (from 1), algorithm, distance. Each algorithm is at its best: what it leaves open is chosen
    for each layer on other prompts than those of the distance.
    """
    model, task = runs.settings.model, runs.settings.task
    tuning = task.sample(prompts, n, seed=seeded("candidates", n), dtype=torch.float64)
    evaluation = evaluation_prompts(task, n, prompts, 0)
    choices, known = candidates(task, n, tuning), candidates(task, n, evaluation)
    rows = []
    for trained in runs:
        at_tuning, at_evaluation = (
            model.layer_weights(trained.weights, gram(drawn))[1:] for drawn in (tuning, evaluation)
        )
        for layer, (tuned, w_hat) in enumerate(zip(at_tuning, at_evaluation, strict=True), start=1):
            for algorithm, members in choices.items():
                choice, _ = closest(tuned, members)
                rows.append((trained.seed, layer, algorithm, distance(w_hat, known[algorithm][choice])))
    return pd.DataFrame(rows, columns=["seed", "layer", "algorithm", "distance"])
