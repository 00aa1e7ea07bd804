"""What stands beside the figures of the built book, and what can be downloaded from it."""

import json
import re
import subprocess
import sys
from html import unescape

import nbformat
import pytest
from driving import copy_checkout
from sources import figure_cells

from icl_book import chapters, results
from icl_book.claims import SIGNS


@pytest.mark.parametrize("name", chapters.load_chapters())
def test_every_chapter_has_its_results_and_every_figure_its_data_and_how_it_was_made(name, pages):
    page = (pages / "book" / f"{name}.html").read_text()
    downloads = pages / "_static/downloads"
    found = json.loads((downloads / f"{name}.json").read_text())
    figures = [figure for figure, _ in figure_cells(chapters.load_chapters()[name])]
    assert found.keys() >= {"parameters", "numbers", "sentences"}
    assert {claim["verdict"] for claim in found["claims"]} <= SIGNS.keys()
    assert list(found["figures"]) == figures
    note = r'<figure[^>]* id="([^"]+)">.*?</figure>\s*<details class="made-by">(.*?)</details>'
    notes = dict(re.findall(note, page, re.S))
    assert list(notes) == figures
    for figure, note in notes.items():
        assert len((downloads / f"{figure}.csv").read_text().splitlines()) > 1, figure
        assert f'href="../_static/downloads/{figure}.csv"' in note
        for said in ("commit", "library", "device", "command"):
            assert found["provenance"][said] in unescape(note), said


def test_a_downloaded_notebook_runs_outside_the_book(pages, tmp_path):
    """With the project installed and no checkout in sight."""
    source, library, elsewhere = (tmp_path / part for part in ("source", "library", "elsewhere"))
    elsewhere.mkdir()
    files = ["pyproject.toml", "requirements.txt", "README.md", "LICENSE"]
    copy_checkout(source, ["icl_lib", "book/icl_book"], files)
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
