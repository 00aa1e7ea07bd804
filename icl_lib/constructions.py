"""Models with weights written by hand: what the papers say that trained ones do.

A transformer that runs preprocess-then-optimize (paper A, claim A6): the residual stream holds
[x, y, R x, f], f the running prediction: D = 2 d + 2. Layer 1 has d heads of which head j computes r_j and
adds r_j x_j to the third part. Every later layer has one head, and takes one gradient step:
f <- f + (eta / n) sum_i (y_i - f_i) <R x_i, R x>, at context tokens and queries alike.

One softmax layer whose heads are on paper B's pattern.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from icl_lib import checks
from icl_lib.attention_layer import AttentionLayer
from icl_lib.transformer import Transformer


def preprocess_then_optimize_transformer(
    d: int, steps: int, eta: float, dtype: torch.dtype = torch.float64
) -> tuple[Transformer, dict[str, Tensor]]:
    """Settings and weights of the linear-attention transformer with 1 + steps layers.

    It equals `estimators.preprocess_then_optimize(x, y, steps, eta, per_prompt=False)`: fixed weights mean
    one step size eta for all prompts.
    """
    checks.integer("steps", steps, 0)
    checks.number("eta", eta, 0.0)
    model = Transformer(d=d, heads=(d,) + (1,) * steps, D=2 * d + 2, k=d)
    weights = {name: torch.zeros(shape, dtype=dtype) for name, shape in model.shapes().items()}
    x, y, Rx, f = range(d), d, range(d + 1, 2 * d + 1), 2 * d + 1  # places in the residual stream
    for j in x:
        weights["W_in"][j, x[j]] = 1
        # Head j: query and key both read x_j and the value is y, so it adds x_j (1/n) sum_i x_ij y_i.
        weights["W_Q.0"][j, x[j], 0] = 1
        weights["W_K.0"][j, x[j], 0] = 1
        weights["W_V.0"][j, y, 0] = 1
        weights["W_O.0"][j, 0, Rx[j]] = 1
    weights["W_in"][d, y] = 1
    for layer in range(1, steps + 1):
        for j in x:
            weights[f"W_Q.{layer}"][0, Rx[j], j] = 1
            weights[f"W_K.{layer}"][0, Rx[j], j] = 1
        weights[f"W_V.{layer}"][0, y, 0] = 1
        weights[f"W_V.{layer}"][0, f, 0] = -1
        weights[f"W_O.{layer}"][0, 0, f] = eta
    weights["w_out"][f] = 1
    return model, weights


def heads_on_pattern(
    KQ: Float[Tensor, "H d d"], mu: Float[Tensor, " H"]
) -> tuple[AttentionLayer, dict[str, Tensor]]:
    """Settings and weights of a one-layer model with given KQ on the covariates, and OV = mu at y (paper B).

    With KQ = omega I one head is a kernel smoother and two opposite heads are close to debiased gradient
    descent, `estimators.debiased_gd` (claims B3 and B4).
    """
    H, d, _ = KQ.shape
    checks.shape("mu", mu, H)
    model = AttentionLayer(d=d, heads=H)
    weights = {name: torch.zeros(shape, dtype=KQ.dtype) for name, shape in model.shapes().items()}
    weights["K"][:, :d, :d] = torch.eye(d, dtype=KQ.dtype)
    weights["Q"][:, :d, :d] = math.sqrt(model.p) * KQ
    weights["V"][:, d, d] = 1
    weights["O"][:, 0, d] = mu
    return model, weights
