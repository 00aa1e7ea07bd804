"""Parameters, profiles and the results contract."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from icl_book import parameters, provenance, results
from icl_book.chapters import load_chapters
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
    assert run.positive == replace(rest.positive, sigma=1.0)
    assert run.positive.given()["layers"] == rest.positive.layers
    assert "curriculum_mean" not in run.positive.given()
    file = tmp_path / "profiles.toml"  # in which a chapter's table wins
    file.write_text("[smoke.all]\nseeds = 3\nn = 7\n[smoke.01_task]\nseeds = 5\n")
    monkeypatch.setattr(parameters, "PROFILE_FILE", file)
    assert parameters.resolve("01_task", "smoke", seeds=None, n=None).seeds == 5
    assert parameters.resolve("02_other", "smoke", seeds=None).seeds == 3
    with pytest.raises(ValueError, match="d = None: profile 'smoke' sets no value for it in 01_task"):
        parameters.resolve("01_task", "smoke", d=None)


def test_a_table_lacks_nothing(tmp_path, monkeypatch):
    file = tmp_path / "profiles.toml"
    file.write_text("[smoke.all]\none_layer = { d = 3 }\n")
    monkeypatch.setattr(parameters, "PROFILE_FILE", file)
    with pytest.raises(ValueError, match="one_layer lacks noise, n, steps, keep_every, batch, lr: allowed"):
        parameters.resolve("10_any", "smoke", one_layer=None)


def test_settings_name_what_they_have_and_show_it():
    run = parameters.resolve("01_task", "smoke", seeds=None, d=5, positive={"sigma": 1.0})
    with pytest.raises(AttributeError, match="no parameter 'sigma': allowed are seeds, d, positive"):
        run.sigma  # noqa: B018
    assert run.plain()["positive"]["sigma"] == 1.0
    lines = run._repr_markdown_().splitlines()
    assert lines[0] == "| parameter | value, profile `smoke` |"
    assert lines[3] == "| `d` | 5 |"
    assert "sigma = 1.0" in lines[4]


@pytest.mark.parametrize("name", load_chapters())
def test_every_chapter_has_known_parameters_with_values_in_every_profile(name):
    defaults = load_chapters()[name].parameters()
    assert defaults.pop("profile") == "laptop"
    for profile in parameters.PROFILES:
        settings = parameters.resolve(name, profile, **defaults)
        assert settings.values.keys() == defaults.keys()
        assert None not in settings.values.values()


def test_a_settings_cell_can_be_run_again(monkeypatch):
    monkeypatch.setattr(results, "_PARAMETERS", {})
    notebook = {"profile": "smoke", "d": 5}
    first, _ = results.begin("01_task", notebook)
    again, _ = results.begin("01_task", notebook | {"n": [8, 16], "sigma": "later"})
    assert first == again


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_RESULTS", str(tmp_path))
    monkeypatch.setattr(results, "_PARAMETERS", {})
    return results.begin("01_task", {"profile": "smoke", "seeds": None, "d": 5, "np": math, "_x": 1})[1]


def test_a_series_is_quoted_by_the_parts_of_its_keys(record, tmp_path):
    two = pd.Series([2.5, 3.5], pd.MultiIndex.from_tuples([("positive", 4), ("symmetric", 8)]))
    record.quote(gain=two, ratio=pd.Series({"all": Interval(0.5, 0.4, 0.6)}))
    record.save()
    numbers = json.loads((tmp_path / "01_task.json").read_text())["numbers"]
    assert numbers == {"gain_positive_4": 2.5, "gain_symmetric_8": 3.5, "ratio_all": [0.5, 0.4, 0.6]}
    with pytest.raises(ValueError, match="'ratio_all' is recorded already"):
        record.quote(ratio=pd.Series({"all": 1.0}))


def test_the_file_holds_what_was_recorded(record, tmp_path, monkeypatch):
    frame = pd.DataFrame({"n": [7, 11], "seed": pd.array([0, None], dtype="Int64"), "risk": [0.5, math.nan]})
    record.figure("fig-risk", frame, pd.DataFrame({"n": [13], "method": ["ridge"]}))
    record.quote(gain=pd.Series({"all": 2.5}), ratio=Interval(0.5, 0.4, 0.6))
    record.holds("more is better", np.bool_(True))
    shown = record.judge({"A1.symmetric": [0.25, 0.25], "B7.fate": Interval(0.8, 0.7, 0.9)})
    assert "**A1.symmetric** risk of most heads" in shown.data
    record.save()
    (path,) = tmp_path.iterdir()
    contents = json.loads(path.read_text())
    assert path.name == "01_task.json"
    assert contents["parameters"] == {"profile": "smoke", "seeds": 3, "d": 5}
    assert contents["numbers"] == {"gain_all": 2.5, "ratio": [0.5, 0.4, 0.6]}
    assert contents["sentences"] == {"more is better": True}
    assert contents["figures"]["fig-risk"] == {
        "n": [7, 11, 13],
        "seed": [0, None, None],
        "risk": [0.5, None, None],
        "method": [None, None, "ridge"],
    }
    ratio, share = contents["claims"]
    assert (ratio["id"], ratio["claim"], ratio["verdict"]) == ("A1.symmetric", "A1", "reproduced")
    assert (ratio["sense"], ratio["threshold"], ratio["seeds"]) == ("<=", 0.6, [0.25, 0.25])
    assert [ratio["value"], *ratio["interval"]] == pytest.approx([0.25] * 3)
    assert share["interval_kind"] == "95% Wilson interval over trainings"
    provenance = {"commit", "library", "settings", "seeds", "versions", "device", "seconds", "command"}
    assert contents["provenance"].keys() == provenance
    assert contents["provenance"]["command"].startswith("make chapter CHAPTER=01_task ARGS=")
    monkeypatch.setattr(results, "folder", lambda profile: tmp_path)
    again = results.frame("01_task", "fig-risk", "smoke")
    assert again.n.tolist() == [7, 11, 13]
    with pytest.raises(LookupError, match="no figure 'fig-x' of '01_task': allowed are fig-risk"):
        results.frame("01_task", "fig-x", "smoke")


def test_no_interval_leaves_the_range_of_its_quantity(record):
    """Of 0.1, 0.2 and 0.95 the t interval is 0.417 +- 1.15; an effective number over H is from 0 to 1."""
    record.judge({"A2.first-positive": [0.1, 0.2, 0.95]})
    test = record._tests["A2.first-positive"]
    assert test["interval"] == [0.0, 1.0]
    assert test["value"] == pytest.approx(1.25 / 3)
    record.judge({"A7.A2-later": Interval(3.0, 0.5, 7.0)}, kind="of the worst setting")
    assert record._tests["A7.A2-later"]["interval"] == [1.0, 7.0]
    assert record._tests["A7.A2-later"]["interval_kind"] == "of the worst setting"


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("quote", dict(gain=3.0), "'gain' is recorded already"),
        ("quote", dict(loss=math.nan), "loss has a value that is not finite"),
        ("judge", dict(values={"A1.ridge": [0.5, math.inf]}), r"A1\.ridge has a value that is not finite"),
        ("judge", dict(values={"A1.ridge": Interval(0.5, math.nan, 0.6)}), r"A1\.ridge has a value that"),
        ("figure", dict(name="fig-empty"), "fig-empty shows nothing: allowed are frames with rows"),
    ],
)
def test_what_cannot_be_recorded_is_refused_by_name(record, method, arguments, message):
    record.quote(gain=2.5)
    arguments = dict(arguments)
    empty = [arguments.pop("name"), pd.DataFrame({"x": []})] if method == "figure" else []
    with pytest.raises(ValueError, match=message):
        getattr(record, method)(*empty, **arguments)


def test_results_of_the_paper_profile_or_a_place_for_them(record, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "home", lambda: tmp_path)
    assert "make paper-profile" in results.paper_profile("01_task")
    record.judge({"A1.ridge": Interval(0.5, 0.4, 0.6)})
    record.save()
    path = provenance.paper_file("01_task")
    path.parent.mkdir(parents=True)
    (tmp_path / "01_task.json").rename(path)
    shown = results.paper_profile("01_task")
    assert "3 seeds, on " in shown
    assert "**A1.ridge** risk of most heads / ridge's, random signs, curriculum | 0.5 [0.4," in shown
    contents = json.loads(path.read_text())
    path.write_text(json.dumps(contents | {"claims": [], "numbers": {"gain": 2.5, "ratio": [3, 2, 4]}}))
    assert "| gain | 2.5 |" in results.paper_profile("01_task")
    assert "| ratio | 3 [2,\N{NO-BREAK SPACE}4] |" in results.paper_profile("01_task")
