"""The one-layer softmax model of paper B: only the query attends, and only to the context.

    TF(Z, z_q) = sum_h O^h V^h Z softmax(Z^T K^hT Q^h z_q / sqrt(p)),   z_q = [x_q; 0]

Z (p, n) holds the context tokens [x_i; y_i] as columns, p = d + tasks. The model depends on its weights only
through KQ^h = K^hT Q^h / sqrt(p) and OV^h = O^h V^h, so the forward pass merges them first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icl_lib import checks
from icl_lib.tasks import MultiTask, Prompts, Task

Weights = Mapping[str, Tensor]  # K, Q, V (*S, H, p, p), O (*S, H, tasks, p)


@dataclass(frozen=True)
class SoftmaxLayer:
    """Settings of the model; its methods are functions of weights and prompts."""

    d: int = 5
    heads: int = 2
    tasks: int = 1  # numbers predicted at once

    def __post_init__(self):
        checks.integer("d", self.d)
        checks.integer("heads", self.heads)
        checks.integer("tasks", self.tasks)

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
        return {
            name: (2 * torch.rand(shape, **like) - 1) / math.sqrt(self.p)
            for name, shape in self.shapes().items()
        }

    def kq(self, weights: Weights) -> Float[Tensor, "*S H p p"]:
        """KQ^h = K^hT Q^h / sqrt(p)."""
        return weights["K"].mT @ weights["Q"] / math.sqrt(self.p)

    def ov(self, weights: Weights) -> Float[Tensor, "*S H tasks p"]:
        """OV^h = O^h V^h."""
        return weights["O"] @ weights["V"]

    def predict(self, weights: Weights, prompts: Prompts) -> Tensor:
        """Predictions (*S, B, queries), or (*S, B, queries, tasks) for several tasks."""
        context = prompts.context()  # (B, n, p)
        checks.shape("context", context, *context.shape[:-1], self.p)
        kq = self.kq(weights)[..., : self.d].unsqueeze(-4)  # (*S, 1, H, p, d): z_q ends in zeros
        asked = kq @ prompts.x_query.mT.unsqueeze(-3)  # (*S, B, H, p, queries)
        scores = context.unsqueeze(-3) @ asked  # (*S, B, H, n, queries)
        share = scores.masked_fill(~prompts.inside()[..., None, :, None], -math.inf).softmax(-2)
        seen = context.mT.unsqueeze(-3) @ share  # (*S, B, H, p, queries)
        out = (self.ov(weights).unsqueeze(-4) @ seen).sum(-3).mT  # (*S, B, queries, tasks)
        return out[..., 0] if prompts.y.ndim < prompts.x.ndim else out

    def excess_risk(
        self, weights: Weights, task: Task | MultiTask, prompts: Prompts
    ) -> Float[Tensor, "*S B"]:
        """(TF - <w, x>)^2, mean over the queries, sum over tasks."""
        squared = (self.predict(weights, prompts) - prompts.target()).square()
        return (squared if prompts.y.ndim < prompts.x.ndim else squared.sum(-1)).mean(-1)
