"""The settings of a training: all that determines a trained model, but the code and where it starts."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from icl_lib import checks
from icl_lib.packing import Model
from icl_lib.tasks import MultiTask, Task
from icl_lib.transformer import Transformer

WARM_UP = 0.1  # share of the steps over which `cosine` raises the learning rate


@dataclass(frozen=True)
class Training:
    """One training of one model."""

    task: Task | MultiTask = field(default_factory=Task)
    model: Model = field(default_factory=Transformer)
    n: int | tuple[int, int] = (16, 48)  # context lengths, both included
    steps: int = 10_000
    batch: int = 64  # prompts a step
    queries: int = 1  # a prompt; linear attention needs none: its risk is exact over them
    lr: float = 2e-3
    schedule: str = "cosine"  # after a linear warm-up, or "constant"
    weight_decay: float = 0.0  # decoupled, as in AdamW
    clip: float = 1.0  # largest gradient norm of a member
    loss: str = "pseudo-huber"  # of a prompt's excess risk, or "squared": the risk itself
    delta: float = 1.0  # root of the risk at which pseudo-huber turns from square to linear
    curriculum_mean: float = 0.0  # the nonzero weights' mean falls from this ...
    curriculum_share: float = 0.4  # ... to the task's linearly over this share of the steps
    evaluate_every: int = 250  # steps between looks at the validation prompts
    evaluate_prompts: int = 512
    keep_every: int = 0  # steps between kept weights, for a look at how they came about; 0: none are kept
    seed: int = 0

    def __post_init__(self):
        checks.lengths(self.n)
        for name in ("steps", "batch", "queries", "evaluate_every", "evaluate_prompts"):
            checks.integer(name, getattr(self, name))
        for name, least in (("lr", 0.0), ("weight_decay", 0.0), ("clip", 1e-6), ("delta", 1e-6)):
            checks.number(name, getattr(self, name), least)
        checks.number("curriculum_mean", self.curriculum_mean)
        checks.number("curriculum_share", self.curriculum_share, 1e-6, 1.0)
        checks.one_of("schedule", self.schedule, ("cosine", "constant"))
        checks.one_of("loss", self.loss, ("pseudo-huber", "squared"))
        checks.integer("keep_every", self.keep_every, 0)
        checks.integer("seed", self.seed, 0)
        if self.task.d != self.model.d:
            raise ValueError(f"model.d = {self.model.d}: allowed is task.d = {self.task.d}")
        tasks = len(self.task.blocks) if isinstance(self.task, MultiTask) else 1
        several = isinstance(self.task, MultiTask) and isinstance(self.model, Transformer)
        if several or getattr(self.model, "tasks", 1) != tasks:
            raise ValueError(f"model = {self.model}: allowed is one that predicts {tasks} tasks at once")
        if self.curriculum_mean and getattr(self.task, "weights", None) != "gaussian":
            raise ValueError(
                f"curriculum_mean = {self.curriculum_mean}: allowed is 0 but for gaussian weights"
            )


def learning_rate(settings: Training, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    if settings.schedule == "constant":
        return settings.lr
    warm_up = max(1, round(WARM_UP * settings.steps))
    if step < warm_up:
        return settings.lr * (step + 1) / warm_up
    return settings.lr * (1 + math.cos(math.pi * (step - warm_up) / (settings.steps - warm_up))) / 2


def penalty(settings: Training, risk: Tensor) -> Tensor:
    """The loss of prompts with a given excess risk, elementwise."""
    if settings.loss == "squared":
        return risk
    return 2 * settings.delta**2 * ((1 + risk / settings.delta**2).sqrt() - 1)
