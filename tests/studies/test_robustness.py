"""Claims A1 to A3 over settings: shapes, measures, the worst setting, the table."""

import numpy as np
import pytest
from settings import PAPER_A

from icl_book import experiments
from icl_book.claims import Criterion
from icl_book.studies import robustness
from icl_lib import heads, store
from icl_lib.evaluation import Interval
from icl_lib.tasks import evaluation_prompts
from icl_lib.training import trimmed_mean

SETTING = PAPER_A | dict(layers=3, steps=12)
AT_MOST = Criterion("A7.A1", "a ratio", "<=", 1.0, "equal is 1")
AT_LEAST = Criterion("A7.A3", "a share", ">=", 0.8, "most of it")


def test_measures_by_hand():
    found = robustness.Evidence(
        H=4,
        risk={"one": np.array([4.0, 8.0]), "first": np.array([2.0, 5.0]), "all": np.array([2.0, 4.0])},
        effective={"all": np.array([[2.0, 1.0, 3.0], [4.0, 2.0, 1.0]])},
        least={},
    ).measures()
    assert {name: value.mean for name, value in found.items()} == pytest.approx(
        {"A1": 0.5, "A2-first": 0.75, "A2-later": 2.5, "A3": 0.875}
    )


@pytest.mark.parametrize("changes", [{}, {"attention": "softmax", "queries": 5}, {"layers": 2}])
def test_evidence_is_that_of_the_trained_models(tmp_path, monkeypatch, changes):
    monkeypatch.setenv("ICL_CACHE", str(tmp_path))
    found = robustness.evidence(SETTING, 2, 2, 20, **changes)
    layers = changes.get("layers", 3)
    ones, all_two = (1,) * layers, (2,) * layers
    assert robustness.shapes(2, layers) == {"one": ones, "first": (2, *ones[1:]), "all": all_two}
    trained = store.trained(experiments.training(SETTING, all_two, **changes), 2)[1]
    task, model = trained.settings.task, trained.settings.model
    weights = experiments.double(trained.weights)
    drawn = evaluation_prompts(task, 8, 20, experiments.SEED, changes.get("queries", 1))
    full, _, masked = heads.masking(model, weights, task, drawn)
    nothing = weights | {"w_out": 0 * weights["w_out"]}
    zero = trimmed_mean(model.excess_risk(nothing, task, drawn)).item()
    assert found.risk["all"][1] == pytest.approx(full)
    assert found.least["all"][1] == pytest.approx(min(masked[0]) / full)
    numbers = [heads.effective_number(heads.scaled(off, full, zero)) for off in masked]
    assert found.effective["all"][1] == pytest.approx(numbers)
    assert found.effective.keys() == set(robustness.SHAPES)
    assert all(values.shape == (2, layers) for values in found.effective.values())


def test_the_worst_setting_is_the_one_whose_interval_is_furthest_on_the_wrong_side():
    # d has the worst mean on both sides of a bar, but an interval too wide to say so
    found = {name: Interval(mean, mean - 1, mean + 1) for name, mean in (("a", 0.5), ("b", 0.9), ("c", 0.7))}
    found["d"] = Interval(1.2, -5.0, 7.4)
    assert robustness.worst(AT_MOST, found) == "b"
    assert robustness.worst(AT_LEAST, found) == "a"


def test_the_table_has_a_row_a_setting():
    found = {"base": {"A1": Interval(0.5, 0.4, 0.6), "A3": Interval(0.7, 0.5, 0.9)}}
    assert robustness.table({"A1": AT_MOST, "A3": AT_LEAST}, found).splitlines() == [
        "| setting | A1, bar ≤\N{NO-BREAK SPACE}1 | A3, bar ≥\N{NO-BREAK SPACE}0.8 |",
        "|---|---|---|",
        "| base | 0.50 [0.40, 0.60] *reproduced* | 0.70 [0.50, 0.90] *partly* |",
    ]
