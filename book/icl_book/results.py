"""The results contract: what every chapter writes, so that each number can be traced and made again.

_build/<profile>/results/<chapter>.json
    parameters   what the chapter ran with
    numbers      every number that the prose quotes; an interval as [mean, low, high]
    claims       every test of a claim, with its threshold, value, interval, seeds and verdict
    sentences    sentences of the prose that state a result, and whether they are true of this run
    figures      what every figure shows, by its name: the frame that drew it, column by column
    provenance   commit, library hash, versions, device, seconds, the command that makes it again
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from numpy.typing import ArrayLike

from icl_book import claims, figures, frames, parameters
from icl_book.parameters import Settings
from icl_book.provenance import git_commit, home, library_hash, loaded_modules, paper_file, versions
from icl_lib.evaluation import Interval

_PARAMETERS: dict[str, list[str]] = {}  # of the chapters that have begun


class Results:
    """Collects what a chapter finds; `save` writes the file."""

    def __init__(self, settings: Settings):
        self._started = time.monotonic()
        self._settings = settings
        self._numbers: dict[str, float | list[float]] = {}
        self._tests: dict[str, dict] = {}
        self._sentences: dict[str, bool] = {}
        self._figures: dict[str, dict[str, list]] = {}

    def quote(self, **values: float | Interval | pd.Series) -> None:
        """Record numbers and intervals for the prose to quote, by the roles {value} and {interval}.

        Of a series each value is recorded, by the name and the parts of its key: gain_symmetric_all.
        """
        for name, value in values.items():
            if isinstance(value, pd.Series):
                keys = [key if isinstance(key, tuple) else (key,) for key in value.index]
                names = ["_".join([name, *map(str, key)]) for key in keys]
                self.quote(**dict(zip(names, value, strict=True)))
                continue
            _new(name, self._numbers)
            ends = [float(end) for end in np.atleast_1d(value)]
            _finite(name, *ends)
            self._numbers[name] = ends if isinstance(value, Interval) else ends[0]

    def judge(
        self, values: Mapping[str, ArrayLike | Interval], kind: str | Mapping[str, str] | None = None
    ) -> Markdown:
        """Record the verdicts on tests of claims.toml; a box with them to show.

        Each test has one number a seed, of which the estimate is made on the test's scale, or an `Interval`
        where it is of another kind. The interval is what lies in the test's range. `kind` says what the
        intervals are, all or each test's, where claims.toml cannot.
        """
        for name, value in values.items():
            test = claims.criterion(name)
            if kind:
                test = replace(test, interval_kind=kind if isinstance(kind, str) else kind[name])
            _new(name, self._tests)
            seeds = [] if isinstance(value, Interval) else np.asarray(value, dtype=float)
            _finite(name, *(value if isinstance(value, Interval) else seeds))
            self._tests[name] = claims.judged(test, claims.estimate(test, value), seeds)
        return Markdown(claims.box([self._tests[name] for name in values]))

    def holds(self, sentence: str, condition: bool | np.bool_) -> None:
        """Record whether a sentence of the prose, quoted here word by word, is true of this run."""
        _new(sentence, self._sentences)
        self._sentences[sentence] = bool(condition)

    def figure(self, name: str, *shown: pd.DataFrame) -> None:
        """Record what a figure shows: the frames that drew it, one below the other.

        The name is the one that the cell's metadata give the figure.
        """
        _new(name, self._figures)
        frame = pd.concat(shown, ignore_index=True)
        if frame.empty:
            raise ValueError(f"{name} shows nothing: allowed are frames with rows")
        plain = frame.astype(object).where(frame.notna(), None)
        self._figures[name] = {str(column): plain[column].tolist() for column in plain}

    def save(self) -> None:
        """Write the file, whole or not at all."""
        given, profile, chapter = self._settings.plain(), self._settings.profile, self._settings.chapter
        arguments = " ".join(f'-y "{name}: {json.dumps(value)}"' for name, value in given.items())
        contents = {
            "parameters": {"profile": profile, **given},
            "numbers": self._numbers,
            "claims": list(self._tests.values()),
            "sentences": self._sentences,
            "figures": self._figures,
            "provenance": {
                "commit": git_commit(),
                "library": library_hash(loaded_modules()),
                "settings": given,
                "seeds": given.get("seeds"),
                "versions": versions(),
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
                "seconds": round(time.monotonic() - self._started, 2),
                "command": f"make chapter CHAPTER={chapter} ARGS='-p profile {profile} {arguments}'",
            },
        }
        path = folder(profile, writing=True) / f"{chapter}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(
            json.dumps(contents, indent=1, allow_nan=False, default=lambda value: value.item())
        )
        temporary.replace(path)


def folder(profile: str, *, writing: bool = False) -> Path:
    """Where results files are; a run beside the book writes to `$ICL_RESULTS` instead."""
    if writing and os.environ.get("ICL_RESULTS"):
        return Path(os.environ["ICL_RESULTS"])
    return Path(os.environ.get("ICL_BUILD") or home() / "_build") / profile / "results"


def load_all(profile: str) -> dict[str, dict]:
    """The results files of a profile, by chapter. Raises LookupError where there are none."""
    paths = sorted(folder(profile).glob("*.json"))
    if not paths:
        raise LookupError(f"no results of profile {profile!r} here: run the chapters first (make book)")
    return {path.stem: json.loads(path.read_text()) for path in paths}


def paper_profile(chapter: str) -> str:
    """Markdown: a chapter's claims at the papers' sizes (its numbers, where it tests no claim).

    Where none are committed, how to get them.
    """
    path = paper_file(chapter)
    if not path.exists():
        return (
            "*This place is for the chapter's results at the papers' sizes (profile `paper`). None are"
            " committed: they take an accelerator. On a machine with one,* `make paper-profile` *makes them,"
            " for all chapters on trained models.*"
        )
    found = json.loads(path.read_text())
    about = found["provenance"]
    made = f"Profile `paper`, {about['seeds']} seeds, on {about['device']}, commit {about['commit']}:"
    if found["claims"]:
        return f"{made}\n\n{claims.box(found['claims'])}"
    numbers = {
        name: value if np.isscalar(value) else Interval(*value) for name, value in found["numbers"].items()
    }
    return f"{made}\n\n{frames.markdown(pd.Series(numbers, name='value').rename_axis('number').to_frame())}"


def begin(chapter: str, parameters_cell: Mapping[str, object]) -> tuple[Settings, Results]:
    """Check a chapter's parameters before any computing; its settings, and the results to fill.

    The parameters are those names of the notebook, its `globals()`, that are parameters of the book. Figures
    are in the book's style from here on.
    """
    figures.set_style()
    # A cell that is run again finds the notebook's later variables, too: the first run has the names.
    names = _PARAMETERS.setdefault(chapter, [name for name in parameters.ALLOWED if name in parameters_cell])
    given = {name: parameters_cell[name] for name in names}
    settings = parameters.resolve(chapter, **given)
    return settings, Results(settings)


def frame(chapter: str, figure: str, profile: str) -> pd.DataFrame:
    """What a figure of a chapter shows, as that chapter recorded it.

    Raises LookupError where there is no such chapter or figure.
    """
    path = folder(profile) / f"{chapter}.json"
    recorded = json.loads(path.read_text()).get("figures", {}) if path.exists() else {}
    if figure not in recorded:
        raise LookupError(f"no figure {figure!r} of {chapter!r}: allowed are {', '.join(recorded) or 'none'}")
    return pd.DataFrame(recorded[figure])


def _finite(name: str, *values: float) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has a value that is not finite: allowed are numbers")


def _new(name: str, recorded: dict) -> None:
    if name in recorded:
        raise ValueError(f"{name!r} is recorded already: allowed is a new name")
