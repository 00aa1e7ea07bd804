"""What stands beside the figures of the built book, and what can be downloaded from it."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html import unescape

import nbformat
import pytest
from sources import figure_cells

from icl_lib import chapters, results
from icl_lib.provenance import ROOT


@pytest.mark.parametrize("chapter", chapters.load_chapters().values(), ids=lambda chapter: chapter.name)
def test_every_figure_is_recorded_under_its_name(chapter):
    for name, source in figure_cells(chapter):
        assert f'record.figure("{name}", figure)' in source, name


@pytest.mark.parametrize("name", chapters.load_chapters())
def test_every_figure_has_its_data_and_how_it_was_made(name, pages):
    page = (pages / "book" / f"{name}.html").read_text()
    downloads = pages / "_static/downloads"
    found = json.loads((downloads / f"{name}.json").read_text())
    figures = [figure for figure, _ in figure_cells(chapters.load_chapters()[name])]
    assert list(found["figures"]) == figures
    notes = dict(
        re.findall(
            r'<figure[^>]* id="([^"]+)">.*?</figure>\s*<details class="made-by">(.*?)</details>', page, re.S
        )
    )
    assert list(notes) == figures
    for figure, note in notes.items():
        with (downloads / f"{figure}.csv").open() as file:
            assert list(csv.DictReader(file)), figure
        assert f'href="../_static/downloads/{figure}.csv"' in note
        for said in ("commit", "library", "device", "command"):
            assert found["provenance"][said] in unescape(note), said


def test_a_downloaded_notebook_runs_outside_the_book(pages, tmp_path):
    """With the project installed and no checkout in sight."""
    source, library, elsewhere = (tmp_path / part for part in ("source", "library", "elsewhere"))
    source.mkdir()
    elsewhere.mkdir()
    shutil.copytree(ROOT / "icl_lib", source / "icl_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", library, source]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    notebook = pages / "_static/downloads/01_task.ipynb"
    papermill = ["papermill", "-k", "python3", "-p", "profile", "smoke", "--no-progress-bar"]
    done = subprocess.run(
        [sys.executable, "-m", *papermill, notebook, "executed.ipynb"],
        cwd=elsewhere,
        env={"PYTHONPATH": str(library), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(elsewhere / "executed.ipynb", as_version=4).cells
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", ()))
    assert (elsewhere / "_build/smoke/results/01_task.json").exists()


def test_a_notebook_that_reads_others_says_so_when_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_BUILD", str(tmp_path))
    with pytest.raises(LookupError, match="no results of profile 'smoke' here"):
        results.load_all("smoke")
