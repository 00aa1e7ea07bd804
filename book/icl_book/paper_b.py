"""The trainings and evaluations that the chapters on paper B share."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from icl_book.experiments import table
from icl_lib import circuits
from icl_lib.attention_layer import AttentionLayer
from icl_lib.tasks import MultiTask, Task
from icl_lib.training import Runs, Training

NO_CLIP = 1e6  # a gradient norm that no step comes near: paper B does not clip


def training(setting: Mapping[str, object], H: int, **changes: object) -> Training:
    """The training of a setting with H heads; `changes` win over it.

    A setting with `blocks` is multi-task. Else weights are N(0, I / d), the noise has variance `noise`, and
    Sigma_ij = rho^|i-j|.
    """
    setting = dict(setting) | changes
    d, noise = setting.pop("d"), setting.pop("noise")
    if "blocks" in setting:
        task = MultiTask(d=d, blocks=tuple(map(tuple, setting.pop("blocks"))), noise=noise)
    else:
        task = Task(d=d, s=d, sigma=math.sqrt(noise), scale=1 / math.sqrt(d), rho=setting.pop("rho", 0.0))
    model = AttentionLayer(d, H, task.outputs, attention=setting.pop("attention", "softmax"))
    fixed = {"schedule": "constant", "loss": "squared", "clip": NO_CLIP}
    return Training(task=task, model=model, **{**fixed, **setting})


def losses(
    models: Runs, lengths: Sequence[int], prompts: int, queries: int = 4, task: Task | MultiTask | None = None
) -> np.ndarray:
    """The loss of each model at each length, (models, lengths), on the same prompts: `evaluation.loss`."""
    task = task or models.settings.task
    options = dict(queries=queries, average=torch.mean)
    return table({"": models}, task, lengths, prompts, **options)[""] + task.target_noise


def settled(models: Runs, tolerance: float) -> np.ndarray:
    """The step from which on a model's validation risk stays within a share of its final level, (models).

    The final level is the mean over the last quarter of training.
    """
    steps = models[0].history["step"].numpy()
    risk = np.stack([found.history["risk"].numpy() for found in models])
    level = risk[:, -(len(steps) // 4 + 1) :].mean(-1, keepdims=True)
    outside = abs(risk / level - 1) > tolerance
    last_outside = np.where(outside.any(-1), outside.shape[1] - 1 - outside[:, ::-1].argmax(-1), -1)
    return np.append(steps, np.inf)[last_outside + 1]


def flows(
    omega: Float[np.ndarray, "S H"], mu: Float[np.ndarray, "S H"], times: Sequence[float], settings: Training
) -> tuple[Float[np.ndarray, "S T H"], Float[np.ndarray, "S T H"]]:
    """omega(t) and mu(t) of gradient flow on a setting's approximate loss, from each of several starts."""
    task = settings.task
    moved = [
        circuits.gradient_flow(*start, times, task.d, settings.n, task.sigma**2)
        for start in zip(omega, mu, strict=True)
    ]
    return tuple(map(np.stack, zip(*moved, strict=True)))
