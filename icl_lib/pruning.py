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

from icl_lib import checks, experiments, heads
from icl_lib.training import Trained, seeded
from icl_lib.transformer import Transformer, Weights

VERSIONS = ("full", "pruned", "single")
REFITS = ("nothing", "read-out", "all weights")
RANKING_PROMPTS = 300
READ_OUT_PROMPTS, READ_OUT_QUERIES = 500, 8  # that the read-out is fitted to


def kept(masked: Sequence[ArrayLike], version: str) -> list[list[int]]:
    """The heads that a version keeps, by the risks (H,) of each layer with a head off.

    The top head is the one whose loss costs most. That is the order of every scale of `heads.importance`;
    among heads whose loss costs all, where the bounded scale is 1, it is the one that ends worst.
    """
    checks.one_of("version", version, VERSIONS)
    top = [[int(np.argmax(np.nan_to_num(np.asarray(risks), nan=np.inf)))] for risks in masked]
    whole = {"full": len(masked), "pruned": 1, "single": 0}[version]
    return [list(range(len(risks))) for risks in masked[:whole]] + top[whole:]


def versions(models: Sequence[Trained], n: int) -> dict[str, tuple[Transformer, list[Weights]]]:
    """Settings and weights (one set a model) of each version, heads ranked at length n.

    The prompts of the ranking are not those of the evaluation.
    """
    task, model = models[0].settings.task, models[0].settings.model
    drawn = task.sample(RANKING_PROMPTS, n, generator=seeded("ranking", n), dtype=torch.float64)
    masked = [heads.masked_risks(model, experiments.double(one.weights), task, drawn)[1] for one in models]
    made = {}
    for version in VERSIONS:
        pairs = [
            heads.prune(model, one.weights, kept(risks, version))
            for one, risks in zip(models, masked, strict=True)
        ]
        made[version] = (pairs[0][0], [weights for _, weights in pairs])
    return made


def refit(
    models: Sequence[Trained], small: Transformer, weights: Sequence[Weights], what: str, steps: int
) -> list[Weights]:
    """Weights after fitting anew `what` of REFITS; models are those that the small ones came from.

    All weights: so many further steps with the settings of the first training, its schedule from the start,
    without its curriculum; the prompts are those that the first training began with. The read-out: see
    `heads.refit_read_out`, on prompts of the lengths of training.
    """
    checks.one_of("what", what, REFITS)
    settings = models[0].settings
    if what == "nothing":
        return list(weights)
    if what == "all weights":
        again = replace(settings, model=small, steps=steps, curriculum_mean=0.0)
        return [one.weights for one in experiments.ensemble(again, len(models), starts=weights)]
    drawn = settings.task.sample(
        READ_OUT_PROMPTS,
        settings.n,
        generator=seeded("read-out"),
        queries=READ_OUT_QUERIES,
        dtype=torch.float64,
    )
    return [heads.refit_read_out(small, experiments.double(one), drawn) for one in weights]
