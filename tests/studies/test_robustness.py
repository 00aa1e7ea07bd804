"""Claims A1 to A3 over settings: shapes, what models show, verdicts, the worst setting."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from settings import PAPER_A

from icl_book import experiments
from icl_book.studies import robustness
from icl_lib import heads
from icl_lib.tasks import evaluation_prompts
from icl_lib.training import run, trimmed_mean

SETTING = replace(PAPER_A, layers=3, steps=12)


@pytest.mark.parametrize("changes", [{}, {"attention": "softmax", "queries": 5}, {"layers": 2}])
def test_evidence_is_that_of_the_trained_models(changes):
    layers = changes.get("layers", 3)
    ones, all_two = (1,) * layers, (2,) * layers
    shapes = robustness.shapes(2, layers)
    assert shapes == {"one": ones, "first": (2, *ones[1:]), "all": all_two}
    models = {
        ("base", shape): run(experiments.training(SETTING, heads, **changes), 2)
        for shape, heads in shapes.items()
    }
    risks, numbers = robustness.evidence(models, 8, 20)
    assert risks[["setting", "shape", "seed"]].apply(tuple, axis=1).tolist() == [
        ("base", shape, seed) for shape in shapes for seed in (0, 1)
    ]
    trained = models["base", "all"][1]
    task, model = trained.settings.task, trained.settings.model
    weights = experiments.double(trained.weights)
    drawn = evaluation_prompts(task, 8, 20, experiments.SEED, changes.get("queries", 1))
    full, _, masked = heads.masking(model, weights, task, drawn)
    nothing = weights | {"w_out": 0 * weights["w_out"]}
    zero = trimmed_mean(model.excess_risk(nothing, task, drawn)).item()
    (row,) = risks[(risks["shape"] == "all") & (risks.seed == 1)].itertuples()
    assert row.risk == pytest.approx(full)
    assert row.least == pytest.approx(min(masked[0]) / full)
    expected = [heads.effective_number(heads.scaled(off, full, zero)) for off in masked]
    rows = numbers[(numbers["shape"] == "all") & (numbers.seed == 1)]
    assert rows.effective.tolist() == pytest.approx(expected)
    assert rows.layer.tolist() == list(range(1, layers + 1))
    assert len(numbers) == 2 * 3 * layers
    first = numbers[(numbers["shape"] == "first") & (numbers.seed == 0)]
    assert first.H.tolist() == [2, *ones[1:]]


def test_every_setting_is_judged_on_the_scale_and_in_the_range_of_the_test():
    index = pd.MultiIndex.from_product([["b", "a"], [0, 1]], names=["setting", "seed"])
    measures = pd.DataFrame({"A1": [0.5, 0.6, 0.9, 1.5], "A2-first": [0.5, 0.6, 0.9, 0.95]}, index)
    found = robustness.judged(measures).set_index(["measure", "setting"])
    assert list(found.index) == [("A1", "b"), ("A1", "a"), ("A2-first", "b"), ("A2-first", "a")]
    assert found["mean"].tolist() == pytest.approx([np.sqrt(0.3), np.sqrt(1.35), 0.55, 0.925])
    assert found.threshold.tolist() == [1.0, 1.0, 0.6, 0.6]
    assert found.verdict["A1", "a"] == found.verdict["A2-first", "b"] == "undecided"
    assert found.high["A2-first", "a"] == 1  # a share of all heads


def test_the_worst_setting_is_the_one_whose_interval_is_furthest_on_the_wrong_side():
    # d has the worst mean on both sides of a threshold, but an interval too wide to say so
    found = pd.DataFrame({"setting": list("abcd"), "mean": [0.5, 0.9, 0.7, 1.2]})
    found["low"], found["high"] = found["mean"] - 1, found["mean"] + 1
    found.loc[3, ["low", "high"]] = -5.0, 7.4
    found = pd.concat([found.assign(measure=measure) for measure in ("A1", "A3")])
    assert robustness.worst(found, "A1") == "b"  # at most
    assert robustness.worst(found, "A3") == "a"  # at least
