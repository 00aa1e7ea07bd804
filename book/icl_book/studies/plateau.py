"""The plateau of gradient descent without preprocessing: what more heads are worth there, who leaves it when.

A one-head model is given d more heads in layer 1. Head j reads x_j, x_j and y, and writes epsilon r_j x_j,
r = X^T y / n, so that epsilon = 0 is the model as it was. In place, on top of x_j, the later layers see
x_j -> (1 + epsilon r_j) x_j; apart, in coordinates of its own, they see it beside x_j. The loss along epsilon
says what the first trace of preprocessing is worth. Symbols are those of `transformer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import binomtest
from torch import Tensor

from icl_lib import heads
from icl_lib.evaluation import LEVEL, Interval
from icl_lib.tasks import Prompts, evaluation_prompts, seeded
from icl_lib.training import TRIM, Runs, Trained, Training, penalty
from icl_lib.transformer import Transformer, Weights

Curve = Float[Tensor, "grid B"]  # the training loss of each prompt


class Landscape(NamedTuple):
    """The mean training loss along epsilon, over `tame` prompts where nothing else is said."""

    epsilon: list[float]  # the grid
    change: list[float]  # L(epsilon) - L(0) on the grid
    slope: float  # L'(0)
    curvature: float  # L''(0)
    curvature_all: float  # the same over all prompts
    gradient: float  # norm of the gradient in all that the added heads write ...
    error: float  # ... and of what sampling alone would make of a zero


class Extended(NamedTuple):
    """A model with d more heads in layer 1, which do nothing until `along` lets them write."""

    model: Transformer
    weights: dict[str, Tensor]
    place: Tensor  # (d, D): where the heads write if they write one covariate each


def with_preprocessing_heads(model: Transformer, weights: Weights, apart: bool = False) -> Extended:
    """The model with d more heads in layer 1: head j computes r_j x_j and writes nothing yet.

    It reads x_j, x_j and y through pinv(W_in), which gives a token's row back from the stream. Its place is
    that of x_j, row j of W_in. With `apart` the stream has d new coordinates as the heads' places, and every
    head of the later layers has a copy whose query and key read these in place of x.
    """
    d, D = model.d, model.D
    if d >= D:
        raise ValueError(f"D = {D}: allowed is d + 1 = {d + 1} or more")
    wide = {name: _widened(name, W, d if apart else 0) for name, W in weights.items()}
    x = wide["W_in"][:-1]  # (d, D)
    read = torch.linalg.pinv(wide["W_in"]).mT[:, :, None]  # (p, D, 1)
    none = wide["W_Q.0"].new_zeros(d, *wide["W_Q.0"].shape[1:])
    pad = torch.nn.functional.pad
    unused = (0, none.shape[-1] - 1)  # columns of a head that stay zero
    extra = {
        "Q": pad(read[:-1], unused),
        "K": pad(read[:-1], unused),
        "V": pad(read[-1:].expand(d, -1, -1), unused),
        "O": none.mT,
    }
    extended = dict(wide)
    for name, more in extra.items():
        extended[f"W_{name}.0"] = torch.cat([wide[f"W_{name}.0"], more])
    if not apart:
        heads = (model.heads[0] + d, *model.heads[1:])
        return Extended(replace(model, heads=heads, k=none.shape[-1]), extended, x)
    for layer in range(1, len(model.heads)):
        for name in "QKVO":
            W = wide[f"W_{name}.{layer}"]
            copy = torch.cat([torch.zeros_like(W[:, :D]), x @ W], 1) if name in "QK" else W
            extended[f"W_{name}.{layer}"] = torch.cat([W, copy])
    heads = (model.heads[0] + d, *(2 * H for H in model.heads[1:]))
    place = torch.eye(D + d).to(x)[D:]
    return Extended(replace(model, D=D + d, heads=heads, k=none.shape[-1]), extended, place)


def along(extended: Extended, direction: Float[Tensor, "d D"]) -> dict[str, Tensor]:
    """Weights with which head j of the d added ones writes r_j x_j times direction[j] to the stream."""
    W_O = extended.weights["W_O.0"]
    old = W_O.shape[0] - extended.model.d
    more = torch.cat([direction[:, None], W_O[old:, 1:]], 1)
    return extended.weights | {"W_O.0": torch.cat([W_O[:old], more])}


def losses(
    settings: Training, extended: Extended, prompts: Prompts, direction: Tensor
) -> Float[Tensor, " B"]:
    """The training loss of each prompt with the added heads writing along a direction."""
    risk = extended.model.excess_risk(along(extended, direction), settings.task, prompts)
    return penalty(settings, risk)


def curve(settings: Training, extended: Extended, prompts: Prompts, grid: Sequence[float]) -> Curve:
    """Training loss with the added heads writing epsilon * place, for each epsilon of the grid."""
    with torch.no_grad():
        return torch.stack([losses(settings, extended, prompts, e * extended.place) for e in grid])


def tame(curves: Curve, prompts: Prompts, trim: float = TRIM) -> tuple[Tensor, Prompts]:
    """Curves and prompts without the share of prompts whose loss is largest anywhere on the grid.

    A fixed set of prompts for every epsilon: a mean over it is smooth, and a few prompts do not carry it.
    """
    worst = curves.nan_to_num(torch.inf).amax(0)
    kept = worst.argsort()[: len(worst) - int(trim * len(worst))].sort().values
    return curves[:, kept], Prompts(*(part[kept] for part in prompts))


def slope_and_curvature(settings: Training, extended: Extended, prompts: Prompts) -> tuple[float, float]:
    """L'(0) and L''(0) of the mean training loss L(epsilon) with direction epsilon * place."""
    epsilon = extended.place.new_zeros((), requires_grad=True)
    loss = losses(settings, extended, prompts, epsilon * extended.place).mean()
    (slope,) = torch.autograd.grad(loss, epsilon, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, epsilon)
    return slope.item(), curvature.item()


def gradient_norm(
    settings: Training, extended: Extended, prompts: Prompts, parts: int = 40
) -> tuple[float, float]:
    """Norm of the mean gradient in all that the added heads write (d, D), at zero; and its sampling error.

    The error is the norm that sampling alone would give on average were the true gradient zero: the root of
    the summed variances of the gradients of so many equal parts of the prompts, over their number.
    """
    gradients = []
    for part in torch.arange(len(prompts.n)).tensor_split(parts):
        direction = torch.zeros_like(extended.place, requires_grad=True)
        some = Prompts(*(field[part] for field in prompts))
        loss = losses(settings, extended, some, direction).sum() * parts / len(prompts.n)
        gradients.append(torch.autograd.grad(loss, direction)[0])
    gradients = torch.stack(gradients)
    return gradients.mean(0).norm().item(), (gradients.var(0).sum() / parts).sqrt().item()


def landscape(trained: Trained, prompts: Prompts, grid: Sequence[float], apart: bool = False) -> Landscape:
    """The loss around a trained model along the direction of `with_preprocessing_heads`; 0 is in the grid."""
    settings = trained.settings
    weights = {name: W.to(prompts.x) for name, W in trained.weights.items()}
    extended = with_preprocessing_heads(settings.model, weights, apart)
    curves, kept = tame(curve(settings, extended, prompts, grid), prompts)
    change = (curves - curves[list(grid).index(0.0)]).mean(-1).tolist()
    return Landscape(
        list(grid),
        change,
        *slope_and_curvature(settings, extended, kept),
        slope_and_curvature(settings, extended, prompts)[1],
        *gradient_norm(settings, extended, kept),
    )


def landscapes(
    models: Mapping[object, Runs],
    column: str,
    grid: Sequence[float],
    prompts: int,
    *,
    apart: bool = False,
    **changes: object,
) -> pd.DataFrame:
    """`landscape` of each model, on prompts of its training's task with some changes.

    A row a model: `column` with the key, seed, and the fields of Landscape; epsilon and change are lists.
    """
    rows = []
    for key, runs in models.items():
        task, n = replace(runs.settings.task, **changes), runs.settings.n
        for model in runs:
            drawn = task.sample(prompts, n, seeded(model.seed, "plateau"), dtype=torch.float64)
            rows.append({column: key, "seed": model.seed} | landscape(model, drawn, grid, apart)._asdict())
    return pd.DataFrame(rows)


def histories(models: Mapping[object, Runs], columns: Sequence[str]) -> pd.DataFrame:
    """Validation risk at each look of a training: columns, whose values a key has, seed, step, risk."""
    frames = [
        pd.DataFrame({name: model.history[name].double() for name in ("step", "risk")}).assign(
            seed=model.seed, **dict(zip(columns, key, strict=True))
        )
        for key, runs in models.items()
        for model in runs
    ]
    frame = pd.concat(frames, ignore_index=True)[[*columns, "seed", "step", "risk"]]
    return frame.astype({"step": int})


def effective_heads(runs: Runs, n: int, prompts: int, seed: int = 0) -> pd.DataFrame:
    """Effective number of heads of layer 1, by bounded importance, at each kept look but the first.

    seed, step, effective; all on the same evaluation prompts, in single precision.
    """
    settings = runs.settings
    drawn = evaluation_prompts(settings.task, n, prompts, seed)
    drawn = drawn._replace(x=drawn.x.float(), y=drawn.y.float(), w=drawn.w.float())
    rows = []
    for model in runs:
        for look in range(1, len(model.kept["w_out"])):
            weights = {name: W[look] for name, W in model.kept.items()}
            masking = heads.masking(settings.model, weights, settings.task, drawn)
            rows.append((model.seed, look * settings.keep_every, heads.effective_numbers([masking])[0, 0]))
    return pd.DataFrame(rows, columns=["seed", "step", "effective"])


def stays_below(values: pd.Series, mark: float) -> pd.Series:
    """Whether values are below a mark, here and from here to the end; one that is not finite is not."""
    return (values < mark)[::-1].cummin()[::-1]


def exact_share(events: ArrayLike) -> Interval:
    """The share of events that happened (1, else 0), with the exact binomial interval."""
    test = binomtest(int(sum(events)), len(events))
    return Interval(test.statistic, *test.proportion_ci(LEVEL))


def _widened(name: str, W: Tensor, more: int) -> Tensor:
    """A weight tensor of a model whose stream has so many more coordinates, zero in all of them."""
    if name.startswith(("W_Q", "W_K", "W_V")):
        return torch.nn.functional.pad(W, (0, 0, 0, more))
    return torch.nn.functional.pad(W, (0, more))
