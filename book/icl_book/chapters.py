"""The chapters of the book: which there are, what decides their outputs, and running one of them.

A chapter is a page of `_toc.yml` whose header names a kernel; other pages are plain. A chapter that reads
the results of others says so in its header: `reads: all`, or `reads: [01_task]`; one that shows files of the
project names them: `shows: [requirements.txt]`. It writes its own results to `$ICL_RESULTS/<chapter>.json`
and finds the others' in `$ICL_BUILD/<profile>/results`.
"""

import ast
import difflib
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import jupytext
import nbformat
import papermill
import yaml
from nbformat import NotebookNode
from papermill.cli import papermill as papermill_command
from papermill.exceptions import PapermillExecutionError
from sphinx_external_toc.parsing import parse_toc_yaml

from icl_book import parameters
from icl_book.provenance import COMPUTE, ROOT, imported_modules, library_hash, meaning, paper_file

BOOK, TOC, LOCK = ROOT / "book", ROOT / "_toc.yml", ROOT / "requirements.lock"
CLAIMS = Path(__file__).with_name("claims.toml")
BUILD = Path(os.environ.get("ICL_BUILD") or ROOT / "_build").absolute()


class BookError(Exception):
    """Something that the reader can mend: shown as it is, without a traceback of the driver."""


@dataclass(frozen=True)
class Chapter:
    """An executed page: its name and text, the chapters whose results it reads, the files that it shows."""

    name: str
    text: str
    reads: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()

    def notebook(self) -> NotebookNode:
        """The chapter as a notebook, not executed."""
        notebook = jupytext.reads(self.text, fmt="md:myst")
        for number, cell in enumerate(notebook.cells):
            cell.id = f"{self.name}-{number}"  # not a new random one each time: pages stay the same
        return notebook

    def key(self, profile: str) -> str:
        """A hash of all that decides what the chapter prints and plots: of code, its meaning; no prose."""
        cells = [cell for cell in self.notebook().cells if cell.cell_type == "code"]
        try:
            modules = set().union(*(imported_modules(cell.source) for cell in cells))
            code = [meaning(cell.source) for cell in cells]
        except SyntaxError as error:
            raise BookError(f"{self.name}: not plain Python: {(error.text or '').strip()}") from error
        decided = parameters.decided_by(profile, self.name)
        paper = paper_file(self.name)
        claims = tomllib.loads(CLAIMS.read_text(encoding="utf-8"))
        judged = {name for name in claims if any(f"{name}." in cell.source for cell in cells)}
        parts = {
            "code": code,
            "profile": profile,
            "settings": {name: decided.get(name) for name in _parameters(cells)},
            "tests": {name: claims[name]["tests"] for name in judged},
            "library": library_hash(modules),
            "packages": [line for line in LOCK.read_text().split("\n") if line.split("==")[0] in COMPUTE],
            "reads": {name: results_file(profile, name).read_text() for name in self.reads},
            "shows": {name: (ROOT / name).read_text(encoding="utf-8") for name in self.shows},
            "paper profile": paper.read_text(encoding="utf-8") if paper.exists() else "",
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def parameters(self) -> dict[str, object]:
        """The parameters by name, as the chapter's first cell has them; None where the profile decides."""
        return _parameters(self.notebook().cells)

    def with_outputs(self, executed: NotebookNode) -> NotebookNode:
        """The chapter as it is written now, with the outputs of a run whose code means the same."""
        notebook = self.notebook()
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        ran = [cell for cell in executed.cells if cell.cell_type == "code" and not _injected(cell)]
        for cell, with_output in zip(cells, ran, strict=True):
            cell.outputs, cell.execution_count = with_output.outputs, with_output.execution_count
        # The values that were used stay where papermill put them: below the parameters.
        for place, cell in enumerate(notebook.cells):
            if "parameters" in cell.metadata.get("tags", []):
                notebook.cells[place + 1 : place + 1] = filter(_injected, executed.cells)
                break
        return notebook


def _parameters(cells: Iterable[NotebookNode]) -> dict[str, object]:
    own = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assigned = [node for cell in own for node in ast.parse(cell.source).body]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assigned}


def load_chapters() -> dict[str, Chapter]:
    """The book's chapters by name, in the order of the table of contents."""
    texts, reads, shows = {}, {}, {}
    for page in parse_toc_yaml(TOC):
        path = ROOT / f"{page}.md"
        if not path.exists():
            raise BookError(f"_toc.yml names {page}, and there is no {page}.md")
        text = path.read_text(encoding="utf-8")
        header = jupytext.reads(text, fmt="md:myst").metadata
        if "kernelspec" in header:
            texts[path.stem] = text
            reads[path.stem], shows[path.stem] = header.get("reads", []), tuple(header.get("shows", []))
    everyone_else = [name for name in texts if reads[name] != "all"]
    chapters = {}
    for name, text in texts.items():
        wanted = everyone_else if reads[name] == "all" else reads[name]
        for other in wanted:
            if other not in texts:
                raise BookError(f"{name} reads {other}: {no_such('chapter', other, texts)}")
        chapters[name] = Chapter(name, text, tuple(wanted), shows[name])
    return chapters


def results_file(profile: str, name: str) -> Path:
    """Where the book keeps a chapter's results."""
    return BUILD / profile / "results" / f"{name}.json"


def no_such(kind: str, name: str, allowed: Iterable[str]) -> str:
    """A line about a name that does not exist, with the one that was probably meant."""
    allowed = list(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"no {kind} {name!r}: {hint}allowed: {', '.join(allowed)}"


def run(name: str, flags: Sequence[str], folder: Path | None = None) -> int:
    """Run one chapter with papermill's flags; leave the executed notebook and its results in `folder`."""
    chapters = load_chapters()
    name = Path(name).stem
    if name not in chapters:
        raise BookError(no_such("chapter", name, chapters))
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / f"{name}.ipynb"
        nbformat.write(chapters[name].notebook(), source)
        given = read_flags(source, flags)
        if given is None:  # --help and the like
            return 0
        profile = given.get("profile", "laptop")
        missing = [other for other in chapters[name].reads if not results_file(profile, other).exists()]
        if missing:
            raise BookError(
                f"{name} reads the results of {', '.join(missing)}: type make book PROFILE={profile} first"
            )
        folder = (folder or BUILD / "runs" / run_name(name, given)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        notebook, results = folder / f"{name}.ipynb", folder / f"{name}.json"
        notebook.unlink(missing_ok=True)
        results.unlink(missing_ok=True)
        os.environ.update(kernel_environment(folder, Path(scratch)))
        try:
            call_papermill(source, notebook, flags)
        except PapermillExecutionError as error:
            report = f"{describe(name, error)}\nthe notebook up to there: {show(notebook)}"
            print(report, file=sys.stderr)
            return 1
    if not results.exists():
        print(f"{name}: wrote no results; a chapter ends by writing them", file=sys.stderr)
        return 1
    executed = nbformat.read(notebook, as_version=4)
    tidy(executed)
    nbformat.write(executed, notebook)
    print(f"executed notebook: {show(notebook)}", f"results: {show(results)}", sep="\n")
    return 0


def kernel_environment(folder: Path, scratch: Path) -> dict[str, str]:
    """What the kernel is told, so that a chapter gives the same results wherever it runs."""
    profile = scratch / "profile_default"  # a fresh one: the reader's IPython startup files stay out
    profile.mkdir()
    (profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 'CRITICAL'\n")
    return {
        "ICL_BUILD": str(BUILD),
        "ICL_RESULTS": str(folder),
        "IPYTHONDIR": str(scratch),
        # One thread: kernels run side by side, and sums do not depend on the number of cores.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",  # no progress bars on the pages
    }


def read_flags(source: Path, flags: Sequence[str]) -> dict[str, object] | None:
    """The parameters in papermill's flags, checked before a kernel starts; None if nothing is to run.

    papermill itself reads its flags: it prepares a notebook and notes the parameters there.
    """
    prepared = source.with_name("prepared.ipynb")
    logging.disable()  # papermill only warns about unknown names; they are refused below
    try:
        call_papermill(source, prepared, ["--prepare-only", *flags])
    except (click.ClickException, OSError, ValueError, yaml.YAMLError) as error:
        raise BookError(" ".join(f"papermill cannot read its flags: {error}".split())) from error
    finally:
        logging.disable(logging.NOTSET)
    if not prepared.exists():
        return None
    given = nbformat.read(prepared, as_version=4).metadata.papermill.parameters
    allowed = papermill.inspect_notebook(source)
    for name in given:
        if name not in allowed:
            raise BookError(f"{source.stem}: {no_such('parameter', name, allowed)}")
    check(given)
    return given


def check(given: dict[str, object]) -> None:
    """`parameters.check`, as a BookError."""
    try:
        parameters.check(given)
    except ValueError as error:
        raise BookError(str(error)) from error


def call_papermill(source: Path, target: Path, flags: Sequence[str]) -> None:
    """papermill's own command line, in this process; the flags may override ours."""
    ours = ["--kernel", "python3", "--cwd", str(BOOK), "--log-level", "WARNING"]
    args = [str(source), str(target), *ours, *flags]
    papermill_command.main(args, prog_name="papermill", standalone_mode=False)


def run_name(name: str, given: dict[str, object]) -> str:
    """A folder name that tells runs with different parameters apart."""
    label = "-".join([name, *(f"{key}={value}" for key, value in sorted(given.items()))])
    safe = re.sub(r"[^\w.=-]+", "_", label)
    if safe == label and len(safe) < 100:
        return safe
    return f"{safe[:80]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def describe(name: str, error: PapermillExecutionError) -> str:
    """Chapter, cell and the error's last line, then the traceback; a ValueError says all in its line."""
    line = f"{name}, cell {error.exec_count}: {error.ename}: {error.evalue}"
    return line if error.ename == "ValueError" else uncoloured("\n".join([line, *error.traceback]))


def uncoloured(text: str) -> str:
    """Text without a terminal's colour codes."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def tidy(notebook: NotebookNode) -> None:
    """Drop papermill's paths and times, and hide the cell that it injected."""
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
        part.metadata.pop("execution", None)
    for cell in filter(_injected, notebook.cells):
        cell.metadata.tags.append("remove-input")
        cell.id = "injected-parameters"  # not a new random one each time, as in `Chapter.notebook`


def _injected(cell: NotebookNode) -> bool:
    """Whether papermill put the cell there: the parameters that it was given."""
    return "injected-parameters" in cell.metadata.get("tags", [])


def show(path: Path) -> str:
    """A path as the reader would type it."""
    return os.path.relpath(path)
