"""What a model is to the rest of the library, and how any `torch.nn.Module` becomes one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icl_lib import checks
from icl_lib.tasks import Prompts, Task, squared_error, together

Weights = Mapping[str, Tensor]


@runtime_checkable
class Model(Protocol):
    """What a model has to have; a `torch.nn.Module` gets it from `Module`. Weights are (*S, ...) tensors."""

    d: int  # covariates
    outputs: int  # labels predicted at once

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight tensor of one model."""

    def init(self, generator: Generator) -> dict[str, Tensor]:
        """Fresh weights of one model."""

    def excess_risk(self, weights: Weights, task: Task, prompts: Prompts) -> Float[Tensor, "*S B"]:
        """Of each prompt, exact over the query or the mean over its queries."""


@dataclass(frozen=True)
class Module:
    """Any `torch.nn.Module` that maps `Prompts` to predictions (B, queries); `torch.func` stacks its seeds.

    It holds no buffers that training changes.
    """

    make: Callable[[], torch.nn.Module]  #: makes one with weights of its own, its class or a function
    d: int  #: covariates
    outputs = 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter."""
        return {name: tuple(part.shape) for name, part in self._module.named_parameters()}

    def init(self, generator: Generator) -> dict[str, Tensor]:
        """The parameters of a module that is made with torch's own generator seeded from this one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.randint(2**62, (), generator=generator, device=generator.device).item())
            return {name: part.detach() for name, part in self.make().named_parameters()}

    def predict(self, weights: Weights, prompts: Prompts) -> Float[Tensor, "*S B queries"]:
        """Predictions at the queries; prompts may have the weights' leading dimensions or lack them."""
        weights, prompts = together(weights, prompts)
        name, shape = next(iter(self.shapes().items()))
        if weights[name].ndim > len(shape):
            return torch.vmap(self.predict, (0, 0 if prompts.x.ndim > 3 else None))(weights, prompts)
        buffers = {
            label: buffer.to(prompts.x if buffer.is_floating_point() else prompts.n)
            for label, buffer in self._module.named_buffers()
        }
        return torch.func.functional_call(self._module, buffers | weights, (prompts,))

    def excess_risk(self, weights: Weights, task: object, prompts: Prompts) -> Float[Tensor, "*S B"]:
        """(prediction - <w, x>)^2, the mean over the queries."""
        return squared_error(self.predict(weights, prompts), prompts)

    def switched_off(self, weights: Weights, heads: Mapping[int, Sequence[int]]) -> dict[str, Tensor]:
        """Raises ValueError: what its heads are is not known."""
        raise ValueError(f"heads = {dict(heads)} of a Module: allowed are those of the library's own models")

    @cached_property
    def _module(self) -> torch.nn.Module:
        """One to call with any weights."""
        with torch.random.fork_rng(devices=[]):
            return self.make()


def without_heads(W_O: Float[Tensor, "*S H k D"], heads: Sequence[int]) -> Float[Tensor, "*S H k D"]:
    """What heads write with, zero for some of them."""
    W_O = W_O.clone()
    for head in heads:
        checks.integer("a head", head, 0, W_O.shape[-3] - 1)
        W_O[..., head, :, :] = 0
    return W_O
