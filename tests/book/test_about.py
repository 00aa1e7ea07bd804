"""The tables of the status and the environment page."""

import platform
import socket
import tomllib
from importlib.metadata import version

import pytest

from icl_book import about
from icl_book.claims import NOT_REPRODUCED, REPRODUCED, UNDECIDED
from icl_book.parameters import PROFILE_FILE


def results(seconds, verdicts=(), torch="2.0"):
    """What the tables read of a results file."""
    parameters = {"profile": "smoke", "d": 5, "lengths": [8, 12], "symmetric": {"layers": 3, "lr": 0.1}}
    provenance = {"seconds": seconds, "seeds": 3, "device": "cpu", "library": "abc", "commit": "c0ffee"}
    provenance["versions"] = {"python": "3.11", "torch": torch}
    claims = [{"verdict": verdict} for verdict in verdicts]
    return {"parameters": parameters, "claims": claims, "provenance": provenance}


def cells(table):
    """The cells of a Markdown table, by rows, without the head; blanks that do not break are blanks."""
    table = table.replace("\N{NO-BREAK SPACE}", " ")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_chapters_and_their_settings_by_hand():
    verdicts = [REPRODUCED, REPRODUCED, UNDECIDED, NOT_REPRODUCED]
    found = {"01_task": results(59.7), "02_other": results(61.2, verdicts)}
    one, two, total = cells(about.chapters(found))
    assert one == ["1. {doc}`01_task`", "1 min 0 s", "smoke", "3", "cpu", "", "", "", ""]
    assert two[-4:] == total[-4:] == ["4", "2", "1", "1"]
    assert total[:2] == ["**2 chapters**", "**2 min 1 s**"]
    given = "profile = smoke, d = 5, lengths = [8, 12], symmetric = (layers = 3, lr = 0.1)"
    assert cells(about.settings({"07_one": results(1)})) == [["7. `abc`", given]]
    assert len(cells(about.chapters({}))) == 1
    assert cells(about.settings({})) == cells(about.versions({})) == []


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


def test_packages_mark_what_is_not_as_pinned(tmp_path, monkeypatch):
    assert about.packages().startswith("All are installed as pinned.")  # as this environment is
    monkeypatch.setattr(about, "home", lambda: tmp_path)
    numpy, scipy = version("numpy"), version("scipy")
    pinned = f"# the numbers\nnumpy=={numpy}  # arrays\n\nscipy==0.0.1\nno-such==1\n"
    (tmp_path / "requirements.txt").write_text(pinned)
    text = about.packages()
    assert text.startswith("2 not as pinned: scipy, no-such.")
    missing = ["no-such", "1", "**≠ not installed**"]
    assert cells(text) == [["numpy", numpy, numpy], ["scipy", "0.0.1", f"**≠ {scipy}**"], missing]


@pytest.mark.parametrize("own", [False, True])
def test_profiles_show_every_size(own):
    profiles = tomllib.loads(PROFILE_FILE.read_text())
    assert tuple(profiles) == about.PROFILES
    tables = [item for profile in profiles.values() for item in profile.items()]
    sizes = [value for name, table in tables if (name != "all") == own for value in table.values()]
    leaves = sum(len(value) if isinstance(value, dict) else 1 for value in sizes)
    assert sum(cell != "" for row in cells(about.profiles(own)) for cell in row[-3:]) == leaves


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
