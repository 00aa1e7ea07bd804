"""Training of an ensemble: models of one setting, stacked and trained together as one tensor.

Members differ in their seed and in their numbers of heads (see `packing`). Each has its own
initialization, data stream, gradient clipping and best state, so that a member's result does not depend
on which others it is stacked with. Prompts are fresh at every step, drawn by a generator that seed and
step determine: a resumed training sees the prompts that an unbroken one would have seen.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from tqdm import tqdm

from icl_lib import checks, packing
from icl_lib.settings import Training, learning_rate, penalty
from icl_lib.tasks import Prompts

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # of Adam
CHUNK = 16  # steps whose prompts are drawn at once, which costs less than one at a time
PATIENCE = 64  # steps skipped in a row after which a member counts as diverged
TRIM = 0.01  # share of prompts that the validation risk leaves out at the top

State = dict[str, Tensor]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """One trained model: weights of the lowest validation risk, and of the last step."""

    settings: Training
    weights: dict[str, Tensor]
    last: dict[str, Tensor]
    history: dict[str, Tensor]  # step, loss (mean since the look before), risk (validation), each (looks,)
    kept: dict[str, Tensor]  # weights before the first step and after every keep_every steps, (kept, ...)
    skipped: int  # steps skipped for a non-finite loss or gradient


class TrainingDiverged(RuntimeError):
    """A member's loss or gradient stayed non-finite; its last finite weights are kept here."""

    def __init__(self, settings: Training, step: int, weights: dict[str, Tensor]):
        super().__init__(f"training diverged at step {step}, not finite for {PATIENCE} steps: {settings}")
        self.settings, self.step, self.weights = settings, step, weights


def train(
    members: Sequence[Training],
    *,
    starts: Sequence[Weights] | None = None,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
    save_every: float = 30.0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> list[Trained]:
    """Train the members as one stack, from fresh weights, or from `starts`: one set of weights a member.

    `save` is given the state every `save_every` seconds, to write or copy before it returns; a training that
    starts from such a `state` ends with the weights it would have had unbroken. Raises ValueError if the
    members do not stack, and TrainingDiverged.
    """
    stack = _Stack(members, device)
    if state is None:
        state = stack.start(starts)
    else:
        state = {name: tensor.to(device, copy=True) for name, tensor in state.items()}
    state["step"] = state["step"].cpu()  # where every step reads it
    saved_at = time.monotonic()
    first = int(state["step"])
    total = stack.settings.steps
    hidden = {} if progress else {"disable": True}  # else tqdm's own TQDM_DISABLE decides
    for step in tqdm(range(first, total), initial=first, total=total, unit="step", **hidden):
        if step % CHUNK == 0:
            stack.raise_if_diverged(state)
        if step % CHUNK == 0 or step == first:
            chunk = stack.prompts(step)
        stack.update(state, Prompts(*(part[:, step % CHUNK] for part in chunk)))
        if save and time.monotonic() - saved_at > save_every:
            save(state)
            saved_at = time.monotonic()
    return stack.finish(state)


def trimmed_mean(values: Float[Tensor, "*S B"], trim: float = TRIM) -> Float[Tensor, "*S"]:
    """Mean over the last dimension without the largest `trim` share of it (one-sided)."""
    keep = values.shape[-1] - int(trim * values.shape[-1])
    return values.sort(-1).values[..., :keep].mean(-1)


def seeded(*names: object, device: str | torch.device = "cpu") -> Generator:
    """A generator whose stream the names determine, and no two lists of names share."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class _Stack:
    """What the steps of one ensemble need; all that changes is in the state."""

    def __init__(self, members: Sequence[Training], device: str | torch.device):
        self.members, self.device = list(members), device
        self.model = packing.widest([member.model for member in members])
        self.shapes = self.model.shapes()
        self.settings = replace(self.members[0], model=self.model, seed=0)
        for member in self.members:
            if replace(member, model=self.model, seed=0) != self.settings:
                raise ValueError(f"{member} does not stack: allowed are differences in seed and heads")
        self.validation = self._stacked(
            lambda seed: self._draw(seeded(seed, "validation", device=device), self.settings.evaluate_prompts)
        )

    def start(self, starts: Sequence[Weights] | None = None) -> State:
        """The state before the first step."""
        if starts is None:
            starts = [member.model.init(seeded(member.seed, "init")) for member in self.members]
        if len(starts) != len(self.members):
            raise ValueError(f"{len(starts)} starts: allowed are as many as members, {len(self.members)}")
        for member, weights in zip(self.members, starts, strict=True):
            for name, shape in member.model.shapes().items():
                checks.shape(f"{name} of a start", weights[name], *shape)
        flat = torch.stack([packing.pack(weights, self.shapes).float() for weights in starts]).to(self.device)
        zeros = torch.zeros(len(flat), 1, device=self.device)
        looks = math.ceil(self.settings.steps / self.settings.evaluate_every)
        every = self.settings.keep_every
        kept = flat.new_zeros(self.settings.steps // every + 1 if every else 0, *flat.shape)
        kept[:1] = flat
        return {
            "step": torch.zeros((), dtype=torch.int64),
            "flat": flat,
            "best": flat.clone(),
            "best_risk": zeros + math.inf,
            "kept": kept,
            "momentum": torch.zeros_like(flat),
            "square": torch.zeros_like(flat),
            "updates": zeros.clone(),
            "skipped": zeros.clone(),
            "skipped_in_a_row": zeros.clone(),
            "loss_sum": zeros.clone(),
            "loss_steps": zeros.clone(),
            "loss": zeros.new_zeros(len(flat), looks),
            "risk": zeros.new_zeros(len(flat), looks),
        }

    def update(self, state: State, prompts: Prompts) -> None:
        """One step of Adam, each row by itself. Rows with a non-finite loss or gradient stay as they are.

        torch's optimizers cannot leave a row out, so the update stands here; a test holds it to AdamW.
        """
        step = int(state["step"])
        flat = state["flat"].requires_grad_()
        risk = self.model.excess_risk(packing.unpack(flat, self.shapes), self.settings.task, prompts)
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
            risk = self.model.excess_risk(
                packing.unpack(state["flat"], self.shapes), self.settings.task, self.validation
            )
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
        return s.task.sample(batch, s.n, generator=generator, queries=s.queries, **curriculum)

    def _stacked(self, draw: Callable[[int], Prompts]) -> Prompts:
        """Prompts of every member; members with the same seed see the same ones."""
        drawn = {member.seed: None for member in self.members}
        drawn = {seed: draw(seed) for seed in drawn}
        return Prompts(*map(torch.stack, zip(*(drawn[member.seed] for member in self.members), strict=True)))

    def raise_if_diverged(self, state: State) -> None:
        """Raise TrainingDiverged for the first member that was skipped too often in a row."""
        stuck = (state["skipped_in_a_row"][:, 0] >= PATIENCE).nonzero()
        if len(stuck):
            row = int(stuck[0])
            raise TrainingDiverged(self.members[row], int(state["step"]), self._weights(state["flat"], row))

    def finish(self, state: State) -> list[Trained]:
        """The trained members, on the CPU and without padding."""
        self.raise_if_diverged(state)
        every, steps = self.settings.evaluate_every, self.settings.steps
        looks = torch.arange(1, state["risk"].shape[1] + 1).mul(every).clamp_max(steps)
        return [
            Trained(
                settings=member,
                weights=self._weights(state["best"], row),
                last=self._weights(state["flat"], row),
                kept=self._weights(state["kept"].transpose(0, 1), row),
                history={"step": looks} | {name: state[name][row].cpu().clone() for name in ("loss", "risk")},
                skipped=int(state["skipped"][row]),
            )
            for row, member in enumerate(self.members)
        ]

    def _weights(self, flat: Float[Tensor, "S *kept P"], row: int) -> dict[str, Tensor]:
        return packing.strip(packing.unpack(flat[row], self.shapes), self.members[row].model.shapes())
