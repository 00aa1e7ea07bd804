"""Runs the book's scripts in Node, for tests that hold them to the library."""

import json
import shutil
import subprocess

import pytest

from icl_lib.provenance import ROOT

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
