"""Parameters, profiles and the results contract."""

import json

import jupytext
import pytest

from icl_lib import parameters, provenance, results
from icl_lib.chapters import load_chapters
from icl_lib.claims import Test
from icl_lib.intervals import Interval
from icl_lib.provenance import imported_modules, library_hash, module_closure


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(profile="desktop"), "profile = 'desktop': allowed is 'smoke' or 'laptop' or 'paper'"),
        (dict(sigma=-1), "sigma = -1: allowed is a number from 1e-06 to 100.0"),
        (dict(sigma="0.5x"), "sigma = '0.5x': allowed is a number"),
        (dict(sigma=True), "sigma = True: allowed is a number"),
        (dict(seeds=1), "seeds = 1: allowed is an integer from 2 to 1000"),
        (dict(seeds=2.0), "seeds = 2.0: allowed is an integer"),
        (dict(sigmas=0.5), r"sigmas = 0.5: allowed is a list that is not empty .*-y"),
        (dict(sigmas=[]), r"sigmas = \[\]: allowed is a list"),
        (dict(sigmas=[0.5, 0.5]), r"sigmas = \[0.5, 0.5\]: allowed is a list without repeats"),
        (dict(head_counts=[8]), r"head_counts = \[8\]: allowed is a rising list of two values or more"),
        (dict(head_counts=[8, 1]), r"head_counts = \[8, 1\]: allowed is a rising list"),
        (dict(sigmas=[0.5, -1]), "an item of sigmas = -1: allowed is a number"),
        (dict(profile=None), "profile = None: allowed is 'smoke'"),
        (dict(sigma=float("inf")), "sigma = inf: allowed is a number"),
        (dict(sgima=0.5), "sgima = 0.5: allowed are the parameters profile, seeds"),
    ],
)
def test_bad_parameters_are_one_clear_line(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        parameters.check(given)
    assert "\n" not in str(caught.value)


def test_profile_decides_what_is_none():
    smoke = parameters.resolve("01_task", "smoke", seeds=None, prompts=17, d=5)
    laptop = parameters.resolve("01_task", "laptop", seeds=None)
    assert (smoke.profile, smoke.prompts, smoke.d) == ("smoke", 17, 5)
    assert smoke.seeds < laptop.seeds


def test_a_chapters_table_wins(tmp_path, monkeypatch):
    file = tmp_path / "profiles.toml"
    file.write_text("[smoke.all]\nseeds = 3\nn = 7\n[smoke.01_task]\nseeds = 5\n")
    monkeypatch.setattr(parameters, "PROFILE_FILE", file)
    assert vars(parameters.resolve("01_task", "smoke", seeds=None, n=None))["seeds"] == 5
    assert parameters.resolve("02_other", "smoke", seeds=None).seeds == 3
    with pytest.raises(ValueError, match="d = None: profile 'smoke' sets no value for it in 01_task"):
        parameters.resolve("01_task", "smoke", d=None)


@pytest.mark.parametrize("name", load_chapters())
def test_every_chapter_has_known_parameters_with_values_in_every_profile(name):
    notebook = jupytext.reads(load_chapters()[name].text, fmt="md:myst")
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    defaults: dict = {}
    exec(cell.source, defaults)  # a cell of plain assignments
    del defaults["__builtins__"]
    assert defaults.pop("profile") == "laptop"
    for profile in parameters.PROFILES:
        settings = parameters.resolve(name, profile, **defaults)
        assert None not in vars(settings).values()


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_RESULTS", str(tmp_path))
    return results.begin("01_task", "smoke", seeds=None, d=5)[1]


def test_the_file_holds_what_was_recorded(record, tmp_path):
    interval = record.series("risk", [1, 2], [[1.0, 3.0], [3.0, 5.0]])
    assert interval.mean.tolist() == [2.0, 4.0]
    record.number("gain", 2.5)
    record.line("ridge", [1, 2], [4.0, 2.0])
    record.interval("ratio", Interval(0.5, 0.4, 0.6))
    line = record.claim(Test("A5.x", "ratio", "<=", 1.0, "why"), Interval(0.5, 0.4, 0.6))
    assert line == "A5.x: reproduced, 0.5 [0.4, 0.6], bar <= 1"
    record.save()
    (path,) = tmp_path.iterdir()
    contents = json.loads(path.read_text())
    assert path.name == "01_task.json"
    assert contents["parameters"] == {"profile": "smoke", "seeds": 3, "d": 5}
    series, line = contents["series"]
    assert line == {"name": "ridge", "x": [1, 2], "mean": [4.0, 2.0]}
    assert series.keys() == {"name", "x", "values", "mean", "low", "high"}
    assert series["values"] == [[1.0, 3.0], [3.0, 5.0]]
    assert contents["numbers"] == {"gain": 2.5, "ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6}
    (claim,) = contents["claims"]
    assert claim["threshold"] == 1.0
    assert claim["interval"] == [0.4, 0.6]
    assert claim["interval_kind"] == "95% interval over seeds"
    assert claim["statement"].startswith("For sparse weights")
    provenance = {"commit", "library", "settings", "seeds", "versions", "device", "seconds", "command"}
    assert contents["provenance"].keys() == provenance
    assert contents["provenance"]["command"].startswith("make chapter CHAPTER=01_task ARGS=")


def test_recording_twice_or_shapes_that_do_not_fit_is_an_error(record):
    record.number("gain", 2.5)
    with pytest.raises(ValueError, match="'gain' is recorded already"):
        record.number("gain", 3.0)
    with pytest.raises(ValueError, match=r"values \(2, 2\) do not fit x \(3,\)"):
        record.series("risk", [1, 2, 3], [[1.0, 3.0], [3.0, 5.0]])


def test_values_that_are_not_finite_are_refused_by_name(record):
    with pytest.raises(ValueError, match="gain has a value that is not finite"):
        record.number("gain", float("nan"))
    with pytest.raises(ValueError, match="risk has a value that is not finite"):
        record.series("risk", [1, 2], [[1.0, 3.0], [3.0, float("inf")]])
    with pytest.raises(ValueError, match=r"A5\.x has a value that is not finite"):
        record.claim(Test("A5.x", "ratio", "<=", 1.0, "why"), Interval(0.5, float("nan"), 0.6))


def test_a_chapter_must_test_its_claims(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_RESULTS", str(tmp_path))
    record = results.begin("03_construction", "smoke", seeds=None)[1]
    with pytest.raises(LookupError, match="03_construction has no test of claim A6"):
        record.save()
    assert list(tmp_path.iterdir()) == []


def test_results_of_the_paper_profile_or_a_place_for_them(record, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "home", lambda: tmp_path)
    assert "make paper-profile" in results.paper_profile("01_task")
    record.claim(Test("A5.x", "ratio", "<=", 1.0, "why"), Interval(0.5, 0.4, 0.6))
    record.save()
    path = provenance.paper_file("01_task")
    path.parent.mkdir(parents=True)
    (tmp_path / "01_task.json").rename(path)
    shown = results.paper_profile("01_task")
    assert "3 seeds, on " in shown
    assert "| A5.x | ratio | 0.5 [0.4,\N{NO-BREAK SPACE}0.6] | ≤\N{NO-BREAK SPACE}1 | <span" in shown
    assert shown.endswith("\N{NO-BREAK SPACE}reproduced |")
    contents = json.loads(path.read_text())
    path.write_text(json.dumps(contents | {"claims": [], "numbers": {"gain": 2.5}}))
    assert "| gain | 2.5 |" in results.paper_profile("01_task")


def test_library_hash_covers_what_is_imported():
    assert imported_modules("from icl_lib import tasks, store\nimport icl_lib.claims as c\nimport os") == {
        "tasks",
        "store",
        "claims",
    }
    assert imported_modules("from icl_lib.tasks import Task") == {"tasks"}
    assert module_closure(["claims"]) == ["checks", "claims", "intervals", "papers"]
    assert library_hash(["claims"]) == library_hash(["claims", "checks"]) != library_hash(["tasks"])
