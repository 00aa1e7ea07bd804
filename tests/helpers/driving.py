"""Running the driver of the book, for the tests; and copies of the checkout."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from icl_book.provenance import ROOT


def drive(*args, root=ROOT, **environment):
    """Run the driver of the checkout at `root`."""
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "book")])
    return subprocess.run(
        [sys.executable, "-m", "icl_book.build", *map(str, args)],
        cwd=root,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
    )


def copy_checkout(to: Path, folders: Iterable[str], files: Iterable[str]) -> None:
    """Copy a part of the checkout, without its pages."""
    for folder in folders:
        ignored = shutil.ignore_patterns("__pycache__", "*.md", "*.ipynb")
        shutil.copytree(ROOT / folder, to / folder, ignore=ignored)
    for file in files:
        shutil.copy(ROOT / file, to / file)
