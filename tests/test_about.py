"""The tables of the status and the environment page."""

import platform
import socket
import tomllib
from importlib.metadata import version

import pytest

from icl_lib import about
from icl_lib.claims import NOT_REPRODUCED, PARTLY, REPRODUCED
from icl_lib.parameters import PROFILE_FILE


def results(seconds, verdicts=(), commit="c0ffee", torch="2.0"):
    """What the tables read of a results file."""
    return {
        "parameters": {"profile": "smoke", "d": 5, "lengths": [8, 12], "symmetric": {"layers": 3, "lr": 0.1}},
        "claims": [{"verdict": verdict} for verdict in verdicts],
        "provenance": {
            "seconds": seconds,
            "seeds": 3,
            "device": "cpu",
            "library": "abc",
            "commit": commit,
            "versions": {"python": "3.11", "torch": torch},
        },
    }


def cells(table):
    """The cells of a Markdown table, by rows, without the head; blanks that do not break are blanks."""
    table = table.replace("\N{NO-BREAK SPACE}", " ")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_chapters_by_hand():
    found = {
        "01_task": results(59.7),
        "02_other": results(61.2, [REPRODUCED, REPRODUCED, PARTLY, NOT_REPRODUCED]),
    }
    one, two, total = cells(about.chapters(found))
    assert one == ["1. {doc}`01_task`", "1 min 0 s", "smoke", "3", "cpu", "", "", "", ""]
    assert two[-4:] == ["4", "2", "1", "1"]
    assert total[:2] == ["**2 chapters**", "**2 min 1 s**"]
    assert total[-4:] == ["4", "2", "1", "1"]


def test_a_book_without_chapters_has_empty_tables():
    assert len(cells(about.chapters({}))) == 1
    assert cells(about.settings({})) == []
    assert cells(about.versions({})) == []


def test_versions_that_differ_are_marked():
    same = {"01_task": results(1), "02_other": results(1)}
    text = about.versions(same)
    assert text.startswith("The same in all chapters.")
    assert ["torch", "2.0", "all"] in cells(text)
    text = about.versions(same | {"13_third": results(1, torch="2.1")})
    assert text.startswith("Not the same in all chapters: **torch**.")
    assert ["torch", "**2.0**", "1, 2"] in cells(text)
    assert ["torch", "**2.1**", "13"] in cells(text)
    assert ["commit", "c0ffee", "all"] in cells(text)


def test_settings_by_hand():
    given = "profile = smoke, d = 5, lengths = [8, 12], symmetric = (layers = 3, lr = 0.1)"
    assert cells(about.settings({"07_one": results(1)})) == [["7. `abc`", given]]


def test_packages_mark_what_is_not_as_pinned(tmp_path, monkeypatch):
    monkeypatch.setattr(about, "home", lambda: tmp_path)
    numpy = version("numpy")
    (tmp_path / "requirements.txt").write_text(
        f"# the numbers\nnumpy=={numpy}  # arrays\n\nscipy==0.0.1\nno-such==1\n"
    )
    text = about.packages()
    assert text.startswith("2 not as pinned: scipy, no-such.")
    assert cells(text) == [
        ["numpy", numpy, numpy],
        ["scipy", "0.0.1", f"**≠ {version('scipy')}**"],
        ["no-such", "1", "**≠ not installed**"],
    ]


def test_this_environment_is_as_pinned():
    assert about.packages().startswith("All are installed as pinned.")


@pytest.mark.parametrize("own", [False, True])
def test_profiles_show_every_size(own):
    tables = tomllib.loads(PROFILE_FILE.read_text())
    rows = cells(about.profiles(own))
    leaves = 0
    for column, table in enumerate(tables.values()):
        for chapter, settings in table.items():
            if (chapter != "all") == own:
                for value in settings.values():
                    leaves += len(value) if isinstance(value, dict) else 1
        assert list(tables)[column] == about.PROFILES[column]
    assert sum(cell != "" for row in rows for cell in row[-3:]) == leaves


def test_profiles_by_name():
    laptop = tomllib.loads(PROFILE_FILE.read_text())["laptop"]
    shared = {row[0]: row[2] for row in cells(about.profiles())}
    assert shared["`symmetric.D`"] == str(laptop["all"]["symmetric"]["D"])
    own = {(row[0], row[1]): row[3] for row in cells(about.profiles(own=True))}
    assert own["10", "`starts`"] == str(laptop["10_kq_ov_patterns"]["starts"])


def test_the_machine_is_described_without_its_name():
    rows = dict(cells(about.machine()))
    assert rows["Python"].endswith(platform.python_version())
    assert rows["torch"].startswith(version("torch").split("+")[0])
    assert all(rows.values())
    assert socket.gethostname() not in about.machine()
