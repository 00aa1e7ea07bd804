"""The verdicts of the published profile, committed: a build that finds another one says which, and fails.

A change of a verdict is a finding. `make verdicts` writes the file anew, and the commit says why.
"""

import tomllib
from collections.abc import Mapping

from icl_book.provenance import home

PROFILE = "laptop"
HEAD = """\
# What `make book` found: the verdict on every test of a claim, in the laptop profile. `make check` compares
# a build with it, `make verdicts` writes it anew. A change of a verdict is a finding, to be explained.
"""


def found(results: Mapping[str, Mapping]) -> dict[str, str]:
    """The verdict on every test, by its id, from the results files of all chapters."""
    verdicts = {test["id"]: test["verdict"] for contents in results.values() for test in contents["claims"]}
    return {name: verdicts[name] for name in sorted(verdicts, key=_place)}


def text(results: Mapping[str, Mapping]) -> str:
    """The ledger that these results would be."""
    lines, claim = [HEAD], ""
    for name, verdict in found(results).items():
        if name.split(".")[0] != claim:
            claim = name.split(".")[0]
            lines.append(f"\n[{claim}]\n")
        lines.append(f'"{name}" = "{verdict}"\n')
    return "".join(lines)


def committed() -> dict[str, str]:
    """The verdict on every test, by its id, as book/verdicts.toml has it; none where there is no checkout."""
    file = home() / "book" / "verdicts.toml"
    claims = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {name: verdict for claim in claims.values() for name, verdict in claim.items()}


def untrue(results: Mapping[str, Mapping]) -> list[str]:
    """A line for every sentence of the prose that states a result and is not true of these results."""
    return [
        f"{chapter}: no longer true: {sentence}"
        for chapter, contents in results.items()
        for sentence, true in contents.get("sentences", {}).items()
        if not true
    ]


def differences(results: Mapping[str, Mapping]) -> list[str]:
    """A line for every test whose verdict is not the committed one, or that only one of the two has."""
    before, now = committed(), found(results)
    return [
        f"{name}: {now.get(name, 'no test of it')}, and book/verdicts.toml has {before.get(name, 'none')}"
        for name in sorted(before.keys() | now.keys(), key=_place)
        if before.get(name) != now.get(name)
    ]


def _place(test: str) -> tuple[str, int, str]:
    """Paper, number of the claim, test: B2 comes before B10."""
    claim, _, name = test.partition(".")
    return claim[0], int(claim[1:]), name
