"""The results contract: what every chapter writes, so that each number can be traced and made again.

_build/<profile>/results/<chapter>.json
    parameters   what the chapter ran with
    series       every curve: name, x, mean, and over seeds low, high, values (seeds, points)
    numbers      every number that the prose quotes
    claims       every test of a claim, with its threshold, value, interval and verdict
    figures      what every figure shows, by its name: a table as CSV
    provenance   commit, library hash, versions, device, seconds, the command that makes it again
"""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from icl_book import claims, figures, parameters, plotted
from icl_book.provenance import git_commit, home, library_hash, loaded_modules, paper_file, versions
from icl_lib.evaluation import Interval, t_interval


class Results:
    """Collects what a chapter finds; `save` writes the file."""

    def __init__(self, chapter: str, settings: SimpleNamespace):
        """`settings` as `parameters.resolve` gives them."""
        self._started = time.monotonic()
        self._chapter, self._settings = chapter, settings
        self._series: dict[str, dict] = {}
        self._numbers: dict[str, float] = {}
        self._claims: dict[str, dict] = {}
        self._figures: dict[str, str] = {}

    def series(self, name: str, x: ArrayLike, values: ArrayLike) -> Interval:
        """Record a curve, values (seeds, points) over x (points), and return what to plot."""
        _new(name, self._series)
        x, values = np.asarray(x), np.asarray(values, dtype=float)
        if values.shape[1:] != x.shape:
            raise ValueError(f"series {name}: values {values.shape} do not fit x {x.shape}")
        _finite(name, x, values)
        interval = t_interval(values)
        lists = {"x": x, "values": values, **interval._asdict()}
        self._series[name] = {"name": name} | {key: part.tolist() for key, part in lists.items()}
        return interval

    def line(self, name: str, x: ArrayLike, values: ArrayLike) -> None:
        """Record a curve without replicates, values (points) over x (points): a reference line."""
        _new(name, self._series)
        _finite(name, x, values)
        self._series[name] = {"name": name, "x": np.asarray(x).tolist(), "mean": np.asarray(values).tolist()}

    def number(self, name: str, value: float) -> None:
        """Record a number and glue it under its name, for the prose to quote."""
        from myst_nb import glue  # needed by the book alone

        _new(name, self._numbers)
        _finite(name, value)
        self._numbers[name] = float(value)
        glue(name, float(value), display=False)

    def interval(self, name: str, value: Interval) -> None:
        """Record a number and the ends of its interval: name, name_low, name_high."""
        for part, number in zip(("", "_low", "_high"), value, strict=True):
            self.number(name + part, number)

    def claim(self, test: claims.Criterion, value: Interval, kind: str = claims.OVER_SEEDS) -> str:
        """Record the verdict on a test and glue it as `verdict.<id>`; returns one line to print.

        `kind` says what the interval is, where it is another one: a range, say.
        """
        from myst_nb import glue

        _new(test.id, self._claims)
        _finite(test.id, *value)
        outcome = claims.verdict(test, value)
        self._claims[test.id] = asdict(test) | {
            "claim": test.claim,
            "value": float(value.mean),
            "interval": [float(value.low), float(value.high)],
            "interval_kind": kind,
            "verdict": outcome,
        }
        glue(f"verdict.{test.id}", outcome, display=False)
        return f"{test.id}: {outcome}, {value:.3g}, bar {test.sense} {test.threshold:.3g}"

    def figure(self, name: str, figure: Figure) -> None:
        """Record what a finished figure shows; its name is the one that the cell's metadata give it."""
        _new(name, self._figures)
        self._figures[name] = plotted.table(figure)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        given = {name: value for name, value in vars(self._settings).items() if name != "profile"}
        profile = self._settings.profile
        arguments = " ".join(f'-y "{name}: {json.dumps(value)}"' for name, value in given.items())
        contents = {
            "parameters": vars(self._settings),
            "series": list(self._series.values()),
            "numbers": self._numbers,
            "claims": list(self._claims.values()),
            "figures": self._figures,
            "provenance": {
                "commit": git_commit(),
                "library": library_hash(loaded_modules()),
                "settings": vars(self._settings),
                "seeds": getattr(self._settings, "seeds", None),
                "versions": versions(),
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
                "seconds": round(time.monotonic() - self._started, 2),
                "command": f"make chapter CHAPTER={self._chapter} ARGS='-p profile {profile} {arguments}'",
            },
        }
        path = folder(profile, writing=True) / f"{self._chapter}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(contents, indent=1, allow_nan=False))
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
    numbers = [f"| {name} | {value:.3g} |" for name, value in found["numbers"].items()]
    shown = (
        claims.rows(found["claims"])
        if found["claims"]
        else "\n".join(["| number | value |", "|---|---|", *numbers])
    )
    return "\n\n".join([made, shown])


def begin(chapter: str, profile: str, **given: object) -> tuple[SimpleNamespace, Results]:
    """Check a chapter's parameters before any computing; its settings, and the results to fill.

    Figures are in the book's style from here on.
    """
    figures.set_style()
    settings = parameters.resolve(chapter, profile, **given)
    return settings, Results(chapter, settings)


def _finite(name: str, *values: ArrayLike) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise ValueError(f"{name} has a value that is not finite: allowed are numbers")


def _new(name: str, recorded: dict) -> None:
    if name in recorded:
        raise ValueError(f"{name!r} is recorded already: allowed is a new name")
