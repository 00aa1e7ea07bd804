"""Training: models of one setting that differ in their seed, stacked and trained together as one tensor.

A row (P,) of that tensor holds the weights of one model. Each has its own initialization, data stream,
gradient clipping and best state, so that its result does not depend on which others it is stacked with.
Prompts are fresh at every step, drawn by a generator that seed and step determine: a resumed training sees
the prompts that an unbroken one would have seen.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from tqdm import tqdm

from icl_lib import checks
from icl_lib.models import Model
from icl_lib.tasks import MultiTask, Prompts, Task, gram, seeded
from icl_lib.transformer import Transformer

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # of Adam
WARM_UP = 0.1  # share of the steps over which `cosine` raises the learning rate
CHUNK = 16  # steps whose prompts are drawn at once, which costs less than one at a time
PATIENCE = 64  # steps skipped in a row after which a model counts as diverged
TRIM = 0.01  # share of prompts that the validation risk leaves out at the top

State = dict[str, Tensor]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Training:
    """The settings of a training: all that determines its models, but the code, the seeds and the start.

    Raises ValueError, in one line, for a value outside its range or a model that does not fit the task.
    """

    task: Task | MultiTask = field(default_factory=Task)  #: or a subclass of one's own
    model: Model = field(default_factory=Transformer)  #: or AttentionLayer, Module, or one's own
    n: int | tuple[int, int] = (16, 48)  #: context lengths, both ends included
    steps: int = 10_000  #: of Adam
    batch: int = 64  #: prompts a step
    queries: int = 1  #: a prompt; linear transformers need one, their risk is exact over them
    lr: float = 2e-3  #: learning rate, the highest
    schedule: str = "cosine"  #: after a linear warm-up over a tenth of the steps; or constant
    weight_decay: float = 0.0  #: decoupled, as in AdamW
    clip: float = 1.0  #: largest gradient norm of a model
    loss: str = "pseudo-huber"  #: of a prompt's excess risk; or squared, the risk itself
    delta: float = 1.0  #: root of the risk at which pseudo-huber turns from square to linear
    curriculum_mean: float = 0.0  #: the nonzero weights' mean falls from this to the task's ...
    curriculum_share: float = 0.4  #: ... linearly over this share of the steps
    evaluate_every: int = 250  #: steps between looks at the validation prompts
    evaluate_prompts: int = 512  #: how many these are
    keep_every: int = 0  #: steps between kept weights, for a look at how they came about; 0 keeps none

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
        if isinstance(self.model, torch.nn.Module):
            name = type(self.model).__name__
            raise ValueError(
                f"model = {name}(...): allowed is Module({name}, d), so that each seed has its own"
            )
        if self.task.d != self.model.d:
            raise ValueError(f"model.d = {self.model.d}: allowed is task.d = {self.task.d}")
        if self.model.outputs != (tasks := self.task.outputs):
            raise ValueError(f"model = {self.model}: allowed is one that predicts {tasks} tasks at once")
        mean = self.curriculum_mean
        if mean and getattr(self.task, "weights", None) != "gaussian":
            raise ValueError(f"curriculum_mean = {mean}: allowed is 0 but for gaussian weights")


@dataclass(frozen=True)
class Trained:
    """One trained model."""

    settings: Training  #: what it was trained by
    seed: int  #: of its initial weights and its prompts
    weights: dict[str, Tensor]  #: those of the lowest validation risk
    last: dict[str, Tensor]  #: those of the last step
    history: dict[str, Tensor]  #: step, loss (mean since the look before), risk (validation), each (looks,)
    kept: dict[str, Tensor]  #: weights before the first step and after every keep_every steps, (kept, ...)
    skipped: int  #: steps that were skipped for a loss or gradient that was not finite

    def predict(self, prompts: Prompts) -> Tensor:
        """Predictions at the queries, (B, queries), or (B, queries, tasks)."""
        with torch.no_grad():
            return self.settings.model.predict(self.weights, prompts)

    def excess_risk(self, task: Task | MultiTask, prompts: Prompts) -> Float[Tensor, " B"]:
        """Of each prompt, exact over the query where the model allows it, else the mean over its queries."""
        with torch.no_grad():
            return self.settings.model.excess_risk(self.weights, task, prompts)

    def effective_weights(self, prompts: Prompts) -> Float[Tensor, "B d"]:
        """w_hat with prediction <w_hat, x> at every query x: linear transformers only."""
        with torch.no_grad():
            return self.settings.model.effective_weights(self.weights, gram(prompts))

    def without(self, heads: Mapping[int, Sequence[int]]) -> "Trained":
        """The model with the heads[l] of layer l switched off; layers and heads count from 0."""
        return replace(self, weights=self.settings.model.switched_off(self.weights, heads))


class Runs(tuple[Trained, ...]):
    """The trained models of one setting, one a seed."""

    def __getitem__(self, place):
        found = super().__getitem__(place)
        return Runs(found) if isinstance(place, slice) else found

    @property
    def settings(self) -> Training:
        """What all of them were trained by."""
        return self[0].settings

    def stacked(self) -> dict[str, Tensor]:
        """The weights of all as one ensemble (S, ...), in double precision, in which models are evaluated."""
        return stack([model.weights for model in self])

    def without(self, heads: Mapping[int, Sequence[int]]) -> "Runs":
        """The models with the heads[l] of layer l switched off; layers and heads count from 0."""
        return Runs(model.without(heads) for model in self)


class TrainingDiverged(RuntimeError):
    """A model's loss or gradient stayed non-finite; its last finite weights are kept here."""

    def __init__(self, settings: Training, seed: int, step: int, weights: dict[str, Tensor]):
        super().__init__(
            f"training diverged at step {step}, not finite for {PATIENCE} steps: seed {seed} of {settings}"
        )
        self.settings, self.seed, self.step, self.weights = settings, seed, step, weights


def train(
    task: Task | MultiTask, model: Model, *, seeds: int | Sequence[int] = 1, device: str = "cpu", **options
) -> Runs:
    """Train models of one setting, one a seed.

    Parameters
    ----------
    task, model, **options
        As in `Training`; raises ValueError for bad ones, before any work.
    seeds : int or sequence of int
        How many, or which.
    device : str
        "cpu" or "cuda"; the trained models are on the CPU.

    Raises
    ------
    TrainingDiverged
        When a model's loss or gradient is not finite for many steps in a row.
    """
    return run(Training(task, model, **options), seeds, device=device)


def run(
    settings: Training,
    seeds: int | Sequence[int],
    *,
    starts: Sequence[Weights] | None = None,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
    save_every: float = 30.0,
    device: str | torch.device = "cpu",
) -> Runs:
    """Train one model a seed, all as one stack, from fresh weights or from `starts`, one set of weights each.

    `save` is given the state every `save_every` seconds, to write or copy before it returns; a training that
    starts from such a `state` ends with the weights it would have had unbroken.
    """
    ensemble = _Ensemble(settings, which(seeds), device)
    if state is None:
        state = ensemble.start(starts)
    else:
        state = {name: tensor.to(device, copy=True) for name, tensor in state.items()}
    state["step"] = state["step"].cpu()  # where every step reads it
    saved_at = time.monotonic()
    first = int(state["step"])
    for step in tqdm(range(first, settings.steps), initial=first, total=settings.steps, unit="step"):
        if step % CHUNK == 0:
            ensemble.raise_if_diverged(state)
        if step % CHUNK == 0 or step == first:
            chunk = ensemble.prompts(step)
        ensemble.update(state, Prompts(*(part[:, step % CHUNK] for part in chunk)))
        if save and time.monotonic() - saved_at > save_every:
            save(state)
            saved_at = time.monotonic()
    return ensemble.finish(state)


def which(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds: so many from 0 on, or those that are given. Raises ValueError unless they differ."""
    if isinstance(seeds, Integral):
        checks.integer("seeds", seeds)
        return tuple(range(seeds))
    for seed in seeds:
        checks.integer("a seed", seed, 0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds = {seeds!r}: allowed are different seeds, one at least")
    return tuple(seeds)


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


def trimmed_mean(values: Float[Tensor, "*S B"], trim: float = TRIM) -> Float[Tensor, "*S"]:
    """Mean over the last dimension without the largest `trim` share of it (one-sided).

    A linear transformer's output is a polynomial of high degree in the data, and a few prompts can carry the
    whole mean.
    """
    keep = values.shape[-1] - int(trim * values.shape[-1])
    return values.sort(-1).values[..., :keep].mean(-1)


def stack(members: Sequence[Weights], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Weights of models of one shape as one ensemble (S, ...)."""
    return {name: torch.stack([weights[name] for weights in members]).to(dtype) for name in members[0]}


class _Ensemble:
    """What the steps of one ensemble need; all that changes is in the state."""

    def __init__(self, settings: Training, seeds: Sequence[int], device: str | torch.device):
        self.settings, self.seeds, self.device = settings, seeds, device
        self.model, self.shapes = settings.model, settings.model.shapes()
        self.validation = self._stacked(
            lambda seed: self._draw(seeded(seed, "validation", device=device), settings.evaluate_prompts)
        )

    def start(self, starts: Sequence[Weights] | None = None) -> State:
        """The state before the first step."""
        if starts is None:
            starts = [self.model.init(seeded(seed, "init")) for seed in self.seeds]
        if len(starts) != len(self.seeds):
            raise ValueError(f"{len(starts)} starts: allowed are as many as seeds, {len(self.seeds)}")
        for weights in starts:
            for name, shape in self.shapes.items():
                checks.shape(f"{name} of a start", weights[name], *shape)
        rows = [torch.cat([weights[name].flatten() for name in self.shapes]) for weights in starts]
        flat = torch.stack(rows).float().to(self.device)
        zeros = torch.zeros(len(flat), 1, device=self.device)
        looks = math.ceil(self.settings.steps / self.settings.evaluate_every)
        every = self.settings.keep_every
        kept = flat.new_zeros(self.settings.steps // every + 1 if every else 0, *flat.shape)
        kept[:1] = flat
        counts = ("updates", "skipped", "skipped_in_a_row", "loss_sum", "loss_steps")
        return {name: zeros.clone() for name in counts} | {
            "step": torch.zeros((), dtype=torch.int64),
            "flat": flat,
            "best": flat.clone(),
            "best_risk": zeros + math.inf,
            "kept": kept,
            "momentum": torch.zeros_like(flat),
            "square": torch.zeros_like(flat),
            "loss": zeros.new_zeros(len(flat), looks),
            "risk": zeros.new_zeros(len(flat), looks),
        }

    def update(self, state: State, prompts: Prompts) -> None:
        """One step of Adam, each row by itself. Rows with a non-finite loss or gradient stay as they are.

        torch's optimizers cannot leave a row out, so the update stands here; a test holds it to AdamW.
        """
        step = int(state["step"])
        flat = state["flat"].requires_grad_()
        risk = self.model.excess_risk(self._unpacked(flat), self.settings.task, prompts)
        loss = penalty(self.settings, risk).mean(-1)
        (gradient,) = torch.autograd.grad(loss.sum(), flat)
        flat.requires_grad_(False)
        loss = loss.detach()[:, None]
        norm = gradient.norm(dim=-1, keepdim=True)
        finite = loss.isfinite() & norm.isfinite()
        gradient = torch.where(finite, gradient * (self.settings.clip / norm).clamp(max=1.0), 0.0)
        on = finite.to(flat.dtype)
        state["updates"] += on
        state["momentum"].lerp_(gradient, (1 - BETA_1) * on)
        state["square"].lerp_(gradient.square(), (1 - BETA_2) * on)
        count = state["updates"].clamp_min(1)
        root = (state["square"] / (1 - BETA_2**count)).sqrt_().add_(EPSILON)
        rate = learning_rate(self.settings, step) * on
        if self.settings.weight_decay:
            flat *= 1 - rate * self.settings.weight_decay
        flat -= rate / (1 - BETA_1**count) * state["momentum"] / root
        state["skipped"] += 1 - on
        state["skipped_in_a_row"] = (state["skipped_in_a_row"] + 1 - on) * (1 - on)
        state["loss_sum"] += torch.where(finite, loss, 0.0)
        state["loss_steps"] += on
        state["step"] += 1
        if self.settings.keep_every and (step + 1) % self.settings.keep_every == 0:
            state["kept"][(step + 1) // self.settings.keep_every] = flat
        if (step + 1) % self.settings.evaluate_every == 0 or step + 1 == self.settings.steps:
            self._look(state, step)

    def _look(self, state: State, step: int) -> None:
        """Write the validation risk into the history, and keep the rows that are the best so far."""
        look = step // self.settings.evaluate_every
        state["loss"][:, look] = (state["loss_sum"] / state["loss_steps"])[:, 0]  # nan if all were skipped
        state["loss_sum"].zero_()
        state["loss_steps"].zero_()
        with torch.no_grad():
            risk = self.model.excess_risk(self._unpacked(state["flat"]), self.settings.task, self.validation)
        state["risk"][:, look] = trimmed_mean(risk)
        better = state["risk"][:, look, None] < state["best_risk"]
        state["best"] = torch.where(better, state["flat"], state["best"])
        state["best_risk"] = torch.where(better, state["risk"][:, look, None], state["best_risk"])

    def prompts(self, step: int) -> Prompts:
        """The prompts of the chunk that a step lies in, (S, CHUNK, batch, ...)."""
        chunk, settings = step // CHUNK, self.settings
        mean = None
        if settings.curriculum_mean:
            left = 1 - (chunk * CHUNK + torch.arange(CHUNK)) / (settings.curriculum_share * settings.steps)
            mean = settings.task.mean + (settings.curriculum_mean - settings.task.mean) * left.clamp_min(0)
            mean = mean.repeat_interleave(settings.batch).to(self.device)
        drawn = self._stacked(
            lambda seed: self._draw(
                seeded(seed, "prompts", chunk, device=self.device), CHUNK * settings.batch, mean
            )
        )
        return Prompts(*(part.unflatten(1, (CHUNK, settings.batch)) for part in drawn))

    def _draw(self, generator: Generator, batch: int, mean: Tensor | None = None) -> Prompts:
        curriculum = {} if mean is None else {"mean": mean}
        s = self.settings
        return s.task.sample(batch, s.n, generator, queries=s.queries, **curriculum)

    def _stacked(self, draw: Callable[[int], Prompts]) -> Prompts:
        """Prompts of every seed."""
        return Prompts(*map(torch.stack, zip(*map(draw, self.seeds), strict=True)))

    def raise_if_diverged(self, state: State) -> None:
        """Raise TrainingDiverged for the first model that was skipped too often in a row."""
        stuck = (state["skipped_in_a_row"][:, 0] >= PATIENCE).nonzero()
        if len(stuck):
            row = int(stuck[0])
            weights = self._weights(state["flat"][row])
            raise TrainingDiverged(self.settings, self.seeds[row], int(state["step"]), weights)

    def finish(self, state: State) -> Runs:
        """The trained models, on the CPU."""
        self.raise_if_diverged(state)
        every, steps = self.settings.evaluate_every, self.settings.steps
        looks = torch.arange(1, state["risk"].shape[1] + 1).mul(every).clamp_max(steps)
        return Runs(
            Trained(
                settings=self.settings,
                seed=seed,
                weights=self._weights(state["best"][row]),
                last=self._weights(state["flat"][row]),
                kept=self._weights(state["kept"][:, row]),
                history={"step": looks} | {name: state[name][row].cpu().clone() for name in ("loss", "risk")},
                skipped=int(state["skipped"][row]),
            )
            for row, seed in enumerate(self.seeds)
        )

    def _unpacked(self, rows: Float[Tensor, "*S P"]) -> dict[str, Tensor]:
        """The weights (*S, ...) that the rows hold, as views."""
        parts = rows.split([math.prod(shape) for shape in self.shapes.values()], -1)
        shapes = zip(parts, self.shapes.items(), strict=True)
        return {name: part.reshape(part.shape[:-1] + shape) for part, (name, shape) in shapes}

    def _weights(self, rows: Float[Tensor, "*kept P"]) -> dict[str, Tensor]:
        """A copy of what the rows hold, on the CPU."""
        return {name: part.detach().cpu().clone() for name, part in self._unpacked(rows).items()}
