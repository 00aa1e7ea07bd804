"""Smaller models out of larger ones: which heads to keep, and what is fitted anew (paper A, claim A3).

Three models are compared: `full` keeps all heads, `pruned` all heads of layer 1 and the top head of each
later layer, `single` the top head of each layer. What is fitted anew after heads are gone is an open choice
of the paper's: nothing, the read-out, or all weights that are left.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from icl_lib import checks
from icl_lib.heads import masking, prune
from icl_lib.tasks import Prompts, seeded, together
from icl_lib.training import Runs, Training
from icl_lib.transformer import Transformer, Weights

SHAPE_OF = {"full": "all", "pruned": "first", "single": "one"}  # of each version: see robustness.shapes
VERSIONS = tuple(SHAPE_OF)
RANKING_PROMPTS = 300
READ_OUT_PROMPTS, READ_OUT_QUERIES = 500, 8  # that the read-out is fitted to
REFIT_ROUNDS = 30  # of `refit_read_out`; the loss changes by less than 1e-6 in the last ones


def kept(masked: Sequence[ArrayLike], version: str) -> list[list[int]]:
    """The heads that a version keeps, by the risks (H,) of each layer with a head off.

    The top head is the one whose loss costs most. That is the order of every scale of `heads.scaled`;
    among heads whose loss costs all, where the bounded scale is 1, it is the one that ends worst.
    """
    checks.one_of("version", version, VERSIONS)
    top = [[int(np.argmax(np.nan_to_num(np.asarray(risks), nan=np.inf)))] for risks in masked]
    whole = {"full": len(masked), "pruned": 1, "single": 0}[version]
    return [list(range(len(risks))) for risks in masked[:whole]] + top[whole:]


def versions(runs: Runs, n: int) -> dict[str, tuple[Transformer, list[Weights]]]:
    """Settings and weights (one set a model) of each version, heads ranked at length n.

    The prompts of the ranking are not those of the evaluation.
    """
    task, model = runs.settings.task, runs.settings.model
    drawn = task.sample(RANKING_PROMPTS, n, seeded("ranking", n), dtype=torch.float64)
    masked = [masking(model, found.weights, task, drawn).off for found in runs]
    made = {}
    for version in VERSIONS:
        pairs = [
            prune(model, found.weights, kept(risks, version))
            for found, risks in zip(runs, masked, strict=True)
        ]
        made[version] = (pairs[0][0], [weights for _, weights in pairs])
    return made


def again(settings: Training, heads: Sequence[int], steps: int) -> Training:
    """So many further steps of a smaller model, with the settings of the first training.

    The schedule is from its start, without the curriculum; the prompts are those of the first steps of the
    first training.
    """
    width = settings.model.k or settings.model.D // settings.model.heads[0]
    small = replace(settings.model, heads=tuple(heads), k=width)
    return replace(settings, model=small, steps=steps, curriculum_mean=0.0)


def smaller(runs: Runs, n: int) -> dict[tuple[str, str], Runs]:
    """The versions of trained models, by what is fitted anew and version, heads ranked at length n.

    Fitted anew is nothing, or the read-out, on prompts of the lengths of training (see `refit_read_out`).
    """
    like = dict(queries=READ_OUT_QUERIES, dtype=torch.float64)
    drawn = runs.settings.task.sample(READ_OUT_PROMPTS, runs.settings.n, seeded("read-out"), **like)
    made = {}
    for version, (model, left) in versions(runs, n).items():
        settings = replace(runs.settings, model=model)
        refitted = [refit_read_out(model, weights, drawn) for weights in left]
        for refit, fitted in {"nothing": left, "read-out": refitted}.items():
            made[refit, version] = Runs(
                replace(whole, settings=settings, weights=weights)
                for whole, weights in zip(runs, fitted, strict=True)
            )
    return made


def refit_read_out(
    model: Transformer, weights: Weights, prompts: Prompts, delta: float = 1.0
) -> dict[str, Tensor]:
    """Weights with w_out fitted anew to the queries' targets, all others as they are.

    Minimizes the mean pseudo-Huber loss 2 delta^2 (sqrt(1 + e^2 / delta^2) - 1) of the errors e, which is
    convex, by reweighted least squares: an error e has weight 1 / sqrt(1 + e^2 / delta^2).
    """
    weights, prompts = together(weights, prompts)
    z = model.token_stream(weights, prompts, len(model.heads))[..., prompts.x.shape[-2] :, :].flatten(0, -2)
    target, w_out = prompts.target().flatten(), weights["w_out"]
    for _ in range(REFIT_ROUNDS):
        root = (1 + (z @ w_out - target).square() / delta**2) ** -0.25  # of the weight
        w_out = torch.linalg.lstsq(z * root[:, None], (target * root)[:, None], driver="gelsd").solution[:, 0]
    return dict(weights) | {"w_out": w_out}
