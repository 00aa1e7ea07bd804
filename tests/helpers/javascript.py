"""Runs the book's scripts in Node, for tests that hold them to the library."""

import json
import shutil
import subprocess

import pytest
import torch

from icl_book.provenance import ROOT
from icl_lib.tasks import Prompts

SCRIPTS = ROOT / "book/_static/explorables"

_LOAD = """
const { readFileSync } = require("fs"), { runInThisContext } = require("vm");
const { files, script, data } = JSON.parse(readFileSync(0, "utf8"));
for (const file of files) runInThisContext(readFileSync(file, "utf8"), { filename: file });
const found = new Function("data", script)(data);
const plain = (_, value) => (value instanceof Float64Array ? [...value] : value);
process.stdout.write(JSON.stringify(found, plain));
"""


def run(name: str, script: str, data: object) -> object:
    """What the body of a function of `data` returns in Node, with math.js and the script of an explorable."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the explorables' mathematics is not compared with the library")
    files = [str(SCRIPTS / f"{part}.js") for part in ("math", name)]
    message = json.dumps({"files": files, "script": script, "data": data})
    done = subprocess.run(["node", "-e", _LOAD], input=message, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FIELDS = ("x", "y", "w", "asked")  # of a prompt


def rows(prompts: Prompts) -> list[dict[str, list]]:
    """Prompts as the explorables have them, each by itself."""
    parts = zip(prompts.x, prompts.y, prompts.w, prompts.x_query, strict=True)
    return [{name: part.tolist() for name, part in zip(FIELDS, one, strict=True)} for one in parts]


def stacked(rows: list[dict[str, list]], n: int | None = None) -> Prompts:
    """An explorable's prompts as the library's, cut to n pairs; one that asks nothing asks at its x."""
    lists = [[one.get(name, one["x"]) for one in rows] for name in FIELDS]
    x, y, w, asked = (torch.tensor(values, dtype=torch.float64) for values in lists)
    n = n or x.shape[1]
    return Prompts(x[:, :n], y[:, :n], w, torch.full((len(x),), n), asked)
