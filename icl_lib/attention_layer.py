"""The one-layer model of paper B: only the query attends, and only to the context.

    TF(Z, z_q) = sum_h O^h V^h Z softmax(Z^T K^hT Q^h z_q / sqrt(p)),   z_q = [x_q; 0]

Z (p, n) holds the context tokens [x_i; y_i] as columns, p = d + tasks. Linear attention has the scores
divided by n in place of their softmax. The model depends on its weights only through
KQ^h = K^hT Q^h / sqrt(p) and OV^h = O^h V^h, so the forward pass merges them first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import pad

from icl_lib import checks
from icl_lib.models import without_heads
from icl_lib.tasks import Prompts, squared_error, together

ATTENTION = ("linear", "softmax")
OUTSIDE = 1e30  # its negative exponential is zero, and its product with zero is not a nan

Weights = Mapping[str, Tensor]  # K, Q, V (*S, H, p, p), O (*S, H, tasks, p)


@dataclass(frozen=True)
class AttentionLayer:
    """Settings of the model; its methods are functions of weights and prompts.

    Source: paper B, its setting, and the authors' released notebooks.
    """

    d: int = 5  #: covariates
    heads: int = 2  #: H
    tasks: int = 1  #: labels that are predicted at once
    attention: str = "softmax"  #: or linear

    def __post_init__(self):
        checks.integer("d", self.d)
        checks.integer("heads", self.heads)
        checks.integer("tasks", self.tasks)
        checks.one_of("attention", self.attention, ATTENTION)

    @property
    def outputs(self) -> int:
        """Labels predicted at once, one a task."""
        return self.tasks

    @property
    def p(self) -> int:
        """Entries of a token."""
        return self.d + self.tasks

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight tensor of one model."""
        square = (self.heads, self.p, self.p)
        return {"K": square, "Q": square, "V": square, "O": (self.heads, self.tasks, self.p)}

    def init(self, generator: Generator, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Fresh weights of one model, uniform on +-1/sqrt(p) as a linear layer's are by default."""
        like = dict(generator=generator, dtype=dtype, device=generator.device)
        uniform = {name: 2 * torch.rand(shape, **like) - 1 for name, shape in self.shapes().items()}
        return {name: weight / math.sqrt(self.p) for name, weight in uniform.items()}

    def kq(self, weights: Weights) -> Float[Tensor, "*S H p p"]:
        """KQ^h = K^hT Q^h / sqrt(p)."""
        return weights["K"].mT @ weights["Q"] / math.sqrt(self.p)

    def ov(self, weights: Weights) -> Float[Tensor, "*S H tasks p"]:
        """OV^h = O^h V^h."""
        return weights["O"] @ weights["V"]

    def predict(self, weights: Weights, prompts: Prompts) -> Tensor:
        """Predictions (*S, B, queries), or (*S, B, queries, tasks) for several tasks."""
        weights, prompts = together(weights, prompts)
        y = prompts.y.mT if prompts.several else prompts.y[..., None, :]
        checks.shape("y", y, *y.shape[:-2], self.tasks, y.shape[-1])
        # The mask comes in as one more row of Z, by the product itself; and the softmax runs along the last
        # dimension: both save a large share of a step.
        mask = -OUTSIDE * (~prompts.inside()).to(y.dtype)[..., None, :]
        Z = torch.cat([prompts.x.mT, y, mask], -2)  # (*S, B, p + 1, n)
        kq = self.kq(weights)[..., : self.d].flatten(-3, -2)  # (*S, H p, d): z_q ends in zeros
        asked = prompts.x_query.flatten(-3, -2) @ kq.mT  # (*S, B queries, H p)
        asked = asked.unflatten(-2, prompts.x_query.shape[-3:-1])  # (*S, B, queries, H p)
        asked = asked.unflatten(-1, (self.heads, self.p)).flatten(-3, -2)  # (*S, B, queries H, p)
        scores = pad(asked, (0, 1), value=float(self.attention == "softmax")) @ Z  # (*S, B, queries H, n)
        share = scores.softmax(-1) if self.attention == "softmax" else scores / prompts.n[..., None, None]
        seen = share @ Z[..., : self.p, :].mT  # (*S, B, queries H, p); rows outside the context are zero
        seen = seen.unflatten(-2, (-1, self.heads)).flatten(-2)  # (*S, B, queries, H p)
        out = seen @ self.ov(weights).mT.flatten(-3, -2).unsqueeze(-3)  # (*S, B, queries, tasks)
        return out if prompts.several else out[..., 0]

    def excess_risk(self, weights: Weights, task: object, prompts: Prompts) -> Float[Tensor, "*S B"]:
        """(TF - <w, x>)^2, mean over the queries, sum over tasks."""
        return squared_error(self.predict(weights, prompts), prompts)

    def switched_off(self, weights: Weights, heads: Mapping[int, Sequence[int]]) -> dict[str, Tensor]:
        """Weights with the heads[0] switched off: their output is zero."""
        for layer in heads:
            checks.integer("layer", layer, 0, 0)
        return dict(weights) | {"O": without_heads(weights["O"], heads.get(0, ()))}
