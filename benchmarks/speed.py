"""Speed of the fast paths against the plain ones, both sides in one run: `make bench`.

The sides take turns, so that a busy machine slows both; the figure to read is the median ratio.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch

from icl_book import paper_b
from icl_book.parameters import LayerSetting
from icl_lib.tasks import Task, gram, seeded, tokens
from icl_lib.training import Training, run
from icl_lib.transformer import Transformer


def compare(
    plain: Callable[[], object], fast: Callable[[], object], repeats: int
) -> tuple[float, float, float]:
    """Median seconds of each side, and the median of plain / fast over the turns."""
    plain(), fast()  # warm-up
    seconds = []
    for _ in range(repeats):
        turn = []
        for side in (plain, fast):
            start = time.perf_counter()
            side()
            turn.append(time.perf_counter() - start)
        seconds.append(turn)
    slow, quick = zip(*seconds, strict=True)
    ratio = statistics.median(a / b for a, b in seconds)
    return statistics.median(slow), statistics.median(quick), ratio


def gram_against_tokens(repeats: int) -> None:
    """Loss and gradient of a linear model at paper A's size in token form and in Gram form."""
    task, model = Task(d=16, s=4), Transformer(d=16, heads=(8,) * 4, D=256)
    generator = seeded("bench")
    prompts = task.sample(64, 40, generator)
    weights = {name: w.requires_grad_() for name, w in model.init(generator).items()}

    def in_tokens() -> None:
        error = model.predict(weights, prompts) - prompts.target()
        torch.autograd.grad(error.square().mean(), list(weights.values()))

    def in_grams() -> None:
        w_hat = model.effective_weights(weights, gram(prompts))
        torch.autograd.grad(task.excess_risk(w_hat, prompts.w).mean(), list(weights.values()))

    slow, quick, ratio = compare(in_tokens, in_grams, repeats)
    print(
        "a gradient, 4 layers, d = 16, D = 256, H = 8, n = 40, batch 64:"
        f" tokens {1e3 * slow:.0f} ms, Gram {1e3 * quick:.1f} ms, {ratio:.1f} times faster"
    )


def stacked_against_single(repeats: int, heads: tuple[int, ...], seeds: int = 8, steps: int = 64) -> None:
    """Whole training steps of `seeds` models, stacked and one at a time."""
    settings = Training(
        task=Task(d=8, s=2, weights="half-normal"),
        model=Transformer(d=8, heads=heads, D=20, k=9),
        n=(8, 24),
        batch=64,
        steps=steps,
        evaluate_every=steps,
        evaluate_prompts=16,
    )
    slow, quick, ratio = compare(
        lambda: [run(settings, [seed]) for seed in range(seeds)], lambda: run(settings, seeds), repeats
    )
    per_step = 1e3 / (seeds * steps)
    print(
        f"a model-step, heads {list(heads)}, d = 8, D = 20, batch 64, {seeds} seeds:"
        f" one at a time {slow * per_step:.2f} ms, stacked {quick * per_step:.2f} ms,"
        f" {ratio:.1f} times faster"
    )


class PlainLayer(torch.nn.Module):
    """Paper B's model as one would write it first, and as its authors' released code has it.

    Each head has its own linear maps, and they project every token, the query among them; the query alone
    attends, to the context alone.
    """

    def __init__(self, d: int, heads: int):
        super().__init__()
        p = d + 1
        for name, width in (("Q", p), ("K", p), ("V", p), ("O", 1)):
            maps = [torch.nn.Linear(p, width, bias=False) for _ in range(heads)]
            setattr(self, name, torch.nn.ModuleList(maps))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Predictions (B,) from the token rows (B, n + 1, p), the query last."""
        out = 0
        for Q, K, V, O in zip(self.Q, self.K, self.V, self.O, strict=True):  # noqa: E741
            q, k, v = Q(rows)[:, -1:], K(rows)[:, :-1], V(rows)[:, :-1]
            out = out + O((q @ k.mT / math.sqrt(rows.shape[-1])).softmax(-1) @ v)
        return out[:, 0, 0]


def one_layer_against_plain(repeats: int, heads: int, seeds: int = 8, steps: int = 64) -> None:
    """Whole training steps of paper B's model: merged and stacked, against a plain loop.

    The plain loop has the paper's 256 prompts a step and noisy targets; ours has 64 prompts of four queries
    and targets without noise: as many terms, and where training ends a gradient as noisy to a tenth (at the
    start ours is noisier by a quarter; chapter 16 measures both).
    """
    setting = LayerSetting(d=5, noise=0.1, n=40, steps=steps, keep_every=0, batch=64, queries=4, lr=1e-3)
    looks = {"evaluate_every": steps, "evaluate_prompts": 16}
    settings = paper_b.training(setting, heads, **looks)
    task, generator = settings.task, seeded("bench")

    def plain() -> None:
        model = PlainLayer(task.d, heads)
        adam = torch.optim.Adam(model.parameters(), lr=settings.lr)
        for _ in range(steps):
            drawn = task.sample(256, settings.n, generator)
            y_query = drawn.target()[:, 0] + task.sigma * torch.randn(256, generator=generator)
            loss = (model(tokens(drawn)) - y_query).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()

    slow, quick, ratio = compare(plain, lambda: run(settings, seeds), repeats)
    print(
        f"a model-step of one softmax layer, H = {heads}, d = 5, L = 40, 256 predictions:"
        f" plain loop {steps / slow:.0f} a second, {seeds} stacked {seeds * steps / quick:.0f},"
        f" {seeds * ratio:.1f} times faster"
    )


def main() -> None:
    """Print one line a comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="turns of each comparison")
    repeats = parser.parse_args().repeats
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, medians of {repeats} turns")
    gram_against_tokens(repeats)
    for heads in ((1, 1, 1), (8, 1, 1), (8, 8, 8)):
        stacked_against_single(repeats, heads)
    for heads in (1, 2, 4, 8):
        one_layer_against_plain(repeats, heads)


if __name__ == "__main__":
    main()
