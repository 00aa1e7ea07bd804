"""Where paper B's released code does otherwise than this book: for chapter 15, which measures what it moves.

Its multi-layer class takes the softmax of the attention twice; its batches are 256 prompts of one query with
a noisy target, where ours are 64 prompts of four queries whose noise is averaged out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icl_lib import checks
from icl_lib.attention_layer import AttentionLayer
from icl_lib.tasks import Prompts, Task, seeded
from icl_lib.training import Runs, Training, run

REPEATS = 20  # batches whose gradients are taken at once

Weights = Mapping[str, Tensor]


def attention_weights(
    model: AttentionLayer, weights: Weights, prompts: Prompts, softmaxes: int = 1
) -> Float[Tensor, "B queries H n"]:
    """The weights that each head gives to the context pairs, after one softmax or several in a row.

    All prompts have one length: there is nothing to mask.
    """
    checks.integer("softmaxes", softmaxes, 1)
    if not bool(prompts.inside().all()):
        raise ValueError(f"lengths {prompts.n.unique().tolist()}: allowed is one length for all prompts")
    kq = model.kq(weights)[..., : model.d]  # (H, p, d): z_q ends in a zero
    share = torch.einsum("bnp,hpd,bqd->bqhn", prompts.context(), kq, prompts.x_query)
    for _ in range(softmaxes):
        share = share.softmax(-1)
    return share


def predict(
    model: AttentionLayer, weights: Weights, prompts: Prompts, softmaxes: int = 1
) -> Float[Tensor, "B queries"]:
    """Predictions of a single-task model; with one softmax those of `AttentionLayer.predict`."""
    share = attention_weights(model, weights, prompts, softmaxes)
    return torch.einsum("hp,bqhn,bnp->bq", model.ov(weights)[:, 0], share, prompts.context())


def best_factor(prediction: Tensor, target: Tensor) -> float:
    """The c for which c * prediction is nearest to the target in mean square."""
    return ((prediction * target).sum() / prediction.square().sum()).item()


def gradient_noise(
    settings: Training, weights: Weights, repeats: int, *, noisy: bool = False, seed: int = 0
) -> float:
    """Trace of the covariance of the gradient of a training step's loss, estimated from fresh batches.

    The loss is the mean squared error over the batch's prompts and queries; the target is <w, x>, or, if
    `noisy`, has the task's noise in it.
    """
    checks.integer("repeats", repeats, 2)
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


def train_as_released(settings: Training, seeds: int, batch: int = 256) -> Runs:
    """Models trained on `batch` prompts a step, of one query with a noisy target.

    They are not kept in the store, whose keys know nothing of this module.
    """
    return run(replace(settings, task=NoisyTask(**vars(settings.task)), batch=batch, queries=1), seeds)


def rescaled_noise(task: Task) -> float:
    """The noise variance of the same problem with E|w|^2 = 1, which is paper B's N(0, I / d).

    Scaling y scales the targets and the best predictions alike, so that only the ratio of noise to signal
    can move the best omega mu.
    """
    signal = task.s * (task.scale**2) * (1 + task.mean**2)
    return task.sigma**2 / signal if signal > 0 else math.inf
