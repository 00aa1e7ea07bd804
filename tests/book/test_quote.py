"""The roles with which the prose quotes results."""

import importlib.util

import pytest

from icl_book.provenance import ROOT

spec = importlib.util.spec_from_file_location("quote", ROOT / "book/_ext/quote.py")
quote = importlib.util.module_from_spec(spec)
spec.loader.exec_module(quote)

TEST = {"id": "A1.symmetric", "value": 0.25, "interval": [0.125, 0.5], "verdict": "reproduced"}
FOUND = {"numbers": {"heads": 8.0, "ratio": [0.5, 0.25, 1.0], "sigma_low": 0.1}, "claims": [TEST]}


@pytest.mark.parametrize(
    ("role", "name", "spec", "text"),
    [
        ("value", "heads", ".0f", "8"),
        ("value", "ratio", ".1%", "50.0%"),
        ("value", "ratio_low", ".2f", "0.25"),
        ("value", "ratio_high", ".2f", "1.00"),
        ("value", "sigma_low", "g", "0.1"),  # a number whose own name ends so
        ("value", "A1.symmetric", ".2f", "0.25"),
        ("value", "A1.symmetric_high", ".1f", "0.5"),
        ("interval", "ratio", ".2f", "0.50 [0.25,\N{NO-BREAK SPACE}1.00]"),
        ("interval", "A1.symmetric", ".3f", "0.250 [0.125,\N{NO-BREAK SPACE}0.500]"),
        ("verdict", "A1.symmetric", "", "reproduced"),
    ],
)
def test_what_a_role_says(role, name, spec, text):
    assert getattr(quote, role)(FOUND, name, spec) == text


@pytest.mark.parametrize(
    ("role", "name"),
    [("value", "ratioo"), ("interval", "heads"), ("verdict", "A1.x"), ("value", "heads_low")],
)
def test_what_is_not_there_is_an_error(role, name):
    with pytest.raises((LookupError, TypeError)):
        getattr(quote, role)(FOUND, name, ".2f")
