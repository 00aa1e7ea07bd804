"""What each chapter trains, declared: known before any chapter runs, and what a chapter asks for by name.

A function for each chapter gives its groups of trainings: a name for the group, and by the conditions that
tell its members apart, a setting and its seeds. `trained` gives a chapter the models of a group; `make plan`
lists what the store lacks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache, partial
from typing import NamedTuple

import pandas as pd
import torch

from icl_book import paper_b
from icl_book.experiments import middle, training
from icl_book.parameters import Settings
from icl_book.studies import pruning, released_code, robustness
from icl_lib import store
from icl_lib.models import Model
from icl_lib.tasks import MultiTask, Task
from icl_lib.training import Runs, Training, Weights, which
from icl_lib.training import run as run_training
from icl_lib.transformer import Transformer


class Planned(NamedTuple):
    """A training and its seeds; where it starts from others' weights, those others and these weights."""

    settings: Training
    seeds: int
    after: "Planned | None" = None
    starts: Callable[[], Sequence[Weights]] | None = None


Groups = Iterator[tuple[str, dict[object, Planned]]]


def head_counts(run: Settings) -> Groups:
    """Chapter 4: models by (training, H) and, with positive weights, by (sigma, L, H)."""
    few, many = min(run.head_counts), max(run.head_counts)
    symmetric = {("curriculum", H): training(run.symmetric, H) for H in run.head_counts}
    symmetric |= {("scratch", H): training(run.symmetric, H, curriculum_mean=0.0) for H in (few, many)}
    own = run.positive.layers
    cells = [(sigma, own, run.head_counts) for sigma in run.sigmas]
    cells += [(run.sigmas[0], L, run.deep_head_counts) for L in run.depths if own != L]
    positive = {
        (sigma, L, H): training(run.positive, H, sigma=sigma, layers=L)
        for sigma, L, counts in cells
        for H in counts
    }
    yield "symmetric", _planned(symmetric, run.seeds)
    yield "positive", _planned(positive, run.seeds)


def head_importance(run: Settings) -> Groups:
    """Chapter 5: models with most heads by law of the weights, and by rate of weight decay."""
    H = max(run.head_counts)
    laws = {"symmetric": training(run.symmetric, H), "positive": training(run.positive, H)}
    decays = {decay: training(run.positive, H, weight_decay=decay) for decay in run.weight_decays}
    yield "laws", _planned(laws, run.seeds)
    yield "decays", _planned(decays, run.seeds)


def pruning_probing(run: Settings) -> Groups:
    """Chapter 6: models by (weights, sigma, shape), and these pruned and trained again, by version."""
    H = max(run.head_counts)
    settings = {("positive", sigma): (run.positive, sigma) for sigma in run.sigmas}
    settings["symmetric", run.symmetric.sigma] = (run.symmetric, run.symmetric.sigma)
    models, again = {}, {}
    for case, (setting, sigma) in settings.items():
        for shape, heads in robustness.shapes(H, setting.layers).items():
            models[*case, shape] = training(setting, heads, sigma=sigma)
        whole = Planned(models[*case, "all"], run.seeds)
        made = cache(partial(_versions, whole, middle(setting)))
        for version, shape in pruning.SHAPE_OF.items():
            cut = pruning.again(whole.settings, models[*case, shape].model.heads, run.refit_steps)
            again[*case, version] = Planned(cut, run.seeds, whole, partial(_weights, made, version))
    yield "models", _planned(models, run.seeds)
    yield "again", again


def head_allocation(run: Settings) -> Groups:
    """Chapter 7: models by (sigma, k, later): k heads in layer 1 and so many in each later one."""
    H, later_layers = max(run.head_counts), run.positive.layers - 1
    shapes = [(k, 1) for k in sorted({1, *run.first_heads, H})] + [(1, H), (H, H)]
    models = {
        (sigma, k, later): training(run.positive, (k,) + (later,) * later_layers, sigma=sigma)
        for sigma in run.sigmas
        for k, later in shapes
    }
    yield "models", _planned(models, run.seeds)


def emergence(run: Settings) -> Groups:
    """Chapter 8: large models by (training, H), small ones by (law, H)."""
    counts = (min(run.head_counts), max(run.head_counts))
    ways = {"scratch": {"curriculum_mean": 0.0}, "curriculum": {}}
    large = {(way, H): training(run.symmetric, H, **ways[way]) for way in ways for H in counts}
    every = max(1, run.small.steps // 16)
    common = dict(schedule="constant", evaluate_every=every, keep_every=every, evaluate_prompts=2048)
    laws = {
        "gaussian": {},
        "gaussian, smaller start": {"init_scale": run.small.init_scale / 2},
        "gaussian, curriculum": {"curriculum_mean": 1.5},
        "half-normal": {"weights": "half-normal"},
    }
    one_head = ("gaussian", "half-normal")  # the levels that many heads are compared with
    small = {(law, 1): training(run.small, 1, **common, **laws[law]) for law in one_head}
    small |= {(law, run.small.d): training(run.small, run.small.d, **common, **laws[law]) for law in laws}
    yield "large", _planned(large, run.seeds)
    yield "small", _planned(small, run.small_seeds)


def robust(run: Settings) -> Groups:
    """Chapter 9: three shapes of model by (setting, shape)."""
    models = {}
    for name, (_, most, changes) in variations(run).items():
        layers = changes.get("layers", run.positive.layers)
        for shape, heads in robustness.shapes(most, layers).items():
            models[name, shape] = training(run.positive, heads, **changes)
    yield "models", _planned(models, run.seeds)


def variations(run: Settings) -> dict[str, tuple[str, int, dict[str, object]]]:
    """The settings of chapter 9: for each its label, heads in a layer, and what differs from the base."""
    base, H = run.positive, max(run.head_counts)
    half, L, D = H // 2, base.layers, H * -(-base.D // H)  # D: a width that splits evenly
    short = {"steps": run.steps, "lr": run.lr}
    tokens = short | {"batch": run.batch, "queries": run.queries}
    low, high, narrow = base.sigma / 2, 2 * base.sigma, (base.d + 1) // 3
    return {
        "base": ("base", H, {}),
        "noise": (f"σ = {high:g}", H, {"sigma": high}),
        "depth": (f"{L + 2} layers", H, {"layers": L + 2}),
        "half": (f"{half} heads", half, {}),
        "short": ("short training", H, short),
        "quiet": (f"σ = {low:g}", H, short | {"sigma": low}),
        "sparser": ("s = 1", H, short | {"s": 1}),
        "denser": (f"s = {2 * base.s}", H, short | {"s": 2 * base.s}),
        "split": (f"width {D} / heads", H, short | {"D": D, "k": None}),
        "narrow": (f"head width {narrow}", H, short | {"k": narrow}),
        "init": ("init scale 1", H, short | {"init_scale": 1.0}),
        "decay": ("AdamW, decay 0.1", H, short | {"weight_decay": 0.1}),
        "linear": (f"linear, {half} heads", half, tokens),
        "relu": (f"relu, {half} heads", half, tokens | {"attention": "relu"}),
        "softmax": (f"softmax, {half} heads", half, tokens | {"attention": "softmax"}),
    }


def patterns(run: Settings) -> Groups:
    """Chapter 10: layers by number of heads; two and four heads for twice as long."""
    layers = {H: paper_b.training(run.one_layer, H) for H in run.head_counts}
    longer = {
        H: paper_b.training(run.one_layer, H, steps=run.long_steps) for H in run.head_counts if H in (2, 4)
    }
    yield "layers", _planned(layers, run.seeds)
    yield "longer", _planned(longer, run.long_seeds)


def debiased_gd(run: Settings) -> Groups:
    """Chapter 11: layers by number of heads."""
    yield "layers", _planned({H: paper_b.training(run.one_layer, H) for H in run.head_counts}, run.seeds)


def lengths(run: Settings) -> Groups:
    """Chapter 12: layers of softmax and of linear attention, by number of heads."""
    softmax = {H: paper_b.training(run.one_layer, H) for H in sorted({1, 2, *run.head_counts})}
    linear = {
        H: paper_b.training(run.one_layer, H, attention="linear", steps=run.steps)
        for H in sorted({1, *run.linear_head_counts})
    }
    yield "softmax", _planned(softmax, run.seeds)
    yield "linear", _planned(linear, run.seeds)


def correlated(run: Settings) -> Groups:
    """Chapter 13: layers by (rho, H); beyond the first correlation the fewest heads, trained for longer."""
    first, *others = run.rhos
    layers = {(first, H): paper_b.training(run.one_layer, H, rho=first) for H in run.head_counts}
    layers |= {
        (rho, run.head_counts[0]): paper_b.training(
            run.one_layer, run.head_counts[0], rho=rho, steps=run.long_steps
        )
        for rho in others
    }
    yield "layers", _planned(layers, run.seeds)


def several_tasks(run: Settings) -> Groups:
    """Chapter 14: layers by number of heads, and the first that has a pair a task for longer."""
    layers = {H: paper_b.training(run.multitask, H) for H in run.head_counts}
    enough = [H for H in run.head_counts if 2 * len(run.multitask.blocks) <= H]
    H = (enough or run.head_counts)[0]
    yield "layers", _planned(layers, run.seeds)
    yield "longer", _planned({H: paper_b.training(run.multitask, H, steps=run.long_steps)}, run.long_seeds)


def choices_a(run: Settings) -> Groups:
    """Chapter 15: models by (choice, H), the choice being what differs from ours."""
    few, many = min(run.head_counts), max(run.head_counts)
    mid = middle(run.small)
    changes = {
        "half-normal": {},  # ours
        "binary": {"weights": "binary"},
        "gaussian": {"weights": "gaussian"},
        "rademacher": {"weights": "rademacher"},
        "split": {"k": None},
        "one length": {"n_range": [mid, mid]},
        "constant": {"schedule": "constant"},
    }
    counts = {name: run.head_counts if name in ("half-normal", "split") else (few, many) for name in changes}
    models = {(name, H): training(run.small, H, **changes[name]) for name in changes for H in counts[name]}
    yield "models", _planned(models, run.small_seeds)


def choices_b(run: Settings) -> Groups:
    """Chapter 16: layers with two and four heads; four heads trained for less long in three ways."""
    layers = {H: paper_b.training(run.one_layer, H) for H in (2, 4)}
    brief = replace(layers[4], steps=run.steps)
    ways = {
        "released": released_code.as_released(brief),
        "scale": replace(brief, task=replace(brief.task, scale=1.0)),
    }
    yield "layers", _planned(layers, run.seeds)
    yield "ways", _planned(ways, run.small_seeds)


CHAPTERS: Mapping[str, Callable[[Settings], Groups]] = {
    "04_head_counts": head_counts,
    "05_head_importance": head_importance,
    "06_pruning_probing": pruning_probing,
    "07_head_allocation": head_allocation,
    "08_when_preprocessing_emerges": emergence,
    "09_robustness": robust,
    "10_kq_ov_patterns": patterns,
    "11_debiased_gd": debiased_gd,
    "12_length_generalization": lengths,
    "13_anisotropic": correlated,
    "14_multitask": several_tasks,
    "15_choices_a": choices_a,
    "16_choices_b": choices_b,
}


def trained(run: Settings, group: str) -> dict[object, Runs]:
    """The models of one of a chapter's groups, from the store or trained now."""
    groups = dict(CHAPTERS[run.chapter](run))
    return {key: _trained(planned) for key, planned in groups[group].items()}


def listing(chapters: Mapping[str, Settings]) -> pd.DataFrame:
    """Every training of some chapters, once: model, setting, heads, seeds, steps, state, chapters.

    The state is stored or missing; again: trained each time, as no key covers its code; after: what it
    starts from is missing itself.
    """
    rows: dict[str, dict] = {}
    for chapter, run in chapters.items():
        for planned in [one for _, group in CHAPTERS[chapter](run) for one in group.values()]:
            key, state = _state(planned)
            row = rows.setdefault(key, _row(planned) | {"state": state, "chapters": []})
            if int(chapter[:2]) not in row["chapters"]:
                row["chapters"].append(int(chapter[:2]))
    return pd.DataFrame(rows.values())


def report(trainings: pd.DataFrame) -> str:
    """The trainings that are to be done, one a line, the longest first, and how many there are in all."""
    open_ones = trainings[trainings.state != "stored"].sort_values("steps", ascending=False, kind="stable")
    lines = [f"{len(trainings)} trainings, {len(trainings) - len(open_ones)} of them in the store"]
    if len(open_ones):
        lines.append(open_ones.to_string(index=False, na_rep="", max_colwidth=100, justify="left"))
    return "\n".join(lines)


def _state(planned: Planned) -> tuple[str, str]:
    """What tells a training from others, and whether the store has it."""
    settings, starts = planned.settings, None
    if store.not_covered(settings):
        return repr(settings), "again"
    if planned.starts:
        if _state(planned.after)[1] != "stored":
            return repr((settings, planned.after)), "after"
        starts = planned.starts()
    device = "cuda" if torch.cuda.is_available() else "cpu"  # as `store.trained` has it
    key = store.key(settings, which(planned.seeds), device, starts)
    stored = (store.cache_folder() / f"{key}.safetensors").exists()
    return key, "stored" if stored else "missing"


def _row(planned: Planned) -> dict[str, object]:
    task, model = planned.settings.task, planned.settings.model
    return {
        "model": type(model).__name__,
        "setting": " ".join(dict.fromkeys([*_own(task), *_own(model), *_own(planned.settings)])),
        "heads": getattr(model, "heads", None),
        "seeds": planned.seeds,
        "steps": planned.settings.steps,
    }


def _own(part: Task | MultiTask | Model | Training) -> Iterator[str]:
    """What is not as it is by default, but for what has a column of its own and for looks on the way."""
    for field in fields(part):
        value = getattr(part, field.name)
        apart = ("task", "model", "heads", "steps", "keep_every", "evaluate_every", "evaluate_prompts")
        if field.name not in apart and value != field.default:
            yield f"{field.name}={value:.3g}" if isinstance(value, float) else f"{field.name}={value}"


def _trained(planned: Planned) -> Runs:
    if store.not_covered(planned.settings):  # a task of the book's own
        return run_training(planned.settings, planned.seeds)
    starts = planned.starts() if planned.starts else None
    return store.trained(planned.settings, planned.seeds, starts=starts)


def _planned(trainings: Mapping[object, Training], seeds: int) -> dict[object, Planned]:
    return {key: Planned(settings, seeds) for key, settings in trainings.items()}


def _versions(whole: Planned, n: int) -> dict[str, tuple[Transformer, list[Weights]]]:
    return pruning.versions(_trained(whole), n)


def _weights(versions: Callable[[], Mapping], version: str) -> Sequence[Weights]:
    """What is left of trained models when heads are gone."""
    return versions()[version][1]
