"""What is declared before anything runs: every chapter's trainings, what of them the store has."""

from dataclasses import replace

import pytest
from settings import PAPER_A, PAPER_B

from icl_book import chapters, parameters, plan
from icl_book.parameters import PROFILES, Settings
from icl_lib import store


def settings(chapter, profile):
    given = chapters.load_chapters()[chapter].parameters() | {"profile": profile}
    return parameters.resolve(chapter, **given)


@pytest.mark.parametrize("chapter", plan.CHAPTERS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_chapter_declares_its_trainings_in_every_profile(chapter, profile):
    groups = dict(plan.CHAPTERS[chapter](settings(chapter, profile)))
    trainings = [planned for group in groups.values() for planned in group.values()]
    assert trainings
    assert all(planned.seeds >= 2 for planned in trainings)


def test_every_chapter_that_trains_is_declared_and_asks_for_its_groups_alone():
    for name, chapter in chapters.load_chapters().items():
        code = "\n".join(cell.source for cell in chapter.notebook().cells if cell.cell_type == "code")
        assert "store.trained(" not in code, name
        asks = {part.split('"')[1] for part in code.split("plan.trained(run, ")[1:]}
        declared = set(dict(plan.CHAPTERS[name](settings(name, "smoke")))) if name in plan.CHAPTERS else set()
        assert asks == declared, name


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A chapter of two groups, one of which starts from the other's weights, with a store of its own."""
    monkeypatch.setenv("ICL_CACHE", str(tmp_path))
    values = dict(
        positive=PAPER_A, one_layer=PAPER_B, sigmas=[0.5], head_counts=[1, 3], refit_steps=12, seeds=2
    )
    values["symmetric"] = replace(PAPER_A, weights="gaussian")
    return Settings("06_pruning_probing", "smoke", values)


def test_the_listing_says_what_the_store_lacks(run):
    before = plan.listing({run.chapter: run})
    assert before.state.value_counts().to_dict() == {"missing": 6, "after": 6}
    plan.trained(run, "models")
    between = plan.listing({run.chapter: run})
    assert between.state.value_counts().to_dict() == {"stored": 6, "missing": 6}
    assert set(between[between.state == "missing"].steps) == {12}
    again = plan.trained(run, "again")
    assert again["positive", 0.5, "pruned"].settings.model.heads == (3, 1)
    assert set(plan.listing({run.chapter: run}).state) == {"stored"}
    assert plan.report(plan.listing({run.chapter: run})) == "12 trainings, 12 of them in the store"
    assert "(3, 1)" in plan.report(before)


def test_a_training_of_two_chapters_is_listed_once(run):
    other = Settings("11_debiased_gd", "smoke", run.values)
    same = Settings("10_kq_ov_patterns", "smoke", run.values | {"long_steps": 40, "long_seeds": 2})
    listed = plan.listing({same.chapter: same, other.chapter: other})
    assert listed.chapters.tolist() == [[10, 11], [10, 11]]
    assert listed.heads.tolist() == [1, 3]


def test_what_no_key_covers_is_trained_each_time(run):
    brief = Settings("16_choices_b", "smoke", run.values | {"steps": 10, "small_seeds": 2})
    assert set(plan.listing({brief.chapter: brief}).state) == {"again", "missing"}
    ways = dict(plan.choices_b(brief))["ways"]
    assert store.not_covered(ways["released"].settings)
    assert len(plan.trained(brief, "ways")["released"]) == 2
