"""Claims A1 to A3 in one setting after another (claim A7): three shapes of model, four measures.

With H heads in a layer or one, the shapes are one head everywhere, H heads in the first layer only, and
H heads everywhere.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from icl_book import experiments
from icl_book.claims import Criterion, bar, verdict
from icl_book.intervals import recovered
from icl_lib import heads, store
from icl_lib.evaluation import Interval, ratio_interval, t_interval

SHAPES = ("one", "first", "all")


class Evidence(NamedTuple):
    """What the models of one setting show, each entry over seeds."""

    H: int  # heads in a layer
    risk: dict[str, Float[np.ndarray, " seeds"]]  # of each shape
    effective: dict[str, Float[np.ndarray, "seeds layers"]]  # number of heads of every layer, by shape
    least: dict[str, Float[np.ndarray, " seeds"]]  # least rise of the risk, as a factor, without a first head

    def measures(self) -> dict[str, Interval]:
        """The number behind each claim, with its interval over seeds."""
        return {
            "A1": ratio_interval(self.risk["all"], self.risk["one"]),
            "A2-first": t_interval(self.effective["all"][:, 0] / self.H),
            "A2-later": t_interval(self.effective["all"][:, 1:].max(1)),
            "A3": recovered(self.risk["first"], self.risk["one"], self.risk["all"]),
        }


def shapes(H: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Heads in each layer, by shape."""
    return {
        "one": (1,) * layers,
        "first": (H,) + (1,) * (layers - 1),
        "all": (H,) * layers,
    }


def evidence(setting: Mapping[str, object], H: int, seeds: int, prompts: int, **changes: object) -> Evidence:
    """Train the three shapes in a setting with some `changes` and evaluate them at its middle length."""
    middle, layers = experiments.middle(setting), changes.get("layers", setting["layers"])
    risk, effective, least = {}, {}, {}
    for shape, in_layers in shapes(H, layers).items():
        models = store.trained(experiments.training(setting, in_layers, **changes), seeds)
        found = heads.maskings(models, middle, prompts)
        risk[shape] = np.array([one.full for one in found])
        effective[shape] = heads.effective_numbers(found)
        least[shape] = np.array([np.nanmin(one.off[0]) / one.full for one in found])
    return Evidence(H, risk, effective, least)


def worst(test: Criterion, found: Mapping[str, Interval]) -> str:
    """The setting whose whole interval is furthest on the wrong side: a claim over all cannot do better.

    The bound that decides `not reproduced` ranks, so that a setting is not the worst for its noise alone.
    """
    return max(found, key=lambda name: found[name].low if test.sense == "<=" else -found[name].high)


def table(tests: Mapping[str, Criterion], found: Mapping[str, Mapping[str, Interval]]) -> str:
    """Markdown: settings by measures, each with its value, interval and verdict."""
    titles = [f"{name}, bar {bar(test.sense, test.threshold)}" for name, test in tests.items()]
    lines = [f"| setting | {' | '.join(titles)} |", "|---" * (len(tests) + 1) + "|"]
    for setting, measures in found.items():
        cells = [
            f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}] *{verdict(tests[name], value)}*"
            for name, value in measures.items()
        ]
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
