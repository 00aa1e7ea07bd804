"""The roles with which the prose quotes what its chapter found.

{value}`name:.2f` is a number, or the mean of an interval; {interval}`name:.2f` has the interval's ends, too.
The name may be a test's, as in {value}`A1.symmetric:.2f`; {verdict}`A1.symmetric` is its verdict. All of it
comes from the chapter's results file, which the driver lays into _static/downloads.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx.application import Sphinx

DOWNLOADS = "_static/downloads"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the roles."""
    for name, text in {"value": value, "interval": interval, "verdict": verdict}.items():
        app.add_role(name, _role(text))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def value(found: dict, name: str, spec: str) -> str:
    """A number, or the mean of an interval; `name_low` and `name_high` are the ends of that of `name`."""
    numbers = _numbers(found)
    for end, place in {"": 0, "_low": 1, "_high": 2}.items():
        number = numbers.get(name.removesuffix(end))
        if isinstance(number, list) and name.endswith(end):
            return format(number[place], spec)
    return format(numbers[name], spec)


def interval(found: dict, name: str, spec: str) -> str:
    """A mean and the ends of its interval."""
    mean, low, high = (format(number, spec) for number in _numbers(found)[name])
    return f"{mean} [{low},\N{NO-BREAK SPACE}{high}]"


def verdict(found: dict, name: str, spec: str) -> str:
    """The verdict on a test."""
    return {test["id"]: test["verdict"] for test in found["claims"]}[name]


def _numbers(found: dict) -> dict[str, float | list[float]]:
    """What can be quoted: numbers by their names, tests by their ids."""
    return found["numbers"] | {test["id"]: [test["value"], *test["interval"]] for test in found["claims"]}


def _role(text: Callable[[dict, str, str], str]) -> Callable:
    def role(kind: str, raw: str, content: str, line: int, inliner: Inliner, *_: object) -> tuple[list, list]:
        environment = inliner.document.settings.env
        chapter = environment.docname.split("/")[-1]
        name, _, spec = content.partition(":")
        try:
            found = _results(Path(environment.srcdir) / "book" / DOWNLOADS / f"{chapter}.json")
            return [nodes.Text(text(found, name, spec))], []
        except (OSError, LookupError, TypeError, ValueError) as error:
            problem = f"{kind} {content!r}: the results of {chapter} have no such ({error!r})"
            return [], [inliner.reporter.error(problem, line=line)]

    return role


@cache
def _results(file: Path) -> dict:
    return json.loads(file.read_text())
