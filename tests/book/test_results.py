"""Parameters, profiles and the results contract."""

import json
import math

import pytest

from icl_book import parameters, provenance, results
from icl_book.chapters import load_chapters
from icl_book.claims import Criterion
from icl_lib.evaluation import Interval


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
        (dict(positive={"sigma": -1}), "sigma = -1: allowed is a number from"),
        (dict(positive={"sgima": 1}), "sgima in positive: allowed are the parameters d, s"),
        (dict(positive={"seeds": 5}), "seeds in positive: allowed are the parameters d, s"),
        (dict(positive=0.5), "positive = 0.5: allowed is a table of parameters"),
        (dict(positive={"n_range": [8]}), r"n_range = \[8\]: allowed is a list of two lengths"),
        (dict(positive={"n_range": [8, 4]}), "the high end of n_range = 4: allowed is an integer >= 8"),
        (dict(positive={"weights": "cauchy"}), "weights = 'cauchy': allowed is 'gaussian' or"),
    ],
)
def test_bad_parameters_are_one_clear_line(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        parameters.check(given)
    assert "\n" not in str(caught.value)


def test_profile_decides_what_is_none_and_the_rest_of_a_table(tmp_path, monkeypatch):
    smoke = parameters.resolve("01_task", "smoke", seeds=None, prompts=17, d=5)
    laptop = parameters.resolve("01_task", "laptop", seeds=None)
    assert (smoke.profile, smoke.prompts, smoke.d) == ("smoke", 17, 5)
    assert smoke.seeds < laptop.seeds
    run = parameters.resolve("04_head_counts", "smoke", positive={"sigma": 1.0})
    rest = parameters.resolve("04_head_counts", "smoke", positive=None)
    assert run.positive == rest.positive | {"sigma": 1.0}
    file = tmp_path / "profiles.toml"  # in which a chapter's table wins
    file.write_text("[smoke.all]\nseeds = 3\nn = 7\n[smoke.01_task]\nseeds = 5\n")
    monkeypatch.setattr(parameters, "PROFILE_FILE", file)
    assert vars(parameters.resolve("01_task", "smoke", seeds=None, n=None))["seeds"] == 5
    assert parameters.resolve("02_other", "smoke", seeds=None).seeds == 3
    with pytest.raises(ValueError, match="d = None: profile 'smoke' sets no value for it in 01_task"):
        parameters.resolve("01_task", "smoke", d=None)


@pytest.mark.parametrize("name", load_chapters())
def test_every_chapter_has_known_parameters_with_values_in_every_profile(name):
    cells = load_chapters()[name].notebook().cells
    cell = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    defaults: dict = {}
    exec(cell.source, defaults)  # a cell of plain assignments
    del defaults["__builtins__"]
    assert defaults.pop("profile") == "laptop"
    for profile in parameters.PROFILES:
        settings = parameters.resolve(name, profile, **defaults)
        assert None not in vars(settings).values()


TEST, VALUE = Criterion("A5.x", "ratio", "<=", 1.0, "why"), Interval(0.5, 0.4, 0.6)


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_RESULTS", str(tmp_path))
    return results.begin("01_task", "smoke", seeds=None, d=5)[1]


def test_the_file_holds_what_was_recorded(record, tmp_path):
    interval = record.series("risk", [1, 2], [[1.0, 3.0], [3.0, 5.0]])
    assert interval.mean.tolist() == [2.0, 4.0]
    record.number("gain", 2.5)
    record.line("ridge", [1, 2], [4.0, 2.0])
    record.interval("ratio", VALUE)
    assert record.claim(TEST, VALUE) == "A5.x: reproduced, 0.5 [0.4, 0.6], bar <= 1"
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
    test = {"id": "A5.x", "claim": "A5", "metric": "ratio", "sense": "<=", "threshold": 1.0, "reason": "why"}
    found = {"value": 0.5, "interval": [0.4, 0.6], "interval_kind": "95% interval over seeds"}
    assert contents["claims"] == [test | found | {"verdict": "reproduced"}]
    provenance = {"commit", "library", "settings", "seeds", "versions", "device", "seconds", "command"}
    assert contents["provenance"].keys() == provenance
    assert contents["provenance"]["command"].startswith("make chapter CHAPTER=01_task ARGS=")


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("number", ("gain", 3.0), "'gain' is recorded already"),
        ("series", ("risk", [1, 2, 3], [[1.0, 3.0], [3.0, 5.0]]), r"values \(2, 2\) do not fit x \(3,\)"),
        ("number", ("loss", math.nan), "loss has a value that is not finite"),
        ("series", ("risk", [1, 2], [[1.0, 3.0], [3.0, math.inf]]), "risk has a value that is not finite"),
        ("claim", (TEST, Interval(0.5, math.nan, 0.6)), r"A5\.x has a value that is not finite"),
    ],
)
def test_what_cannot_be_recorded_is_refused_by_name(record, method, arguments, message):
    record.number("gain", 2.5)
    with pytest.raises(ValueError, match=message):
        getattr(record, method)(*arguments)


def test_results_of_the_paper_profile_or_a_place_for_them(record, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "home", lambda: tmp_path)
    assert "make paper-profile" in results.paper_profile("01_task")
    record.claim(TEST, VALUE)
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
