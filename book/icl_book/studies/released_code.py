"""What paper B's released code does otherwise than this book: for chapter 16, which measures what it moves.

Its multi-layer class takes the softmax of the attention twice; its batches are 256 prompts of one query with
a noisy target, where ours are 64 prompts of four queries whose noise is averaged out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icl_book.frames import tidy
from icl_book.studies.debiased import heads
from icl_lib import checks
from icl_lib.attention_layer import AttentionLayer
from icl_lib.tasks import Prompts, Task, evaluation_prompts, seeded
from icl_lib.training import Runs, Training, stack

REPEATS = 20  # batches whose gradients are taken at once

Weights = Mapping[str, Tensor]


def attention_weights(
    model: AttentionLayer, weights: Weights, prompts: Prompts, softmaxes: int = 1
) -> Float[Tensor, "*S B queries H n"]:
    """The weights that each head gives to the context pairs, after one softmax or several in a row.

    All prompts have one length: there is nothing to mask.
    """
    checks.integer("softmaxes", softmaxes, 1)
    if not bool(prompts.inside().all()):
        raise ValueError(f"lengths {prompts.n.unique().tolist()}: allowed is one length for all prompts")
    kq = model.kq(weights)[..., : model.d]  # (*S, H, p, d): z_q ends in a zero
    share = torch.einsum("...hpd,bqd,bnp->...bqhn", kq, prompts.x_query, prompts.context())
    for _ in range(softmaxes):
        share = share.softmax(-1)
    return share


def predict(
    model: AttentionLayer, weights: Weights, prompts: Prompts, softmaxes: int = 1
) -> Float[Tensor, "*S B queries"]:
    """Predictions of single-task models; with one softmax those of `AttentionLayer.predict`."""
    share = attention_weights(model, weights, prompts, softmaxes)
    read = torch.einsum("...hp,bnp->...bhn", model.ov(weights)[..., 0, :], prompts.context())
    return torch.einsum("...bhn,...bqhn->...bq", read, share)


def best_factor(prediction: Tensor, target: Tensor) -> Float[Tensor, "*S 1 1"]:
    """The c for which c * prediction is nearest to the target in mean square; both are (*S, B, queries)."""
    total = partial(torch.sum, dim=(-2, -1), keepdim=True)
    return total(prediction * target) / total(prediction.square())


def opposite_heads(
    omegas: Sequence[float], mu: float, task: Task, n: int, seeds: int, prompts: int
) -> pd.DataFrame:
    """Loss of two opposite heads of each size, with the best mu and with a given one.

    omega, seed (of the evaluation prompts), best_mu, loss, loss_of_given.
    """
    layers = [heads([omega, -omega], [1.0, -1.0], task.d) for omega in omegas]
    weights, frames = stack([weights for _, weights in layers]), []
    for seed in range(seeds):
        drawn = evaluation_prompts(task, n, prompts, seed, 4)
        prediction, target = layers[0][0].predict(weights, drawn), drawn.target()
        best = best_factor(prediction, target)
        values = {"best_mu": best}
        for name, factor in {"loss": best, "loss_of_given": mu}.items():
            values[name] = (factor * prediction - target).square().mean((-2, -1)) + task.target_noise
        frames.append(tidy(values, omega=omegas).assign(seed=seed))
    return pd.concat(frames, ignore_index=True)


def gradient_noise(
    runs: Runs, batch: int, queries: int, noisy: bool, repeats: int
) -> Float[np.ndarray, " models"]:
    """Trace of the covariance of the gradient of a training step's loss, estimated from fresh batches.

    The loss is the mean squared error over the batch's prompts and queries; the target is <w, x>, or, if
    `noisy`, has the task's noise in it.
    """
    checks.integer("repeats", repeats, 2)
    settings = replace(runs.settings, batch=batch, queries=queries)
    each = enumerate(model.weights for model in runs)
    return np.array([_gradient_noise(settings, weights, noisy, repeats, seed) for seed, weights in each])


def _gradient_noise(settings: Training, weights: Weights, noisy: bool, repeats: int, seed: int) -> float:
    task, generator, batch = settings.task, seeded("gradient noise", seed), settings.batch
    like = next(iter(weights.values())).dtype
    found = []
    for several in torch.arange(repeats).split(REPEATS):
        drawn = task.sample(
            len(several) * batch, settings.n, seed=generator, queries=settings.queries, dtype=like
        )
        drawn = Prompts(*(part.unflatten(0, (len(several), batch)) for part in drawn))
        target = drawn.target()
        if noisy:
            target = target + task.sigma * torch.randn(target.shape, generator=generator, dtype=like)
        # A copy of the weights for each batch: one backward pass gives the gradient of each.
        copies = [weight.repeat(len(several), 1, 1, 1).requires_grad_() for weight in weights.values()]
        prediction = settings.model.predict(dict(zip(weights, copies, strict=True)), drawn)
        loss = (prediction - target).square().mean((-2, -1)).sum()
        gradients = torch.autograd.grad(loss, copies)
        found.append(torch.cat([part.flatten(1) for part in gradients], 1))
    return torch.cat(found).var(0).sum().item()


@dataclass(frozen=True)
class NoisyTask(Task):
    """The same task with a noisy target at its one query, as a loss in the released code sees it.

    Where a model is only compared with <w, x> at one query, noise in the target is a change of w along x.
    """

    def sample(self, batch: int, n: int, seed: Generator, **options: object) -> Prompts:
        """Draw prompts whose `target()` has the noise in it; all else is that of `Task.sample`."""
        drawn = super().sample(batch, n, seed, **options)
        x = drawn.x_query
        if x.shape[-2] != 1:
            raise ValueError(f"queries = {x.shape[-2]}: allowed is one where the target is noisy")
        noise = self.sigma * torch.randn(len(x), 1, dtype=x.dtype, device=x.device, generator=seed)
        return drawn._replace(w=drawn.w + noise * x[:, 0] / x[:, 0].square().sum(-1, keepdim=True))


def as_released(settings: Training, batch: int = 256) -> Training:
    """The same training on `batch` prompts a step, of one query with a noisy target.

    The store does not keep such models: its keys know nothing of this module.
    """
    return replace(settings, task=NoisyTask(**vars(settings.task)), batch=batch, queries=1)
