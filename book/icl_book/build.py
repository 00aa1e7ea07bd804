"""The driver of the book: runs the chapters whose meaning changed, then renders the pages.

python -m icl_book.build build --profile laptop
python -m icl_book.build run 01_task -p sigma 0.5
python -m icl_book.build notebooks
python -m icl_book.build plan
python -m icl_book.build verdicts

_build/<profile>/ has executed/ (notebooks as they ran), results/, src/ (what Jupyter Book reads: chapters as
they are written now with the outputs of their runs) and html/.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat
from filelock import FileLock, Timeout

from icl_book import ledger, parameters
from icl_book.chapters import (
    BOOK,
    BUILD,
    LOCK,
    TOC,
    BookError,
    Chapter,
    check,
    load_chapters,
    results_file,
    run,
    show,
    uncoloured,
)
from icl_book.provenance import ROOT

CONFIG = ROOT / "_config.yml"


def build(profile: str, jobs: int) -> int:
    """Bring the book of a profile up to date: its chapters, then its pages."""
    check({"profile": profile})
    if jobs < 1:
        raise BookError(f"jobs = {jobs}: allowed is an integer >= 1")
    chapters = load_chapters()
    place = BUILD / profile
    place.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place / ".lock", timeout=0):
            # Of chapters that are no more: pages about all chapters would read them.
            for kept in (*(place / "results").glob("*.json"), *(place / "executed").glob("*.ipynb")):
                if kept.stem not in chapters:
                    kept.unlink()
            return refresh_all(chapters, profile, jobs) or render(chapters, place)
    except Timeout as error:
        raise BookError(f"another build of profile {profile!r} is running") from error


def refresh_all(chapters: dict[str, Chapter], profile: str, jobs: int) -> int:
    """Run every stale chapter, each after those that it reads; 1 if any failed."""
    order = TopologicalSorter({name: chapter.reads for name, chapter in chapters.items()})
    try:
        order.prepare()
    except CycleError as error:
        raise BookError(f"chapters read each other in a circle: {', '.join(error.args[1])}") from error
    # Those that most others wait for first, then later ones, which train longer: short ones fill the gaps.
    readers = Counter(name for chapter in chapters.values() for name in chapter.reads)
    places = {name: place for place, name in enumerate(chapters)}
    failed, running, ready = set(), {}, []
    with ThreadPoolExecutor(jobs) as pool:
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=lambda name: (readers[name], places[name]))
            while ready and len(running) < jobs:
                name = ready.pop()
                running[pool.submit(refresh, chapters[name], profile, failed)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    print(f"{name}: {future.result()}", flush=True)
                except BookError as error:
                    failed.add(name)
                    print(error, file=sys.stderr, flush=True)
                order.done(name)
    return 1 if failed else 0


def refresh(chapter: Chapter, profile: str, failed: set[str]) -> str:
    """Run a chapter if it is stale; its notebook and results take their places only if it succeeds.

    Returns how long it took, and which sentences of the prose are no longer true. Raises BookError with the
    whole report if it failed.
    """
    missing = sorted(failed.intersection(chapter.reads))
    if missing:
        raise BookError(f"{chapter.name}: not run, it reads {', '.join(missing)}")
    place = BUILD / profile
    notebook, results = executed_file(place, chapter.name), results_file(profile, chapter.name)
    key = chapter.key(profile)
    if results.exists() and stored_key(notebook) == key:
        return "unchanged"
    work = place / "unfinished" / chapter.name
    flags = ["--no-progress-bar"] + (["-p", "profile", profile] if profile != "laptop" else [])
    command = [sys.executable, "-m", "icl_book.build", "run", "--folder", work, chapter.name, *flags]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = round(time.perf_counter() - start, 1)
    if done.returncode:
        raise BookError(done.stderr.strip() or f"{chapter.name}: ended with exit code {done.returncode}")
    executed = nbformat.read(work / notebook.name, as_version=4)
    executed.metadata["book"] = {"key": key, "seconds": seconds}
    nbformat.write(executed, work / notebook.name)
    for target in (results, notebook):  # the notebook last: its key vouches for both
        target.parent.mkdir(parents=True, exist_ok=True)
        (work / target.name).replace(target)
    shutil.rmtree(work)
    found = {chapter.name: json.loads(results.read_text(encoding="utf-8"))}
    untrue = ledger.untrue(found) if profile == ledger.PROFILE else []  # whose results the prose is of
    return "\n".join([f"{seconds} s", *untrue])


def executed_file(place: Path, name: str) -> Path:
    """Where a chapter's notebook is kept as it ran."""
    return place / "executed" / f"{name}.ipynb"


def stored_key(notebook: Path) -> str | None:
    """The key of an executed notebook; None if there is none that can be read."""
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["book"]["key"]
    except (OSError, ValueError, KeyError):
        return None


def render(chapters: dict[str, Chapter], place: Path) -> int:
    """Build the pages with Jupyter Book, unless nothing changed since they were built."""
    source, html, scratch = place / "src", place / "html", place / "unfinished/html"
    stage(chapters, place)
    digest = hashlib.sha256()
    extensions = sorted((BOOK / "_ext").glob("*.py"))
    sources = sorted(path for path in source.rglob("*") if path.is_file())
    for path in (CONFIG, TOC, LOCK, *extensions, *sources):
        digest.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    stamp = html / ".key"
    if not stamp.exists() or stamp.read_text() != digest.hexdigest():
        shutil.rmtree(scratch, ignore_errors=True)
        command = [Path(sys.executable).with_name("jupyter-book"), "build", source, "--config", CONFIG]
        command += ["--toc", TOC, "--path-output", scratch, "--all", "-W", "-n", "--keep-going"]
        environment = {**os.environ, "ICL_DRIVER": "1"}  # book/_ext refuses a build without it
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            report = uncoloured(done.stderr.strip() or done.stdout)
            print("the pages were not built:", report, sep="\n", file=sys.stderr)
            return 1
        shutil.rmtree(html, ignore_errors=True)
        (scratch / "_build/html").replace(html)
        shutil.rmtree(scratch)
        stamp.write_text(digest.hexdigest())
        print(f"pages: {time.perf_counter() - start:.1f} s")
    print(f"the book: {show(html / 'index.html')}")
    return 0


def stage(chapters: dict[str, Chapter], place: Path) -> None:
    """Make what Jupyter Book reads: the chapters with their outputs, the rest of book/, and the downloads."""
    folder = place / "src/book"
    shutil.rmtree(folder, ignore_errors=True)
    texts = [f"{name}.md" for name in chapters]
    ignored = shutil.ignore_patterns("_ext", "icl_book", "data", "*.ipynb", "verdicts.toml", ".*", *texts)
    shutil.copytree(BOOK, folder, ignore=ignored)
    for name, chapter in chapters.items():
        executed = nbformat.read(executed_file(place, name), as_version=4)
        nbformat.write(chapter.with_outputs(executed), folder / f"{name}.ipynb")
    downloads = folder / "_static/downloads"
    notebooks(chapters, downloads)
    for name in chapters:
        results = place / "results" / f"{name}.json"
        shutil.copy(results, downloads)
        for figure, frame in json.loads(results.read_text()).get("figures", {}).items():
            (downloads / f"{figure}.csv").write_text(as_csv(frame), encoding="utf-8")


def as_csv(frame: dict[str, list]) -> str:
    """A frame of a results file as CSV, numbers to six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(frame)
    for row in zip(*frame.values(), strict=True):
        writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in row)
    return text.getvalue()


def notebooks(chapters: dict[str, Chapter], folder: Path) -> None:
    """Write every chapter as a plain notebook, not executed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, chapter in chapters.items():
        nbformat.write(chapter.notebook(), folder / f"{name}.ipynb")


def plan(profile: str) -> int:
    """List the trainings of a profile that the store lacks."""
    from icl_book import plan  # with torch, which takes seconds to import

    check({"profile": profile})
    settings = {
        name: parameters.resolve(name, **{**chapter.parameters(), "profile": profile})
        for name, chapter in load_chapters().items()
        if name in plan.CHAPTERS
    }
    print(plan.report(plan.listing(settings)))
    return 0


def verdicts(profile: str, write: bool) -> int:
    """Compare the verdicts of a build with the committed ones, or write these; 1 if they differ.

    A sentence of the prose that is no longer true is a difference, too.
    """
    from icl_book.results import load_all  # with torch, which takes seconds to import

    if profile != ledger.PROFILE:
        print(f"verdicts: not compared, book/verdicts.toml is of the {ledger.PROFILE} profile")
        return 0
    try:
        results = load_all(profile)
    except LookupError as error:
        raise BookError(str(error)) from error
    if write:
        (BOOK / "verdicts.toml").write_text(ledger.text(results), encoding="utf-8")
    differing = ledger.differences(results) + ledger.untrue(results)
    print("\n".join(differing) or f"verdicts: all {len(ledger.found(results))} as in book/verdicts.toml")
    return 1 if differing else 0


def main() -> int:
    """Read the command line. Exit code 2: nothing was run; 1: something failed."""
    parser = argparse.ArgumentParser(prog="python -m icl_book.build", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="run the chapters that changed and build the pages")
    command.add_argument("--profile", default="laptop")
    command.add_argument("--jobs", type=int, default=os.cpu_count(), help="chapters side by side")
    command = commands.add_parser("run", help="run one chapter with papermill's flags")
    command.add_argument("--folder", type=Path, help="where to (default: a folder of _build/runs)")
    command.add_argument("chapter")
    command.add_argument("flags", nargs=argparse.REMAINDER, help="such as -p sigma 0.5, or --help")
    commands.add_parser("notebooks", help="write the chapters as plain notebooks")
    command = commands.add_parser("plan", help="list the trainings that the store lacks")
    command.add_argument("--profile", default="laptop")
    command = commands.add_parser("verdicts", help="compare the verdicts with those that are committed")
    command.add_argument("--profile", default="laptop")
    command.add_argument("--write", action="store_true", help="commit to those of this build")
    args = parser.parse_args()
    try:
        if args.command == "build":
            return build(args.profile, args.jobs)
        if args.command == "run":
            return run(args.chapter, args.flags, args.folder)
        if args.command == "plan":
            return plan(args.profile)
        if args.command == "verdicts":
            return verdicts(args.profile, args.write)
        notebooks(load_chapters(), BUILD / "notebooks")
        print(f"notebooks: {show(BUILD / 'notebooks')}")
        return 0
    except BookError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
