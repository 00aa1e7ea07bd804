"""The examples of the README and of the page about the library run, with the research installation alone."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest

from icl_book.provenance import ROOT

# Refuses to import what `pip install .` would not bring, as an environment without the book does.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"{{name}} is no part of the research installation", name=name)
sys.meta_path.insert(0, Refuse())
"""


def examples(path) -> str:
    """All Python of a page, in order."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", (ROOT / path).read_text(), re.M | re.S))


def installed_with(package: str, found: set[str]) -> set[str]:
    """The package and all that it needs without extras, by their names in lower case."""
    name = re.match(r"[\w.-]+", package)[0].lower().replace("_", "-")
    if name not in found:
        found.add(name)
        for line in requires(name) or ():
            if "extra ==" not in line and not re.search(r"sys_platform|platform_system|cuda|nvidia", line):
                installed_with(line, found)
    return found


@pytest.fixture(scope="module")
def refused() -> set[str]:
    """Top-level modules that are installed here and that icl-lib does not bring."""
    needed = installed_with("icl-lib", set())
    owners = packages_distributions()
    return {
        module
        for module, packages in owners.items()
        if not {name.lower().replace("_", "-") for name in packages} & needed
    } | {"icl_book"}


def test_the_research_installation_is_small(refused):
    needed = installed_with("icl-lib", set())
    assert not needed & {"jupyter-book", "ipykernel", "pytest", "playwright", "ruff", "sphinx", "matplotlib"}
    assert {"pytest", "sphinx", "papermill", "matplotlib", "nbval"} <= refused


@pytest.mark.parametrize("page", ["README.md", "book/api.md"])
def test_examples_run(page, refused, tmp_path):
    code = examples(page)
    assert "evaluate(" in code
    assert examples("README.md") in code  # the page about the library has them, too
    shorter = re.sub(r"steps=\d+", "steps=10", code)
    command = [sys.executable, "-c", ALONE.format(refused=refused) + shorter]
    environment = {"ICL_CACHE": str(tmp_path), "TQDM_DISABLE": "1", "PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
