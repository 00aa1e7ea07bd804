"""What a chapter may be run with: profiles, and the meaning and range of every parameter.

A parameter's name means the same in all chapters, so its range stands here once. Chapters give `None`
for whatever the profile decides; `resolve` fills that in from `profiles.toml`.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path

from icl_lib import checks

PROFILES = ("smoke", "laptop", "paper")
PROFILE_FILE = Path(__file__).with_name("profiles.toml")


class _Table:
    """A table of parameters, by name as attributes."""

    def given(self) -> dict[str, object]:
        """What is set, by name: the rest is what the library's classes say."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Setting(_Table):
    """A table such as `positive`: a transformer of paper A, its task and its training."""

    d: int
    s: int
    sigma: float
    weights: str
    n_range: list[int]
    layers: int
    D: int
    k: int | None = None
    attention: str | None = None
    init_scale: float | None = None
    steps: int
    batch: int
    queries: int | None = None
    lr: float
    weight_decay: float | None = None
    curriculum_mean: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayerSetting(_Table):
    """A table such as `one_layer`: a layer of paper B, its task and its training."""

    d: int
    noise: float
    n: int
    rho: float | None = None
    blocks: list[list[int]] | None = None
    attention: str | None = None
    steps: int
    keep_every: int
    batch: int
    queries: int | None = None
    lr: float


TABLES = {
    "symmetric": Setting,  # weights of random sign
    "positive": Setting,  # positive weights
    "small": Setting,  # a model small enough for many seeds and long training
    "one_layer": LayerSetting,
    "multitask": LayerSetting,  # with several tasks
}


@dataclass
class Settings:
    """What a chapter runs with, by name as attributes."""

    chapter: str
    profile: str
    values: dict[str, object]

    def __getattr__(self, name: str) -> object:
        try:
            return vars(self)["values"][name]
        except KeyError:
            raise AttributeError(f"no parameter {name!r}: allowed are {', '.join(self.values)}") from None

    def plain(self) -> dict[str, object]:
        """The parameters as numbers, lists and dicts, as a profile or papermill gives them."""
        return {
            name: value.given() if isinstance(value, _Table) else value for name, value in self.values.items()
        }

    def _repr_markdown_(self) -> str:
        """The values that were used, as a table."""
        import pandas as pd  # takes a second, which the driver need not wait

        from icl_book import frames

        rows = [(f"`{name}`", _shown(value)) for name, value in self.plain().items()]
        columns = ["parameter", f"value, profile `{self.profile}`"]
        return frames.markdown(pd.DataFrame(rows, columns=columns), index=False)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_shown(part)}" for name, part in value.items())
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else str(value)


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
    """Some or all parameters of a table, each in its own range."""
    if not isinstance(value, Mapping):
        raise ValueError(
            f'{name} = {value!r}: allowed is a table of parameters (with papermill: -y "{name}: {{d: 5}}")'
        )
    known = [field.name for field in fields(TABLES[name])]
    for part in value:
        if part not in known:
            raise ValueError(f"{part} in {name}: allowed are the parameters {', '.join(known)}")
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
} | dict.fromkeys(TABLES, _table)


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


def resolve(chapter: str, profile: str, **given: object) -> Settings:
    """The settings a chapter runs with: those given, else the profile's for it, else the profile's for all.

    Raises ValueError if a value is not allowed, or if neither caller nor profile sets a parameter.
    """
    check({"profile": profile, **given})
    decided = decided_by(profile, chapter)
    values = {}
    for name, value in given.items():
        if value is None and name not in decided:
            raise ValueError(f"{name} = None: profile {profile!r} sets no value for it in {chapter}")
        values[name] = decided[name] if value is None else value
        if isinstance(value, Mapping):  # given in part: the profile decides the rest
            values[name] = {**decided.get(name, {}), **value}
    check(values)
    return Settings(chapter, profile, {name: _typed(name, value) for name, value in values.items()})


def _typed(name: str, value: object) -> object:
    if name not in TABLES:
        return value
    needed = [field.name for field in fields(TABLES[name]) if field.default is MISSING]
    if lacking := [part for part in needed if part not in value]:
        raise ValueError(f"{name} lacks {', '.join(lacking)}: allowed are tables with {', '.join(needed)}")
    return TABLES[name](**value)
