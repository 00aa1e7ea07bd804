"""The driver of the book: on the real chapters in the smoke profile, and on a small book of its own."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from driving import copy_checkout, drive

from icl_book import chapters, provenance
from icl_book.chapters import Chapter
from icl_book.provenance import imported_modules, library_hash, module_closure

ROOT = provenance.ROOT
PROFILES = "book/icl_book/profiles.toml"

# One worker builds the real book, once; the others go on with the rest.
real_book = pytest.mark.xdist_group("real book")


# ------------------------------------------------------------------------------- the real chapters


@pytest.fixture(scope="session")
def notebooks(build_root):
    """The executed notebooks of the real book."""
    return sorted((build_root / "smoke/src/book").glob("*.ipynb"))


@real_book
def test_running_again_prints_the_same(build_root, notebooks, tmp_path):
    """nbval compares every printed output; pictures are not compared."""
    options = ["-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider", "-q", "--rootdir", build_root]
    command = [sys.executable, "-m", "pytest", "--nbval", *options, *notebooks]
    environment = {"ICL_BUILD": str(build_root), "ICL_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    found = [cell for path in notebooks for cell in nbformat.read(path, as_version=4).cells]
    cells = sum(cell.cell_type == "code" for cell in found)
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(rf"^{cells} passed", done.stdout, re.M), done.stdout[-500:]


@real_book
def test_building_again_runs_nothing(build_root, notebooks):
    assert {path.stem for path in notebooks} == set(chapters.load_chapters())
    before = {path: path.read_bytes() for path in notebooks}
    done = drive("build", "--profile", "smoke", ICL_BUILD=build_root)
    unchanged = [f"{path.stem}: unchanged" for path in notebooks]
    assert sorted(done.stdout.splitlines()[:-1]) == sorted(unchanged)
    assert before == {path: path.read_bytes() for path in notebooks}


@real_book
def test_nothing_names_this_machine(build_root, notebooks):
    pages = list((build_root / "smoke/html").rglob("*.html"))
    paths = [str(ROOT), str(build_root), sys.prefix, str(Path.home()) + "/", tempfile.gettempdir() + "/"]
    for file in [*notebooks, *pages, *(build_root / "smoke/results").iterdir()]:
        text = file.read_text()
        assert not [path for path in paths if path in text], file.name


# ------------------------------------------------------------------------------ a book of its own

HEADER = """---
kernelspec: {{display_name: Python 3, language: python, name: python3}}
{extra}---
# {name}

```{{code-cell}} ipython3
:tags: [parameters]
profile = "laptop"
sigma = 0.5
```

```{{code-cell}} ipython3
{code}
```
"""
WRITE = """import json, os
from pathlib import Path
Path(os.environ["ICL_RESULTS"], "{name}.json").write_text(json.dumps({{"profile": profile, "sigma": sigma}}))
print("profile", profile)"""


def write_chapter(root, name, code=WRITE, extra=""):
    text = HEADER.format(name=name, code=code.format(name=name), extra=extra)
    (root / "book" / f"{name}.md").write_text(text)


@pytest.fixture
def small_book(tmp_path):
    """A checkout with this library, two chapters, and a first page that reads both."""
    root = tmp_path / "checkout"
    copy_checkout(root, ["icl_lib", "book"], ["_config.yml", "requirements.lock"])
    toc = "format: jb-book\nroot: book/00_first\nchapters: [{file: book/01_one}, {file: book/02_two}]\n"
    (root / "_toc.yml").write_text(toc)
    write_chapter(root, "00_first", extra="reads: all\n")
    write_chapter(root, "01_one")
    write_chapter(root, "02_two")
    return root


def drive_small(root, *args):
    return drive(*args, root=root, ICL_BUILD=root / "_build")


def build(root, returncode=0):
    done = drive_small(root, "build", "--profile", "smoke")
    assert done.returncode == returncode, done.stderr
    return done


def test_a_failing_chapter_a_missing_number_or_a_circle_fails_the_build(small_book):
    place = small_book / "_build/smoke"
    write_chapter(small_book, "02_two", code="print(1)\n1 / 0")
    done = build(small_book, 1)
    lines = done.stderr.splitlines()
    assert lines[0] == "02_two, cell 3: ZeroDivisionError: division by zero"  # after the injected cell
    assert lines[-1] == "00_first: not run, it reads 02_two"
    assert "the notebook up to there: _build/smoke/unfinished/02_two/02_two.ipynb" in lines
    assert (place / "unfinished/02_two/02_two.ipynb").exists()
    assert [path.stem for path in (place / "executed").iterdir()] == ["01_one"]
    assert json.loads((place / "results/01_one.json").read_text()) == {"profile": "smoke", "sigma": 0.5}
    assert not (place / "html").exists()

    write_chapter(small_book, "02_two", code="raise ValueError('sigma = -1: allowed is more')")
    done = build(small_book, 1)
    assert done.stderr.splitlines()[0] == "02_two, cell 3: ValueError: sigma = -1: allowed is more"
    assert "Traceback" not in done.stderr

    write_chapter(small_book, "02_two", code="print('no results')")
    done = build(small_book, 1)
    assert done.stderr.startswith("02_two: wrote no results")

    write_chapter(small_book, "02_two")
    with (small_book / "book/01_one.md").open("a") as file:
        file.write("\nThe risk is {value}`risk:.2f`.\n")
    assert "value 'risk:.2f': the results of 01_one have no such" in build(small_book, 1).stderr
    assert not (place / "html").exists()

    write_chapter(small_book, "01_one")
    assert "01_one: unchanged" in build(small_book).stdout
    assert not any((place / "unfinished").iterdir())

    write_chapter(small_book, "01_one", extra="reads: [02_two]\n")
    write_chapter(small_book, "02_two", extra="reads: [01_one]\n")
    assert build(small_book, 2).stderr.startswith("chapters read each other in a circle: ")


def test_a_run_is_kept_apart_from_the_book(small_book):
    done = drive_small(small_book, "run", "01_one", "-p", "sigma", "2", "-y", "profile: smoke")
    assert done.returncode == 0, done.stderr
    folder = small_book / "_build/runs/01_one-profile=smoke-sigma=2"
    assert f"executed notebook: {folder.relative_to(small_book)}/01_one.ipynb" in done.stdout
    assert json.loads((folder / "01_one.json").read_text()) == {"profile": "smoke", "sigma": 2}
    cells = nbformat.read(folder / "01_one.ipynb", as_version=4).cells
    injected = [cell for cell in cells if "injected-parameters" in cell.metadata.tags]
    assert [cell.metadata.tags for cell in injected] == [["injected-parameters", "remove-input"]]
    assert [path.name for path in (small_book / "_build").iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["build", "--profile", "smok"], "profile = 'smok': allowed is 'smoke' or 'laptop' or 'paper'"),
        (["build", "--jobs", "0"], "jobs = 0: allowed is an integer >= 1"),
        (["run", "01_on"], "no chapter '01_on': did you mean 01_one? allowed: 00_first, 01_one, 02_two"),
        (["run", "01_one", "-p", "sgma", "1"], "01_one: no parameter 'sgma': did you mean sigma? allowed:"),
        (["run", "01_one", "-p", "sigma", "-1"], "sigma = -1: allowed is a number from"),
        (["run", "01_one", "-p", "sigma", "much"], "sigma = 'much': allowed is a number from"),
        (["run", "01_one", "-y", "sigma: [1]"], "sigma = [1]: allowed is a number from"),
        (["run", "01_one", "-p", "profile", "big"], "profile = 'big': allowed is 'smoke' or"),
        (["run", "01_one", "-p", "sigma"], "papermill cannot read its flags: Option '-p' requires 2"),
        (["run", "01_one", "-f", "none.yml"], "papermill cannot read its flags:"),
    ],
)
def test_bad_input_gets_one_line_before_anything_runs(small_book, args, line):
    done = drive_small(small_book, *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert not (small_book / "_build").exists()


def test_plain_jupyter_book_says_what_to_type(small_book):
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "."]
    done = subprocess.run(command, cwd=small_book, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("Type: make book")
    assert "Traceback" not in done.stderr


def test_notebooks_are_not_executed(small_book):
    assert drive_small(small_book, "notebooks").returncode == 0
    written = sorted((small_book / "_build/notebooks").iterdir())
    assert [path.name for path in written] == ["00_first.ipynb", "01_one.ipynb", "02_two.ipynb"]
    for path in written:
        codes = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert len(codes) == 2
        assert all(cell.execution_count is None and not cell.outputs for cell in codes)


# ------------------------------------------------------------------------------- what makes stale


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def ran(root):
    """Which chapters a build ran."""
    said = dict(re.findall(r"^(0\d_\w+): (.*)$", build(root).stdout, re.M))
    assert said.keys() == {"00_first", "01_one", "02_two"}
    return {name for name, what in said.items() if what != "unchanged"}


def test_edits_that_mean_nothing_run_nothing_and_pages_show_them(small_book):
    (small_book / "requirements.txt").write_text("")
    code = "from icl_lib import checks\nchecks.integer('n', 1)\n" + WRITE
    write_chapter(small_book, "01_one", code=code + "\nprint(len('the output'))")
    assert ran(small_book) == {"00_first", "01_one", "02_two"}
    page, chapter = small_book / "_build/smoke/html/book/01_one.html", small_book / "book/01_one.md"
    before = page.read_text()
    checks, profiles = small_book / "icl_lib/checks.py", small_book / PROFILES
    edit(checks, '"""One clear line', '# A comment.\n\n"""Another docstring; one clear line')
    edit(chapter, "# 01_one", "# The first chapter")
    edit(chapter, "checks.integer('n', 1)", "checks.integer( 'n',1 )  # in other words")
    edit(profiles, "[laptop.all]\nseeds = 8", "[laptop.all]\nseeds = 9")
    edit(profiles, "[smoke.04_head_counts]\nseeds = 2", "[smoke.04_head_counts]\nseeds = 3")
    edit(small_book / "requirements.lock", "\nruff==", "\nruff==9.")
    assert ran(small_book) == set()
    after = page.read_text()
    assert "The first chapter" in after
    assert "in other words" in after
    assert "The first chapter" not in before
    assert before.count("\n10\n") == after.count("\n10\n") == 1  # the output is kept
    edit(checks, "low <= value <= high", "low <= value < high + 1")
    last = ran(small_book)
    assert "01_one" in last
    assert "02_two" not in last


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of both packages, the lock and the profiles, that keys are taken of."""
    copy_checkout(tmp_path, ["icl_lib", "book/icl_book"], ["requirements.lock", "requirements.txt"])
    packages = {"icl_lib": tmp_path / "icl_lib", "icl_book": tmp_path / "book/icl_book"}
    monkeypatch.setattr(provenance, "PACKAGES", packages)
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "LOCK", tmp_path / "requirements.lock")
    monkeypatch.setattr(chapters, "BUILD", tmp_path / "build")
    monkeypatch.setattr(chapters, "CLAIMS", tmp_path / "book/icl_book/claims.toml")
    monkeypatch.setattr(chapters.parameters, "PROFILE_FILE", tmp_path / PROFILES)
    provenance.imported_modules.cache_clear()
    yield tmp_path
    provenance.imported_modules.cache_clear()


def chapter(code, **more):
    return Chapter("04_head_counts", HEADER.format(name="one", code=code, extra=""), **more)


TRAINS = chapter("from icl_book import experiments, results\nfrom icl_lib import store")
SHOWS_CLAIMS = chapter("from icl_book import papers", shows=("book/icl_book/claims.toml",))
JUDGES = chapter('verdict = {"A1.symmetric": 0.5}')


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("icl_lib/training.py", "BETA_1, BETA_2", "# Of Adam.\nBETA_1, BETA_2", ""),
        ("icl_lib/training.py", '"""The learning rate of a step', '"""What a step is multiplied by', ""),
        ("icl_lib/training.py", "CHUNK = 16  #", "CHUNK = (\n    16\n)  #", ""),
        ("icl_lib/training.py", "BETA_2, EPSILON = 0.9, ", "BETA_2, EPSILON = 0.8, ", "trains claims"),
        ("icl_lib/circuits.py", "DUMMY = 0.1", "DUMMY = 0.2", ""),
        ("book/icl_book/claims.toml", "At fixed depth more heads", "At one depth more heads", "claims"),
        (
            "book/icl_book/claims.toml",
            'at_most = 0.6\nreason = "a clear',
            'at_most = 0.7\nreason = "a clear',
            "claims judges",
        ),
        (
            "book/icl_book/claims.toml",
            'at_least = 1.25\nreason = "far worse',
            'at_least = 1.5\nreason = "far worse',
            "claims",
        ),
        (PROFILES, "[laptop.04_head_counts]\nseeds = 3", "[laptop.04_head_counts]\nseeds = 4", ""),
        (PROFILES, "[smoke.05_head_importance]\nseeds = 2", "[smoke.05_head_importance]\nseeds = 3", ""),
        ("requirements.lock", "\nruff==", "\nruff==9.", ""),
        ("requirements.lock", "\ntorch==", "\ntorch==9.", "trains claims judges"),
    ],
)
def test_what_an_edit_makes_stale(project, file, old, new, stale):
    kinds = {"trains": TRAINS, "claims": SHOWS_CLAIMS, "judges": JUDGES}
    before = {name: one.key("smoke") for name, one in kinds.items()}
    edit(project / file, old, new)
    assert {name for name, one in kinds.items() if one.key("smoke") != before[name]} == set(stale.split())


def test_a_chapter_is_stale_when_its_own_settings_code_or_sources_change(project):
    results = chapters.results_file("smoke", "02_two")
    results.parent.mkdir(parents=True)
    results.write_text("1")
    code = "from icl_lib import checks"
    uses = HEADER.format(name="one", code=code, extra="").replace("sigma = 0.5", "seeds = None")
    reader = Chapter("04_head_counts", uses, reads=("02_two",), shows=("requirements.txt",))
    keys = [reader.key("smoke"), *(Chapter("04_head_counts", uses).key(p) for p in ("smoke", "laptop"))]
    keys.append(Chapter("04_head_counts", uses.replace(code, code + ", tasks")).key("smoke"))
    for file, old, new in (
        (results, "1", "2"),
        (project / "requirements.txt", "torch==", "torch>="),
        (project / PROFILES, "[smoke.04_head_counts]\nseeds = 2", "[smoke.04_head_counts]\nseeds = 3"),
        (project / "icl_lib/checks.py", "def integer(", "def whole(low):\n    return low\n\n\ndef integer("),
    ):
        edit(file, old, new)
        keys.append(reader.key("smoke"))
    assert len(set(keys)) == len(keys)


def test_relative_dotted_and_handed_on_imports_are_followed(project):
    package = project / "icl_lib"
    (package / "inner").mkdir()
    (package / "inner/__init__.py").write_text("")
    (package / "inner/deep.py").write_text("from ..checks import integer\nfrom . import side\n")
    (package / "inner/side.py").write_text("x = 1\n")
    provenance.imported_modules.cache_clear()
    inner = ["icl_lib", "icl_lib.checks", "icl_lib.inner", "icl_lib.inner.deep", "icl_lib.inner.side"]
    assert module_closure(imported_modules("import icl_lib.inner.deep")) == inner
    estimators = ["icl_lib", "icl_lib.checks", "icl_lib.estimators", "icl_lib.tasks"]
    assert module_closure(["icl_lib.estimators"]) == estimators
    assert {"icl_book", "icl_book.claims", *estimators} <= set(module_closure(["icl_book.claims"]))
    for source, modules in (
        ("from icl_lib import tasks, store\nimport os", {"icl_lib.tasks", "icl_lib.store"}),
        ("from icl_lib.tasks import Task\nimport icl_book.claims as c", {"icl_lib.tasks", "icl_book.claims"}),
        ("from icl_lib import importance", {"icl_lib.heads"}),
        ("from icl_lib.training import train", {"icl_lib.training"}),
        ("import icl_book.studies.plateau as p", {"icl_book.studies.plateau"}),
        ("from torch import nn", set()),
    ):
        assert imported_modules(source) == modules
    claims, tasks = "icl_book.claims", "icl_lib.tasks"
    assert library_hash([claims]) == library_hash([claims, "icl_lib.checks"]) != library_hash([tasks])
