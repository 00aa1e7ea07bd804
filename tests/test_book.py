"""The driver of the book: on the real chapters in the smoke profile, and on a small book of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from driving import drive

from icl_lib import chapters, provenance
from icl_lib.chapters import Chapter

ROOT = provenance.ROOT
VERDICTS = {"reproduced", "partly", "not reproduced", "not tested"}

# One worker builds the real book, once; the others go on with the rest.
real_book = pytest.mark.xdist_group("real book")


# ------------------------------------------------------------------------------- the real chapters


@pytest.fixture(scope="session")
def notebooks(build_root):
    """The executed notebooks of the real book."""
    return sorted((build_root / "smoke/src/book").glob("*.ipynb"))


@real_book
def test_every_page_is_built(build_root, notebooks):
    names = set(chapters.load_chapters())
    assert names == {path.stem for path in notebooks}
    assert names <= {path.stem for path in (build_root / "smoke/html/book").glob("*.html")}
    assert (build_root / "smoke/html/index.html").exists()


@real_book
def test_every_chapter_keeps_the_results_contract(build_root):
    for name in chapters.load_chapters():
        results = json.loads((build_root / "smoke/results" / f"{name}.json").read_text())
        assert results.keys() >= {"parameters", "series", "numbers", "claims", "provenance"}, name
        assert all(claim["verdict"] in VERDICTS for claim in results["claims"]), name


@real_book
def test_running_again_prints_the_same(build_root, notebooks, tmp_path):
    """nbval compares every printed output; pictures are not compared."""
    options = ["-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider", "-q", "--rootdir", build_root]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", *options, *notebooks],
        env={
            **os.environ,
            "ICL_BUILD": str(build_root),
            "ICL_RESULTS": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    cells = sum(
        cell.cell_type == "code" for path in notebooks for cell in nbformat.read(path, as_version=4).cells
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(rf"^{cells} passed", done.stdout, re.M), done.stdout[-500:]


@real_book
def test_building_again_runs_nothing(build_root, notebooks):
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


@real_book
def test_pages_load_nothing_from_elsewhere(build_root):
    html = build_root / "smoke/html"
    for page in (html / "book").glob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<script[^>]* src="([^"]+)"', text)
        loaded += re.findall(r'<link(?=[^>]* rel="(?:stylesheet|preload)")[^>]* href="([^"]+)"', text)
        assert len(loaded) > 5
        for address in loaded:
            assert (page.parent / address.split("?")[0]).resolve().is_file(), address


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
    ignored = shutil.ignore_patterns("__pycache__", "*.md", "*.ipynb")
    for folder in ("icl_lib", "book"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for file in ("_config.yml", "requirements.lock"):
        shutil.copy(ROOT / file, root / file)
    toc = "format: jb-book\nroot: book/00_first\nchapters: [{file: book/01_one}, {file: book/02_two}]\n"
    (root / "_toc.yml").write_text(toc)
    write_chapter(root, "00_first", extra="reads: all\n")
    write_chapter(root, "01_one")
    write_chapter(root, "02_two")
    return root


def drive_small(root, *args):
    return drive(*args, root=root, ICL_BUILD=root / "_build")


def test_a_failing_chapter_fails_the_build_and_the_rest_goes_on(small_book):
    place = small_book / "_build/smoke"
    write_chapter(small_book, "02_two", code="print(1)\n1 / 0")
    done = drive_small(small_book, "build", "--profile", "smoke")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "02_two, cell 3: ZeroDivisionError: division by zero"  # after the injected cell
    assert lines[-1] == "00_first: not run, it reads 02_two"
    kept = "the notebook up to there: _build/smoke/unfinished/02_two/02_two.ipynb"
    assert kept in lines
    assert (small_book / kept.split(": ")[1]).exists()
    assert [path.stem for path in (place / "src/book").iterdir()] == ["01_one"]
    assert json.loads((place / "results/01_one.json").read_text()) == {"profile": "smoke", "sigma": 0.5}
    assert not (place / "html").exists()

    write_chapter(small_book, "02_two", code="raise ValueError('sigma = -1: allowed is more')")
    done = drive_small(small_book, "build", "--profile", "smoke")
    assert done.stderr.splitlines()[0] == "02_two, cell 3: ValueError: sigma = -1: allowed is more"
    assert "Traceback" not in done.stderr

    write_chapter(small_book, "02_two", code="print('no results')")
    done = drive_small(small_book, "build", "--profile", "smoke")
    assert done.returncode == 1
    assert done.stderr.startswith("02_two: wrote no results")

    write_chapter(small_book, "02_two")
    done = drive_small(small_book, "build", "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    assert "01_one: unchanged" in done.stdout
    assert not any((place / "unfinished").iterdir())


def test_a_missing_number_fails_the_build(small_book):
    with (small_book / "book/01_one.md").open("a") as file:
        file.write("\nThe risk is {glue:text}`risk:.2f`.\n")
    done = drive_small(small_book, "build", "--profile", "smoke")
    assert done.returncode == 1
    assert "risk" in done.stderr.splitlines()[1]
    assert not (small_book / "_build/smoke/html").exists()


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


def test_chapters_cannot_read_each_other_in_a_circle(small_book):
    write_chapter(small_book, "01_one", extra="reads: [02_two]\n")
    write_chapter(small_book, "02_two", extra="reads: [01_one]\n")
    done = drive_small(small_book, "build", "--profile", "smoke")
    assert done.returncode == 2
    assert done.stderr.startswith("chapters read each other in a circle: ")


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


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of three modules: `a` imports `b`, `c` stands alone."""
    package = tmp_path / "icl_lib"
    package.mkdir()
    (package / "a.py").write_text("from icl_lib import b\n")
    (package / "b.py").write_text("x = 1\n")
    (package / "c.py").write_text("y = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    monkeypatch.setattr(chapters, "BUILD", tmp_path / "build")
    provenance._imports_of.cache_clear()
    yield package
    provenance._imports_of.cache_clear()


def chapter(code, reads=()):
    return Chapter("01_one", HEADER.format(name="one", code=code, extra=""), reads)


def test_an_edit_of_the_library_makes_stale_what_imports_it(library):
    uses_a, uses_c = chapter("from icl_lib.a import b"), chapter("import icl_lib.c")
    before = uses_a.key("smoke"), uses_c.key("smoke")
    assert before == (uses_a.key("smoke"), uses_c.key("smoke"))
    (library / "b.py").write_text("x = 2\n")
    after = uses_a.key("smoke"), uses_c.key("smoke")
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_the_profile_the_text_and_the_results_read_make_stale(library):
    results = chapters.results_file("smoke", "02_two")
    results.parent.mkdir(parents=True)
    results.write_text("1")
    reader = chapter("import icl_lib.c", reads=("02_two",))
    keys = {reader.key("smoke"), chapter("import icl_lib.c").key("smoke")}
    keys |= {chapter("import icl_lib.c").key("laptop"), chapter("import icl_lib.c # x").key("smoke")}
    results.write_text("2")
    keys.add(reader.key("smoke"))
    assert len(keys) == 5
