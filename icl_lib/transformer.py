"""The attention-only transformer of paper A, in token form and, for linear attention, in Gram form.

    Z_0 = E W_in;   Z <- Z + sum_h Attention_h(Z, Z_ctx) W_O^h  in each layer;   yhat = z_query w_out

E holds the token rows [x_i, y_i] and [x_query, 0]; only context tokens are keys and values. Symbols: d
covariates, p = d + 1 entries of a token, D width of the residual stream, H heads in a layer, k width of a
head, B prompts. Weights are a dict of tensors; leading dimensions of theirs (`*S`) are an ensemble. Where
weights and prompts differ in precision, the wider one is used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icl_lib import checks
from icl_lib.models import without_heads
from icl_lib.tasks import Prompts, Task, gram, squared_error, together, tokens

ATTENTION = ("linear", "relu", "softmax")

# W_in (*S, p, D), W_Q.l W_K.l W_V.l (*S, H, D, k), W_O.l (*S, H, k, D), w_out (*S, D)
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Transformer:
    """Settings of the transformer; its methods are functions of weights and prompts.

    Source: paper A, its setting; for the Gram form see `effective_weights`.
    """

    d: int = 16  #: covariates
    heads: tuple[int, ...] = (8, 8, 8)  #: heads H in each layer
    D: int = 256  #: width of the residual stream
    k: int | None = None  #: width of a head; None is D / H, the usual split, which must come out even
    attention: str = "linear"  #: or relu or softmax; linear attention alone has a Gram form
    init_scale: float = 0.5  #: initial weights are N(0, init_scale^2 / fan-in)
    outputs = 1  # labels predicted at once

    def __post_init__(self):
        checks.integer("d", self.d)
        checks.integer("D", self.D)
        checks.one_of("attention", self.attention, ATTENTION)
        checks.number("init_scale", self.init_scale, 0.0)
        checks.integers("heads", self.heads)
        if self.k is None and any(self.D % H for H in self.heads):
            raise ValueError(f"heads = {self.heads}: allowed without k are divisors of D = {self.D}")
        if self.k is not None:
            checks.integer("k", self.k)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight tensor of one model."""
        shapes = {"W_in": (self.d + 1, self.D)}
        for layer, H in enumerate(self.heads):
            k = self.k or self.D // H
            shapes |= {f"W_{name}.{layer}": (H, self.D, k) for name in "QKV"}
            shapes[f"W_O.{layer}"] = (H, k, self.D)
        return shapes | {"w_out": (self.D,)}

    def init(self, generator: Generator, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Fresh weights of one model."""
        weights = {}
        for name, shape in self.shapes().items():
            # A head reads D numbers; the output sums over the k numbers of all heads of the layer.
            fan_in = (
                shape[0] * shape[1] if name.startswith("W_O") else shape[-2] if len(shape) > 1 else shape[0]
            )
            noise = torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
            weights[name] = noise * self.init_scale / math.sqrt(fan_in)
        return weights

    def predict(self, weights: Weights, prompts: Prompts) -> Float[Tensor, "*S B queries"]:
        """Predictions at the queries, in token form; any kind of attention."""
        return self.read_tokens(weights, prompts)[..., prompts.x.shape[-2] :]

    def read_tokens(self, weights: Weights, prompts: Prompts) -> Float[Tensor, "*S B tokens"]:
        """The read-out <z_i, w_out> at every token after the last layer: context first, then queries."""
        weights, prompts = together(weights, prompts)
        z = self.token_stream(weights, prompts, len(self.heads))
        return (z @ weights["w_out"][..., None, :, None])[..., 0]

    def token_stream(self, weights: Weights, prompts: Prompts, layers: int) -> Float[Tensor, "*S B tokens D"]:
        """The residual stream z_i of every token after so many layers: context first, then queries."""
        checks.shape("x", prompts.x, *prompts.x.shape[:-1], self.d)
        checks.integer("layers", layers, 0, len(self.heads))
        weights, prompts = together(weights, prompts)
        n_max = prompts.x.shape[-2]
        inside, n = prompts.inside()[..., None, None, :], prompts.n[..., None, None, None]  # (B, 1, 1, n_max)
        z = tokens(prompts) @ weights["W_in"].unsqueeze(-3)  # (*S, B, N, D)
        for layer in range(layers):
            W_Q, W_K, W_V, W_O = (weights[f"W_{name}.{layer}"].unsqueeze(-4) for name in "QKVO")
            context = z[..., None, :n_max, :]
            scores = (z[..., None, :, :] @ W_Q) @ (context @ W_K).mT  # (*S, B, H, N, n_max)
            if self.attention == "linear":
                share = scores / n
            elif self.attention == "relu":
                share = (scores / math.sqrt(W_Q.shape[-1])).relu() / n * inside
            else:
                scores = scores / math.sqrt(W_Q.shape[-1])
                share = scores.masked_fill(~inside, -math.inf).softmax(-1)
            z = z + (share @ (context @ W_V) @ W_O).sum(-3)
        return z

    def effective_weights(self, weights: Weights, G: Float[Tensor, "*#S B p p"]) -> Float[Tensor, "*S B d"]:
        """w_hat with yhat = <w_hat, x> at every query, in Gram form: linear attention only.

        Every token is a linear image z_i = e_i A of its raw row, with one A (p, D) a prompt:

            A_0 = W_in,   w_hat = A[:d] w_out after the last layer,
            A <- A + sum_h (A W_Q^h) ((A W_K^h)^T G (A W_V^h)) W_O^h

        Three things make it cheap. The cost does not depend on n. Layer 1 starts from the same A_0 in all
        prompts, so its projections are made once. And the last layer is needed only through w_out, which
        turns its matrices into vectors.
        """
        weights, G = together(weights, G)
        A = self.residual_stream(weights, G, len(self.heads) - 1)[-1]
        return self._read_out(weights, G, A)[..., : self.d]

    def excess_risk(self, weights: Weights, task: Task, prompts: Prompts) -> Float[Tensor, "*S B"]:
        """(<w_hat, x> - <w, x>)^2: exact over x for linear attention, else the mean over the queries."""
        if self.attention == "linear":
            return task.excess_risk(self.effective_weights(weights, gram(prompts)), prompts.w)
        return squared_error(self.predict(weights, prompts), prompts)

    def switched_off(self, weights: Weights, heads: Mapping[int, Sequence[int]]) -> dict[str, Tensor]:
        """Weights with the heads[l] of layer l switched off: their output is zero."""
        weights = dict(weights)
        for layer, which in heads.items():
            checks.integer("layer", layer, 0, len(self.heads) - 1)
            weights[f"W_O.{layer}"] = without_heads(weights[f"W_O.{layer}"], which)
        return weights

    def layer_weights(
        self, weights: Weights, G: Float[Tensor, "*#S B p p"]
    ) -> Float[Tensor, "layers *S B d"]:
        """The effective weight vector A_l[:d] w_out that could be read after each layer l = 0 .. L."""
        weights, G = together(weights, G)
        stream = self.residual_stream(weights, G, len(self.heads))
        w_out = weights["w_out"][..., None, :, None]
        read = [(A @ w_out)[..., : self.d, 0] for A in stream]
        return torch.stack(torch.broadcast_tensors(*read))

    def residual_stream(self, weights: Weights, G: Tensor, layers: int) -> list[Tensor]:
        """A_0 .. A_layers of the Gram form; A_0 is (*S, 1, p, D), the others are (*S, B, p, D)."""
        if self.attention != "linear":
            raise ValueError(f"attention = {self.attention!r}: allowed in Gram form is 'linear'")
        checks.shape("G", G, *(None,) * (G.ndim - 2), self.d + 1, self.d + 1)
        weights, G = together(weights, G)
        stream = [weights["W_in"].unsqueeze(-3)]
        for layer in range(layers):
            stream.append(stream[-1] + self.layer_output(weights, G, stream[-1], layer))
        return stream

    def layer_output(
        self, weights: Weights, G: Float[Tensor, "*#S B p p"], A: Float[Tensor, "*S #B p D"], layer: int
    ) -> Float[Tensor, "*S B p D"]:
        """What a layer adds to A in Gram form; the weights may hold some of its heads only."""
        W = {name: weights[f"W_{name}.{layer}"] for name in "QKVO"}
        return (_shared_layer if A.shape[-3] == 1 else _layer)(A, G, W)

    def _read_out(self, weights: Weights, G: Tensor, A: Tensor) -> Float[Tensor, "*S B p"]:
        """A_L w_out from A = A_{L-1}: A (w_out + sum_h W_Q^h W_K^hT A^T G A u_h), u_h = W_V^h W_O^h w_out."""
        last = len(self.heads) - 1
        W_Q, W_K, W_V, W_O = (weights[f"W_{name}.{last}"] for name in "QKVO")
        w_out = weights["w_out"]
        u = (W_V @ (W_O @ w_out[..., None, :, None]))[..., 0].mT  # (*S, D, H)
        v = G @ (A.flatten(-3, -2) @ u).unflatten(-2, (-1, self.d + 1))  # (*S, B, p, H)
        # torch is slow at many products of a matrix and a vector, so those are written as sums.
        seen = (A * v).sum(-2).unsqueeze(-1) if v.shape[-1] == 1 else A.mT @ v  # (*S, B, D, H)
        keys = seen.movedim(-1, -3) @ W_K  # (*S, H, B, k)
        step = (keys @ W_Q.mT).sum(-3)  # (*S, B, D)
        return (A * (w_out[..., None, :] + step).unsqueeze(-2)).sum(-1)


def _layer(A: Tensor, G: Tensor, W: Weights) -> Float[Tensor, "*S B p D"]:
    """sum_h (A W_Q^h) ((A W_K^h)^T G (A W_V^h)) W_O^h."""
    H, _, k = W["Q"].shape[-3:]
    joint = torch.cat([W[name].movedim(-3, -2).flatten(-2) for name in "QKV"], -1)  # (*S, D, 3 H k)
    p = A.shape[-2]
    projected = (A.flatten(-3, -2) @ joint).unflatten(-2, (-1, p))  # (*S, B, p, 3 H k)
    Q, K, V = projected.split(H * k, -1)
    V = G @ V
    Q, K, V = (part.unflatten(-1, (H, k)).transpose(-3, -2) for part in (Q, K, V))  # (*S, B, H, p, k)
    heads = Q @ (K.mT @ V)
    heads = heads.transpose(-3, -2).flatten(-2).flatten(-3, -2)  # (*S, B p, H k)
    return (heads @ W["O"].flatten(-3, -2)).unflatten(-2, (-1, p))


def _shared_layer(A: Tensor, G: Tensor, W: Weights) -> Float[Tensor, "*S B p D"]:
    """The same where all prompts share A (*S, 1, p, D): sum_h M_h G N_h, with M_h and N_h made once."""
    H, p = W["Q"].shape[-3], A.shape[-2]
    M = (A @ W["Q"]) @ (A @ W["K"]).mT  # (*S, H, p, p)
    N = (A @ W["V"]) @ W["O"]  # (*S, H, p, D)
    GM = G.flatten(-3, -2) @ M.flatten(-3, -2).mT  # (*S, B p, H p): G is symmetric, (M_h G)^T = G M_h^T
    MG = GM.unflatten(-2, (-1, p)).unflatten(-1, (H, p)).movedim(-1, -3)  # (*S, B, p, p, H)
    N = N.movedim(-3, -2).flatten(-3, -2)  # (*S, p H, D)
    return (MG.flatten(-2).flatten(-3, -2) @ N).unflatten(-2, (-1, p))
