"""Running the driver of the book, for the tests."""

import os
import subprocess
import sys

from icl_lib.provenance import ROOT


def drive(*args, root=ROOT, **environment):
    """Run the driver of the checkout at `root`."""
    return subprocess.run(
        [sys.executable, "-m", "icl_lib.book", *map(str, args)],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": str(root),
            **{name: str(value) for name, value in environment.items()},
        },
        capture_output=True,
        text=True,
    )
