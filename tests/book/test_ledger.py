"""The committed verdicts: what differs from a build is named, and the file is that of the results."""

import tomllib

import pytest

from icl_book import ledger

FOUND = {
    "B10.split": "undecided",
    "A5.ridge": "reproduced",
    "B2.sum": "reproduced",
    "A5.ols": "not reproduced",
}


def results(verdicts):
    """Results files of two chapters with these tests."""
    tests = [{"id": name, "verdict": verdict} for name, verdict in verdicts.items()]
    return {"01_task": {"claims": tests[:1]}, "02_other": {"claims": tests[1:]}}


@pytest.fixture
def committed(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "home", lambda: tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "book/verdicts.toml").write_text(ledger.text(results(FOUND)))
    return tomllib.loads((tmp_path / "book/verdicts.toml").read_text())


def test_the_ledger_has_every_test_in_the_order_of_the_claims(committed):
    assert list(committed) == ["A5", "B2", "B10"]
    assert committed["A5"] == {"A5.ols": "not reproduced", "A5.ridge": "reproduced"}
    assert ledger.differences(results(FOUND)) == []


def test_what_differs_is_named(committed):
    now = FOUND | {"A5.ridge": "undecided", "B7.new": "reproduced"}
    del now["B2.sum"]
    assert ledger.differences(results(now)) == [
        "A5.ridge: undecided, and book/verdicts.toml has reproduced",
        "B2.sum: no test of it, and book/verdicts.toml has reproduced",
        "B7.new: reproduced, and book/verdicts.toml has none",
    ]


def test_a_sentence_that_is_no_longer_true_is_named():
    found = {"04_one": {"sentences": {"more is better": True, "it saturates": False}}, "05_two": {}}
    assert ledger.untrue(found) == ["04_one: no longer true: it saturates"]


def test_without_a_checkout_there_are_no_committed_verdicts(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "home", lambda: tmp_path)
    assert ledger.committed() == {}
