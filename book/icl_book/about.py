"""Tables about the book itself: what its chapters took, and the machine, packages and sizes they ran with."""

import os
import platform
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from packaging.requirements import Requirement

from icl_book import frames
from icl_book.claims import NOT_REPRODUCED, REPRODUCED, UNDECIDED, signed
from icl_book.parameters import PROFILE_FILE, PROFILES
from icl_book.provenance import home

VERDICTS = (REPRODUCED, UNDECIDED, NOT_REPRODUCED)


def chapters(results: Mapping[str, Mapping]) -> str:
    """Markdown: each chapter's last run, by its results file, and the verdicts on its tests."""
    rows, total, counts = [], 0.0, np.zeros(4, dtype=int)
    for name, found in results.items():
        about, verdicts = found["provenance"], [test["verdict"] for test in found["claims"]]
        tests = np.array([len(verdicts), *map(verdicts.count, VERDICTS)])
        total, counts = total + about["seconds"], counts + tests
        row = [f"{_number(name)}. {{doc}}`{name}`", _time(about["seconds"]), found["parameters"]["profile"]]
        rows.append([*row, about["seeds"] or "", about["device"], *(count or "" for count in tests)])
    rows.append([f"**{len(rows)} chapters**", f"**{_time(total)}**", "", "", "", *counts])
    return _table(["chapter", "time", "profile", "seeds", "device", "tests", *map(signed, VERDICTS)], rows)


def versions(results: Mapping[str, Mapping]) -> str:
    """Markdown: the versions, device and commit of all chapters; what is not the same in all is in bold."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, contents in results.items():
        about = contents["provenance"]
        for part, used in {**about["versions"], **{key: about[key] for key in ("device", "commit")}}.items():
            found.setdefault(part, {}).setdefault(used, []).append(_number(name))
    rows = []
    for part, by_version in found.items():
        for used, names in by_version.items():
            rows.append(
                [part, used, "all"] if len(by_version) == 1 else [part, f"**{used}**", ", ".join(names)]
            )
    mixed = [part for part, by_version in found.items() if len(by_version) > 1]
    line = f"Not the same in all chapters: **{', '.join(mixed)}**." if mixed else "The same in all chapters."
    return f"{line}\n\n{_table(['part', 'version', 'chapters'], rows)}"


def settings(results: Mapping[str, Mapping]) -> str:
    """Markdown: the code that each chapter ran, and its settings."""
    rows = []
    for name, found in results.items():
        given = (f"{key} = {_plain(value)}" for key, value in found["parameters"].items())
        rows.append([f"{_number(name)}. `{found['provenance']['library']}`", ", ".join(given)])
    return _table(["library", "settings"], rows)


def machine() -> str:
    """Markdown: the machine and what computes on it, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    torch_blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    numpy_blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    rows = {
        "operating system": f"{_system()}, {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} logical cores",
        "memory": f"{memory:.0f} GiB",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "torch": f"{torch.__version__}, threads in a chapter: {torch.get_num_threads()}",
        "linear algebra of torch": torch_blas[1] if torch_blas else "unknown",
        "linear algebra of numpy": f"{numpy_blas['name']} {numpy_blas['version']}",
    }
    return _table(["part", "here"], list(rows.items()))


def packages() -> str:
    """Markdown: every package that requirements.txt names, as pinned and as installed."""
    rows, wrong = [], []
    for line in (home() / "requirements.txt").read_text().splitlines():
        if text := line.split("#")[0].strip():
            pinned = Requirement(text)
            try:
                found = version(pinned.name)
            except PackageNotFoundError:
                found = None
            if found is None or not pinned.specifier.contains(found, prereleases=True):
                wrong.append(pinned.name)
                found = f"**≠ {found or 'not installed'}**"
            rows.append([pinned.name, str(pinned.specifier).removeprefix("=="), found])
    line = f"{len(wrong)} not as pinned: {', '.join(wrong)}." if wrong else "All are installed as pinned."
    return f"{line}\n\n{_table(['package', 'pinned', 'installed'], rows)}"


def profiles(own: bool = False) -> str:
    """Markdown: the sizes of every profile: those for all chapters, or those of single ones (`own`)."""
    tables = tomllib.loads(PROFILE_FILE.read_text())
    flat = {profile: _flat(tables[profile]) for profile in PROFILES}
    names = list(dict.fromkeys(name for profile in PROFILES for name in flat[profile]))
    names = sorted((name for name in names if (name[0] != "all") == own), key=lambda name: name[0])
    rows = [
        [*([_number(name[0])] if own else []), f"`{'.'.join(name[1:])}`"]
        + [_plain(flat[profile].get(name, "")) for profile in PROFILES]
        for name in names
    ]
    return _table([*(["chapter"] if own else []), "setting", *PROFILES], rows)


def _flat(table: Mapping, *path: str) -> dict[tuple[str, ...], object]:
    """The leaves of nested tables by their paths."""
    leaves = {}
    for name, value in table.items():
        leaves |= _flat(value, *path, name) if isinstance(value, Mapping) else {(*path, name): value}
    return leaves


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return frames.markdown(pd.DataFrame(rows, columns=head), index=False)


def _number(chapter: str) -> str:
    """The number of a chapter, which its name starts with."""
    return str(int(chapter[:2])) if chapter[:2].isdigit() else chapter


def _plain(value: object) -> str:
    """A setting as a reader writes it."""
    if isinstance(value, Mapping):
        return f"({', '.join(f'{name} = {_plain(part)}' for name, part in value.items())})"
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, list) else str(value)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (f"{minutes} min {rest} s" if minutes else f"{rest} s").replace(" ", "\N{NO-BREAK SPACE}")


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.M) if info.exists() else []
    return Counter(models).most_common(1)[0][0] if models else platform.processor() or "unknown"
