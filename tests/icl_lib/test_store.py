"""The store: models trained once, whole or not there, the same weights whatever happened on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from icl_book import provenance
from icl_lib import store, training
from icl_lib.models import Module
from icl_lib.tasks import Task
from icl_lib.training import Training, TrainingDiverged, run
from icl_lib.transformer import Transformer

pytestmark = pytest.mark.filterwarnings("error")  # but for those that a test expects

SMALL = dict(n=(3, 5), steps=20, batch=7, evaluate_every=8, evaluate_prompts=11)
BASE, SEEDS = Training(Task(2, 1), Transformer(2, (2, 1), D=3, k=2), **SMALL), (0, 3)
OTHER = dict(task=Task(2, 2), model=replace(BASE.model, heads=(2, 2)), n=(3, 6), steps=21, batch=8, queries=2)
OTHER |= dict(lr=1e-3, schedule="constant", weight_decay=0.1, clip=2.0, loss="squared", delta=2.0)
OTHER |= dict(curriculum_mean=1.0, curriculum_share=0.5, keep_every=7, evaluate_every=9, evaluate_prompts=12)
LIBRARY = Path(store.__file__).parents[1]
EVERY_STEP = -1.0  # seconds between two saves
KEY = "print(store.key(settings, seeds))\n"
TRAIN = "store.trained(settings, seeds, device='cpu')\n"
START = f"""
import os, signal
from functools import partial
import torch
from icl_lib import store
from icl_lib.tasks import Task
from icl_lib.training import Training, run
from icl_lib.transformer import Transformer

torch.set_num_threads(1)
settings, seeds = {BASE!r}, {SEEDS!r}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("ICL_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def direct():
    """What the training itself gives."""
    return run(BASE, SEEDS)


@pytest.fixture
def begun(monkeypatch):
    """The step that each training of the store begins at."""
    begun = []

    def recording(settings, seeds, *, state=None, **options):
        begun.append(int(state["step"]) if state else 0)
        return run(settings, seeds, state=state, **options)

    monkeypatch.setattr(store, "run", recording)
    return begun


def trained(settings=BASE, seeds=SEEDS):
    return store.trained(settings, seeds, device="cpu")


def assert_same(models, others):
    """Equal to the last bit."""
    for model, other in zip(models, others, strict=True):
        assert (model.settings, model.seed, model.skipped) == (other.settings, other.seed, other.skipped)
        for part in store.PARTS:
            torch.testing.assert_close(getattr(model, part), getattr(other, part), rtol=0, atol=0)


def entry(folder):
    """The file of the entry, which is there."""
    (path,) = folder.glob(f"{store.key(BASE, SEEDS)}.safetensors")
    return path


def child(script, folder, library=LIBRARY):
    """A process of its own that runs a script, with the library of a folder."""
    pipes = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    environment = os.environ | {"ICL_CACHE": str(folder)}
    return subprocess.Popen([sys.executable, "-c", script], cwd=library, env=environment, **pipes)


def said(script, folder, library=LIBRARY, code=0):
    """The lines that a process of its own prints, and those of its errors; it ends with a code."""
    with child(script, folder, library) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    return output.splitlines(), errors.splitlines()


# What is stored, and under which key.


def test_first_call_trains_and_the_second_one_loads_in_silence(direct, begun, cache, capsys):
    first, second = trained(), trained()
    assert begun == [0]
    assert_same(first, direct)
    assert_same(second, direct)
    for one, two in zip(first, second, strict=True):  # sums over the weights are the same too
        assert list(one.weights) == list(two.weights)
    assert not (cache / "damaged").exists()
    assert capsys.readouterr() == ("", "")


def test_so_many_seeds_are_those_from_zero_on(begun):
    assert_same(trained(seeds=2), trained(seeds=[0, 1]))
    assert begun == [0]


def test_only_safetensors_are_written(cache, monkeypatch):
    """Beside the empty lock; the checkpoints, written at every step, are gone."""
    monkeypatch.setattr(store, "run", partial(run, save_every=EVERY_STEP))
    trained()
    path, lock = entry(cache), cache / f"{store.key(BASE, SEEDS)}.lock"
    assert {path} <= set(cache.iterdir()) <= {path, lock}
    assert not lock.exists() or lock.stat().st_size == 0
    assert load_file(path)["0/weights/W_in"].shape == (3, 3)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about.pop("seconds") > 0
    expected = dict(settings=repr(BASE), seeds=list(SEEDS), skipped=[0, 0], code=store.CODE)
    assert about == expected | dict(torch=torch.__version__, device="cpu")


def test_cache_folder(cache, tmp_path, monkeypatch, direct):
    """It is made where it is not there."""
    monkeypatch.setenv("ICL_CACHE", str(cache / "a" / "b"))
    assert store.cache_folder() == cache / "a" / "b"
    assert_same(trained(), direct)
    entry(cache / "a" / "b")
    monkeypatch.chdir(tmp_path)
    for default in (provenance.ROOT, tmp_path):  # of the checkout; where there is none, the working directory
        monkeypatch.setattr(store, "__file__", str(default / "icl_lib/store.py"))
        monkeypatch.setenv("ICL_CACHE", "")
        assert store.cache_folder() == default / ".cache" / "models"
        monkeypatch.delenv("ICL_CACHE")
        assert store.cache_folder() == default / ".cache" / "models"


def test_key_changes_with_all_that_determines_the_models(monkeypatch):
    assert OTHER.keys() == {field.name for field in fields(Training)}
    keys = [store.key(replace(BASE, **{name: value}), SEEDS) for name, value in OTHER.items()]
    keys += [store.key(BASE, seeds) for seeds in (SEEDS, SEEDS[::-1], SEEDS[:1], (0, 1))]
    keys += [store.key(BASE, SEEDS, "cuda")]
    weights = BASE.model.init(torch.Generator().manual_seed(0))
    nudged = weights | {"W_in": weights["W_in"] + 1e-6}
    keys += [store.key(BASE, (0,), starts=[start]) for start in (weights, nudged)]
    assert store.key(BASE, (0,), starts=[dict(reversed(weights.items()))]) == keys[-2]
    for module in store.CODE:
        with monkeypatch.context() as patch:
            patch.setitem(store.CODE, module, "another")
            keys.append(store.key(BASE, SEEDS))
    monkeypatch.setattr(torch, "__version__", "another")
    keys.append(store.key(BASE, SEEDS))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("kind", store.COVERED)
def test_settings_tell_all_their_fields(kind):
    """The key takes them as text."""
    names = {kind.__name__: kind for kind in store.COVERED}
    for settings in (kind(), replace(BASE, **OTHER) if kind is Training else kind(d=17)):
        assert eval(repr(settings), names) == settings
        assert all(f"{field.name}=" in repr(settings) for field in fields(kind))


def test_code_that_determines_models_is_in_the_key():
    kinds = {kind.__module__ for kind in store.COVERED}
    assert {"icl_lib", *store.CODE} == set(provenance.module_closure(kinds))
    for name, meaning in store.CODE.items():
        assert meaning == store.meaning(Path(sys.modules[name].__file__).read_text())


# Never a wrong model.


class NoisyLabels(Task):
    """No dataclass of its own: its fields are those of a Task."""

    def sample(self, batch, n, seed, **options):
        drawn = super().sample(batch, n, seed, **options)
        return drawn._replace(y=drawn.y + torch.randn(drawn.y.shape, generator=seed))


def louder(extra):
    """A task of a class of the name Task whose noise is that of a variable around it."""

    @dataclass(frozen=True)
    class Louder(Task):
        def sample(self, batch, n, seed, **options):
            drawn = super().sample(batch, n, seed, **options)
            return drawn._replace(y=drawn.y + extra * torch.randn(drawn.y.shape, generator=seed))

    Louder.__name__ = Louder.__qualname__ = "Task"
    return Louder(2, 1)


class OneStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = nn.Parameter(torch.rand(1))

    def forward(self, prompts):
        return self.step * (prompts.x_query @ (prompts.x.mT @ prompts.y[..., None]))[..., 0]


def quieter(*args, sample=Task.sample, **options):
    drawn = sample(*args, **options)
    return drawn._replace(y=drawn.y / 2)


OWN, CHANGED = "is code that no key covers", "changed after its import"
NOT_COVERED = {  # changed settings, what is changed in memory, what is said
    "task of one's own": (dict(task=NoisyLabels(2, 1)), None, f"NoisyLabels {OWN}"),
    "local class of a known name": (dict(task=louder(0.5)), None, f"Task {OWN}"),
    "one with another variable around it": (dict(task=louder(2.0)), None, f"Task {OWN}"),
    "model of one's own": (dict(model=Module(OneStep, 2)), None, f"Module {OWN}"),
    "function changed in memory": ({}, (Task, "sample", quieter), f"icl_lib.tasks {CHANGED}"),
    "constant changed in memory": ({}, (training, "BETA_1", 0.5), f"icl_lib.training {CHANGED}"),
}


@pytest.mark.parametrize(("changes", "patched", "reason"), NOT_COVERED.values(), ids=NOT_COVERED.keys())
def test_what_no_key_covers_is_not_stored(
    changes, patched, reason, cache, direct, begun, monkeypatch, capsys
):
    trained()
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    settings = replace(BASE, **changes)
    with monkeypatch.context() as patch:
        if patched:
            patch.setattr(*patched)
        found = [trained(settings) for _ in range(2)]
        expected = run(settings, SEEDS)
    assert begun == [0, 0, 0]
    for runs in found:
        assert_same(runs, expected)
        assert not any(torch.equal(w, direct[0].last.get(name, w + 1)) for name, w in runs[0].last.items())
    assert capsys.readouterr().err == 2 * f"{reason}: trained, and not stored\n"
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    assert_same(trained(), direct)  # all is as it was: the stored models are found again
    assert begun == [0, 0, 0]


EDIT = """
from pathlib import Path
from icl_lib import training

source = Path(training.__file__)
text = source.read_text()
edited = text.replace("BETA_1, BETA_2, EPSILON = 0.9", "BETA_1, BETA_2, EPSILON = 0.5")
assert edited != text
source.write_text(edited)
"""


def test_source_edited_in_a_session_is_not_taken_for_the_code_that_runs(cache, tmp_path):
    """The entry is that of the old source, which the session trained with."""
    library = shutil.copytree(LIBRARY / "icl_lib", tmp_path / "library/icl_lib").parent
    (old,), _ = said(START + KEY + EDIT + TRAIN, cache, library)
    (new,), _ = said(START + KEY, cache, library)
    assert old != new
    assert [path.stem for path in cache.glob("*.safetensors")] == [old]


def test_source_edited_between_its_import_and_the_stores(cache, tmp_path):
    """The store cannot know what the source was, but that it is not what runs."""
    library = shutil.copytree(LIBRARY / "icl_lib", tmp_path / "library/icl_lib").parent
    _, errors = said(EDIT + START + TRAIN, cache, library)
    assert errors == ["icl_lib.training changed after its import: trained, and not stored"]
    assert list(cache.iterdir()) == []


SOURCE = '''
"""A module."""

RATE = 0.5  # of the steps


class Task:
    """A task."""

    d: int = 3

    def sample(self, n, seed=0):
        """Draw."""
        return [self.d * RATE, n, "text"]
'''
COMMENTS = [("  # of the steps", ""), ("RATE = 0.5", "# A comment.\nRATE = 0.5"), ('"""A module."""\n', "")]
COMMENTS += [('"""A task."""', '"""Another\n\n    text.\n    """'), ('        """Draw."""\n', "")]
LAYOUT = [("\n\n\nclass", "\nclass"), ("\n        return", "\n\n        return")]
LAYOUT += [('[self.d * RATE, n, "text"]', "[\n    self.d*RATE,\n    n,\n    'text',\n]")]
LAYOUT += [("self.d * RATE", "(self.d * RATE)")]
CODE = [("0.5", "0.25"), ("0.5", "5"), ("d: int = 3", "d: int = 4"), ("seed=0", "seed=1")]
CODE += [("d * RATE", "d + RATE"), ("RATE, n", "RATE, (n,)"), ('"text"', '"text "')]


@pytest.mark.parametrize(("old", "new"), COMMENTS + LAYOUT + CODE)
def test_meaning_changes_with_the_code_and_ignores_comments_docstrings_and_layout(old, new):
    assert old in SOURCE
    same = store.meaning(SOURCE.replace(old, new)) == store.meaning(SOURCE)
    assert same == ((old, new) not in CODE)


# Damage.


def flip(at, after=None):
    """Damage that flips a bit of one byte: so far from the start of a file, or from a text in it."""

    def damage(path):
        payload = bytearray(path.read_bytes())
        payload[at + (payload.index(after) if after else 0)] ^= 1
        path.write_bytes(payload)

    return damage


DAMAGE = {
    "flipped byte of the tensors": flip(-3),
    "flipped byte of the header's length": flip(0),
    "flipped letter of the header": flip(0, b"seconds"),
    "flipped digit of the header": flip(12, b"seconds"),
    "flipped digit of the checksum": flip(12, b'"sha256":"'),
    "half of it": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a part of the header": lambda path: os.truncate(path, 20),
    "empty": lambda path: os.truncate(path, 0),
    "text": lambda path: path.write_text("text"),
    "tensors of something else": lambda path: save_file({"a": torch.zeros(3)}, path),
    "header of something else": lambda path: save_file({"a": torch.zeros(3)}, path, {"about": "{}"}),
}


def break_off(monkeypatch):
    """Stop a training at its seventh checkpoint."""

    def stopping(settings, seeds, *, save, **options):
        def save_or_stop(state):
            save(state)
            if state["step"] == 7:
                raise KeyboardInterrupt

        return run(settings, seeds, save=save_or_stop, save_every=EVERY_STEP, **options)

    with monkeypatch.context() as patch:
        patch.setattr(store, "run", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained()


@pytest.mark.parametrize("kind", ["entry", "checkpoint"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_reported_set_aside_and_trained_again(damage, kind, cache, direct, begun, monkeypatch):
    trained() if kind == "entry" else break_off(monkeypatch)
    (path,) = cache.glob("*.safetensors")
    damage(path)
    left = path.read_bytes()
    begun.clear()
    with pytest.warns(UserWarning, match=f"stored entry {path.stem} is damaged .*: set aside"):
        assert_same(trained(), direct)
    (aside,) = (cache / "damaged").iterdir()
    assert aside.read_bytes() == left
    assert_same(trained(), direct)
    assert begun == [0]
    assert list(cache.glob("*.safetensors")) == [entry(cache)]


@pytest.mark.parametrize(("fails_at", "left"), [(1, 1), (2, 2), (1, None)])
def test_write_that_fails_midway_leaves_a_whole_entry_and_no_more(fails_at, left, cache, monkeypatch):
    """The old entry, if there is one, until the file is renamed, the new one from then on."""
    if left:
        store.write(cache, "name", {"a": torch.full((3,), 1.0)}, {"number": 1})
    sync, calls = os.fsync, iter(range(1, 3))

    def full(file):
        if next(calls) == fails_at:
            raise OSError("no space left")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        store.write(cache, "name", {"a": torch.full((3,), 2.0)}, {"number": 2})
    assert [path.name for path in cache.iterdir()] == (["name.safetensors"] if left else [])
    found = store.read(cache, "name")
    if left:
        torch.testing.assert_close(found, ({"a": torch.full((3,), float(left))}, {"number": left}))
    else:
        assert found is None


def test_written_entry_replaces_the_older_one(cache):
    strided = torch.arange(6.0).reshape(2, 3).T
    for number in (1, 2):
        store.write(cache, "name", {"a": strided + number, "b": strided[:0]}, {"number": number})
    assert len(list(cache.iterdir())) == 1
    tensors, about = store.read(cache, "name")
    assert torch.equal(tensors["a"], strided + 2)
    assert tensors["b"].shape == (0, 2)
    assert about["number"] == 2


# Trainings that end early.


@pytest.mark.parametrize(("sync", "step"), [(5, 2), (6, 3)], ids=["half written", "written"])
def test_killed_training_goes_on_from_its_last_checkpoint(sync, step, cache, direct, begun):
    """Killed within the write of its third checkpoint; each write is synced twice."""
    script = f"""
fsync, calls = os.fsync, []

def killing(file):
    calls.append(file)
    if len(calls) == {sync}:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)

os.fsync = killing
store.run = partial(run, save_every={EVERY_STEP})
"""
    said(START + script + TRAIN, cache, code=-signal.SIGKILL)
    assert_same(trained(), direct)
    assert begun == [step]
    assert {path for path in cache.iterdir() if path.suffix != ".lock"} == {entry(cache)}


def test_interrupted_training_goes_on_from_its_last_checkpoint(direct, begun, monkeypatch):
    break_off(monkeypatch)
    assert_same(trained(), direct)
    assert begun == [7]


def test_diverged_training_keeps_its_last_finite_weights(cache):
    wild = replace(BASE, steps=200, lr=1e30, loss="squared", evaluate_every=50)
    for _ in range(2):  # it is no entry: a second call does not load it
        with pytest.raises(TrainingDiverged) as caught:
            trained(wild, (4,))
    name = store.key(wild, (4,))
    assert any(str(cache / f"{name}.diverged.safetensors") in note for note in caught.value.__notes__)
    tensors, about = store.read(cache, f"{name}.diverged")
    assert {label: tuple(t.shape) for label, t in tensors.items()} == wild.model.shapes()
    assert all(t.isfinite().all() for t in tensors.values())
    assert all(torch.equal(t, caught.value.weights[label]) for label, t in tensors.items())
    assert about == {"settings": repr(wild), "seed": 4, "step": caught.value.step}
    assert not (cache / f"{name}.safetensors").exists()


def test_failed_training_releases_the_lock(cache, monkeypatch, direct):
    with monkeypatch.context() as patch:
        patch.setattr(store, "run", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained()
    with FileLock(cache / f"{store.key(BASE, SEEDS)}.lock", timeout=0):
        pass
    assert_same(trained(), direct)


def test_two_processes_train_once(cache, direct):
    """Both are let go at the same moment, and one waits for the other."""
    script = """
def logged(*args, **options):
    print("trains")
    return run(*args, **options)

store.run = logged
print("ready", flush=True)
for model in store.trained(settings, seeds, device="cpu"):
    print([model.weights[name].tolist() for name in model.settings.model.shapes()])
"""
    with FileLock(cache / f"{store.key(BASE, SEEDS)}.lock"):
        processes = [child(START + script, cache) for _ in range(2)]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    printed = [output.splitlines() for output, _ in ended]
    assert sum(lines.count("trains") for lines in printed) == 1
    weights = [str([w.tolist() for w in model.weights.values()]) for model in direct]  # 17 digits: all bits
    assert [lines[-2:] for lines in printed] == [weights, weights]
    entry(cache)  # one file
