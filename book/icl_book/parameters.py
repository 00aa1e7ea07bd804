"""What a chapter may be run with: profiles, and the meaning and range of every parameter.

A parameter's name means the same in all chapters, so its range stands here once. Chapters give `None`
for whatever the profile decides; `resolve` fills that in from `profiles.toml`.
"""

import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from icl_lib import checks

PROFILES = ("smoke", "laptop", "paper")
PROFILE_FILE = Path(__file__).with_name("profiles.toml")


# What a table such as `symmetric` may set: a model, its task and its training.
OF_A_SETTING = ("d", "s", "sigma", "weights", "n_range", "layers", "D", "k", "attention", "init_scale")
OF_A_SETTING += ("steps", "batch", "queries", "lr", "weight_decay", "curriculum_mean")
OF_A_SETTING += ("noise", "rho", "n", "blocks", "keep_every")  # of paper B's


def _list_of(check: Callable[[str, object], None]) -> Callable[[str, object], None]:
    def check_list(name: str, value: object) -> None:
        if not isinstance(value, list) or not value:
            raise ValueError(
                f"{name} = {value!r}: allowed is a list that is not empty"
                f' (with papermill: -y "{name}: [1, 2]")'
            )
        for item in value:
            check(f"an item of {name}", item)
        if len(set(value)) < len(value):
            raise ValueError(f"{name} = {value!r}: allowed is a list without repeats")

    return check_list


def _rising(check: Callable[[str, object], None]) -> Callable[[str, object], None]:
    check_list = _list_of(check)

    def check_rising(name: str, value: object) -> None:
        check_list(name, value)
        if len(value) < 2 or value != sorted(value):
            raise ValueError(f"{name} = {value!r}: allowed is a rising list of two values or more")

    return check_rising


# Both import torch, which takes seconds: the driver is to start without it.
def _weights(name: str, value: object) -> None:
    from icl_lib.tasks import WEIGHTS

    checks.one_of(name, value, WEIGHTS)


def _attention(name: str, value: object) -> None:
    from icl_lib.transformer import ATTENTION

    checks.one_of(name, value, ATTENTION)


def _range(name: str, value: object) -> None:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} = {value!r}: allowed is a list of two lengths, low and high")
    checks.integer(f"the low end of {name}", value[0])
    checks.integer(f"the high end of {name}", value[1], value[0])


def _blocks(name: str, value: object) -> None:
    if not isinstance(value, list) or not value or not all(isinstance(block, list) for block in value):
        raise ValueError(f"{name} = {value!r}: allowed is a list of lists of coordinates, one a task")
    for block in value:
        checks.integers("a block", tuple(block), 0, 63)


def _table(name: str, value: object) -> None:
    """A setting: parameters by name, each in its own range."""
    if not isinstance(value, Mapping):
        raise ValueError(
            f'{name} = {value!r}: allowed is a table of parameters (with papermill: -y "{name}: {{d: 5}}")'
        )
    for part in value:
        if part not in OF_A_SETTING:
            raise ValueError(f"{part} in {name}: allowed are the parameters {', '.join(OF_A_SETTING)}")
    check(value)


_size = partial(checks.integer, low=1, high=1_000_000)
_decay = partial(checks.number, low=0.0, high=10.0)
_noise = partial(checks.number, low=1e-6, high=100.0)  # without noise there is no Bayes predictor

ALLOWED: dict[str, Callable[[str, object], None]] = {
    "profile": partial(checks.one_of, allowed=PROFILES),
    "seeds": partial(checks.integer, low=2, high=1000),  # one seed has no interval
    "prompts": partial(checks.integer, low=10, high=1_000_000),  # evaluation prompts of a seed
    "d": partial(checks.integer, low=2, high=64),
    "s": partial(checks.integer, low=1, high=64),
    "sigma": _noise,
    "sigmas": _list_of(_noise),
    "n": _size,
    "lengths": _list_of(_size),  # context lengths n on an axis
    "sparsities": _list_of(partial(checks.integer, low=1, high=64)),
    # Of a model and its training, in a table such as `symmetric`:
    "weights": _weights,
    "n_range": _range,
    "layers": partial(checks.integer, low=2, high=12),
    "D": partial(checks.integer, low=2, high=4096),
    "k": partial(checks.integer, low=1, high=4096),
    "attention": _attention,
    "init_scale": partial(checks.number, low=0.0, high=10.0),
    "steps": partial(checks.integer, low=10, high=10_000_000),
    "batch": partial(checks.integer, low=1, high=65_536),
    "queries": partial(checks.integer, low=1, high=1024),
    "lr": partial(checks.number, low=0.0, high=1.0),
    "weight_decay": _decay,
    "weight_decays": _rising(_decay),
    "curriculum_mean": partial(checks.number, low=0.0, high=10.0),
    "noise": partial(checks.number, low=0.0, high=100.0),  # variance of the noise (paper B)
    "rho": partial(checks.number, low=-0.99, high=0.99),  # correlation of neighbouring covariates
    "rhos": _list_of(partial(checks.number, low=-0.99, high=0.99)),  # several of them
    "blocks": _blocks,  # the coordinates of each task
    "keep_every": partial(checks.integer, low=1, high=10_000_000),  # steps between weights kept on the way
    "symmetric": _table,  # weights of random sign
    "positive": _table,  # positive weights
    "one_layer": _table,  # paper B's model and training
    "multitask": _table,  # the same with several tasks
    "small": _table,  # a model small enough for many seeds and long training
    "small_seeds": partial(checks.integer, low=2, high=1000),  # its trainings
    "head_counts": _rising(partial(checks.integer, low=1, high=64)),  # H in every layer
    "deep_head_counts": _rising(partial(checks.integer, low=1, high=64)),  # H at other depths
    "linear_head_counts": _list_of(partial(checks.integer, low=1, high=64)),  # H of linear attention
    "first_heads": _list_of(partial(checks.integer, low=1, high=64)),  # heads of layer 1
    "depths": _list_of(partial(checks.integer, low=2, high=12)),  # layers L
    "eta": partial(checks.number, low=1e-6, high=10.0),
    "omega": partial(checks.number, low=1e-6, high=10.0),  # of two opposite softmax heads
    "mu": partial(checks.number, low=1e-6, high=1e6),
    "dimensions": _rising(partial(checks.integer, low=2, high=1024)),  # values of d
    "max_steps": partial(checks.integer, low=1, high=50),  # gradient steps T, one a layer
    "long_steps": partial(checks.integer, low=10, high=10_000_000),  # of trainings beyond the stop
    "long_seeds": partial(checks.integer, low=2, high=1000),  # and their number
    "starts": partial(checks.integer, low=2, high=10_000),  # random starts of gradient flow
    "refit_steps": partial(checks.integer, low=10, high=10_000_000),  # of training after pruning
    "repeats": partial(checks.integer, low=2, high=1_000_000),  # batches whose gradients are compared
}


def check(given: Mapping[str, object]) -> None:
    """Check parameters that were given (None: the profile decides).

    Raises ValueError with one line that names the value and what is allowed.
    """
    for name, value in given.items():
        if name not in ALLOWED:
            raise ValueError(f"{name} = {value!r}: allowed are the parameters {', '.join(ALLOWED)}")
        if value is not None or name == "profile":
            ALLOWED[name](name, value)


def decided_by(profile: str, chapter: str) -> dict[str, object]:
    """What a profile says for a chapter: its own table, and for the rest that for all."""
    table = tomllib.loads(PROFILE_FILE.read_text(encoding="utf-8"))[profile]
    return {**table["all"], **table.get(chapter, {})}


def resolve(chapter: str, profile: str, **given: object) -> SimpleNamespace:
    """The settings a chapter runs with: those given, else the profile's for it, else the profile's for all.

    Raises ValueError if a value is not allowed, or if neither caller nor profile sets a parameter.
    """
    check({"profile": profile, **given})
    decided = decided_by(profile, chapter)
    settings = {"profile": profile}
    for name, value in given.items():
        if value is None and name not in decided:
            raise ValueError(f"{name} = None: profile {profile!r} sets no value for it in {chapter}")
        settings[name] = decided[name] if value is None else value
        if isinstance(value, Mapping):  # given in part: the profile decides the rest
            settings[name] = {**decided.get(name, {}), **value}
    check(settings)
    return SimpleNamespace(**settings)
