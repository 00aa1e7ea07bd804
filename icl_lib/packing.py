"""Models of one shape packed into one tensor (S, P): a row a model, so that a step updates all at once.

Models may differ in their numbers of heads: missing heads are filled up with zeros. A head of zeros adds
nothing and has no gradient, so it stays one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from icl_lib.attention_layer import AttentionLayer
from icl_lib.transformer import Transformer

Model = Transformer | AttentionLayer
Shapes = Mapping[str, tuple[int, ...]]


def widest(models: Sequence[Model]) -> Model:
    """The model with the most heads of any, in each layer.

    Raises ValueError if the models differ in anything but their numbers of heads.
    """
    if not models:
        raise ValueError("models = []: allowed is at least one")
    first = models[0]
    kinds = {type(model).__name__ for model in models}
    if len(kinds) > 1:
        raise ValueError(f"{' and '.join(sorted(kinds))} do not stack: allowed is one kind of model")
    if isinstance(first, Transformer):
        depths = {len(model.heads) for model in models}
        if len(depths) > 1:
            raise ValueError(f"models of {sorted(depths)} layers do not stack: allowed is one depth")
        heads = tuple(map(max, zip(*(model.heads for model in models), strict=True)))
    else:
        heads = max(model.heads for model in models)
    wide = replace(first, heads=heads)
    for model in models:
        if replace(model, heads=heads) != wide or _tails(model) != _tails(wide):
            raise ValueError(
                f"{model} does not stack with {first}: allowed are other numbers of heads of one width"
            )
    return wide


def pack(weights: Mapping[str, Tensor], shapes: Shapes) -> Float[Tensor, " P"]:
    """One model's weights as one vector, padded with zeros to `shapes`."""
    parts = []
    for name, shape in shapes.items():
        padded = weights[name].new_zeros(shape)
        padded[_corner(weights[name].shape)] = weights[name]
        parts.append(padded.flatten())
    return torch.cat(parts)


def unpack(rows: Float[Tensor, "*S P"], shapes: Shapes) -> dict[str, Tensor]:
    """The weights (*S, ...) that the rows hold, as views."""
    parts = rows.split([math.prod(shape) for shape in shapes.values()], -1)
    return {
        name: part.unflatten(-1, shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def strip(padded: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """A copy of one model's weights (*kept, ...) without the padding, on the CPU."""
    return {
        name: padded[name][(..., *_corner(shape))].detach().cpu().clone() for name, shape in shapes.items()
    }


def _corner(shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(map(slice, shape))


def _tails(model: Model) -> list[tuple[int, ...]]:
    """What the weights' shapes are but for the numbers of heads, which come first."""
    return [shape[1:] for shape in model.shapes().values()]
