"""The store: models trained once, whole or not there, the same weights whatever happened on the way."""

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from icl_lib import provenance, store
from icl_lib.attention_layer import AttentionLayer
from icl_lib.tasks import MultiTask, Task
from icl_lib.training import Training, TrainingDiverged, train
from icl_lib.transformer import Transformer

BASE = Training(
    task=Task(2, 1),
    model=Transformer(2, (2, 1), D=3, k=2),
    n=(3, 5),
    steps=20,
    batch=7,
    evaluate_every=8,
    evaluate_prompts=11,
)
MEMBERS = [BASE, replace(BASE, seed=3, model=replace(BASE.model, heads=(1, 1)))]
OTHER = {  # another value for every field
    "task": Task(2, 2),
    "model": replace(BASE.model, heads=(2, 2)),
    "n": (3, 6),
    "steps": 21,
    "batch": 8,
    "queries": 2,
    "lr": 1e-3,
    "schedule": "constant",
    "weight_decay": 0.1,
    "clip": 2.0,
    "loss": "squared",
    "delta": 2.0,
    "curriculum_mean": 1.0,
    "curriculum_share": 0.5,
    "keep_every": 7,
    "evaluate_every": 9,
    "evaluate_prompts": 12,
    "seed": 1,
}
EVERY_STEP = -1.0  # seconds between two saves
CHILD = """
import os, signal
from functools import partial
import torch
from icl_lib import store
from icl_lib.attention_layer import AttentionLayer
from icl_lib.tasks import Task
from icl_lib.training import Training, train
from icl_lib.transformer import Transformer

torch.set_num_threads(1)
members = {members!r}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def direct():
    """What the training itself gives."""
    return train(MEMBERS)


@pytest.fixture
def runs(monkeypatch):
    """The step that each training of the store begins at."""
    begun = []

    def recording(members, *, state, **options):
        begun.append(int(state["step"]) if state else 0)
        return train(members, state=state, **options)

    monkeypatch.setattr(store, "train", recording)
    return begun


def trained():
    return store.trained(MEMBERS, device="cpu")


def assert_same(models, others):
    """Equal to the last bit."""
    assert len(models) == len(others)
    for model, other in zip(models, others, strict=True):
        assert (model.settings, model.skipped) == (other.settings, other.skipped)
        for part in store.PARTS:
            one, two = getattr(model, part), getattr(other, part)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name], two[name]) for name in one)


def entry(folder, name=None):
    """The JSON file and the tensor file of an entry."""
    name = name or store.key(MEMBERS)
    (tensors,) = folder.glob(f"{name}-*.safetensors")
    return folder / f"{name}.json", tensors


def flip(path, at):
    """Flip a bit of one byte of a file."""
    payload = bytearray(path.read_bytes())
    payload[at] ^= 1
    path.write_bytes(payload)


def child(script, folder, **options):
    """A process of its own that runs a script after CHILD."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(members=MEMBERS) + script],
        cwd=provenance.ROOT,
        env=os.environ | {"ICL_CACHE": str(folder)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


# What is stored, and under which key.


def test_first_call_trains_and_the_second_one_loads(direct, runs):
    first, second = trained(), trained()
    assert runs == [0]
    assert_same(first, direct)
    assert_same(second, direct)
    for one, two in zip(first, second, strict=True):  # sums over the weights are the same too
        assert list(one.weights) == list(two.weights)


def test_loading_is_silent_and_says_nothing_of_damage(cache):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained()
        trained()
    assert not (cache / "damaged").exists()


def test_only_safetensors_and_json_are_written(cache, monkeypatch):
    """Beside the empty lock; the checkpoints, written at every step, are gone."""
    monkeypatch.setattr(store, "train", partial(train, save_every=EVERY_STEP))
    trained()
    name = store.key(MEMBERS)
    about, tensors = entry(cache)
    lock = cache / f"{name}.lock"
    assert {about, tensors} <= set(cache.iterdir()) <= {about, tensors, lock}
    assert not lock.exists() or lock.stat().st_size == 0
    assert load_file(tensors)["0/weights/W_in"].shape == (3, 3)
    written = json.loads(about.read_text())
    assert written["file"] == tensors.name
    assert written["settings"] == store.describe(MEMBERS)
    assert written["versions"]["torch"] == provenance.versions()["torch"]
    assert written["device"] == "cpu"
    assert written["seconds"] > 0


def test_cache_folder(cache, monkeypatch):
    assert store.cache_folder() == cache
    default = provenance.home() / ".cache" / "models"
    monkeypatch.setenv("ICL_CACHE", "")
    assert store.cache_folder() == default
    monkeypatch.delenv("ICL_CACHE")
    assert store.cache_folder() == default


def test_cache_folder_is_made(cache, monkeypatch, direct):
    monkeypatch.setenv("ICL_CACHE", str(cache / "a" / "b"))
    assert_same(trained(), direct)
    entry(cache / "a" / "b")


@pytest.mark.parametrize("field", [field.name for field in fields(Training)])
def test_key_changes_with_every_setting(field):
    changed = replace(BASE, **{field: OTHER[field]})
    assert store.key([changed]) != store.key([BASE])
    assert store.key([BASE, changed]) != store.key([BASE, BASE])


def test_key_changes_with_the_weights_that_training_starts_from():
    weights = BASE.model.init(torch.Generator().manual_seed(0))
    turned = dict(reversed(weights.items()))
    nudged = weights | {"W_in": weights["W_in"] + 1e-6}
    start, same, other = (store.key([BASE], starts=[w]) for w in (weights, turned, nudged))
    assert start == same
    assert len({start, other, store.key([BASE])}) == 3


@pytest.mark.parametrize("kind", [Training, Task, MultiTask, Transformer, AttentionLayer])
def test_settings_are_described_by_all_their_fields(kind):
    assert store.describe(kind()) == {"is": kind.__name__} | {
        field.name: store.describe(getattr(kind(), field.name)) for field in fields(kind)
    }
    assert json.loads(json.dumps(store.describe(kind()))) == store.describe(kind())


def test_key_changes_with_members_code_torch_and_device(monkeypatch):
    keys = {store.key(MEMBERS), store.key(MEMBERS[::-1]), store.key(MEMBERS[:1]), store.key(MEMBERS, "cuda")}
    with monkeypatch.context() as patch:
        patch.setattr(store, "library_hash", lambda names: "another")
        keys.add(store.key(MEMBERS))
    with monkeypatch.context() as patch:
        patch.setattr(store, "versions", lambda: provenance.versions() | {"torch": "another"})
        keys.add(store.key(MEMBERS))
    assert len(keys) == 6


def test_code_that_determines_models_is_in_the_key():
    closure = provenance.module_closure(["training"])
    assert {"training", "packing", "tasks", "transformer", "attention_layer", "checks"} <= set(closure)
    assert "store" not in closure


# Damage.

DAMAGE = {
    "flipped byte of the tensors": lambda about, tensors: flip(tensors, -3),
    "truncated tensors": lambda about, tensors: os.truncate(tensors, tensors.stat().st_size // 2),
    "empty tensors": lambda about, tensors: os.truncate(tensors, 0),
    "no tensors": lambda about, tensors: tensors.unlink(),
    "broken JSON": lambda about, tensors: os.truncate(about, about.stat().st_size // 2),
    "empty JSON": lambda about, tensors: os.truncate(about, 0),
    "JSON of something else": lambda about, tensors: about.write_text('"text"'),
    "flipped letter of the JSON": lambda about, tensors: flip(about, about.read_bytes().index(b"seconds")),
    "flipped digit of the JSON": lambda about, tensors: flip(
        about, about.read_bytes().index(b"seconds") + 10
    ),
    "no JSON": lambda about, tensors: about.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_entry_is_reported_set_aside_and_trained_again(damage, cache, direct, runs):
    trained()
    files = entry(cache)
    damage(*files)
    left = {path.name: path.read_bytes() for path in files if path.exists()}
    with pytest.warns(UserWarning, match=f"stored entry {store.key(MEMBERS)} is damaged .*: set aside"):
        again = trained()
    assert_same(again, direct)
    assert runs == [0, 0]
    (aside,) = (cache / "damaged").iterdir()
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == left
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(trained(), direct)
    assert runs == [0, 0]


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_write_that_fails_midway_leaves_a_whole_entry_and_no_temporary_files(fails_at, cache, monkeypatch):
    """The old entry until the JSON is renamed, the new one from then on."""
    store.write(cache, "name", {"a": torch.zeros(3)}, {"number": 1})
    sync, calls = os.fsync, iter(range(1, 5))

    def full(file):
        if next(calls) == fails_at:
            raise OSError("no space left")
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            store.write(cache, "name", {"a": torch.ones(3)}, {"number": 2})
    assert all(path.suffix in (".json", ".safetensors") for path in cache.iterdir())
    tensors, about = store.read(cache, "name")
    new = fails_at == 4
    assert about["number"] == (2 if new else 1)
    assert torch.equal(tensors["a"], torch.full((3,), float(new)))


def test_first_write_that_fails_leaves_nothing(cache, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        store.write(cache, "name", {"a": torch.zeros(3)}, {})
    assert list(cache.iterdir()) == []
    assert store.read(cache, "name") is None


def test_written_entry_replaces_the_older_one(cache):
    strided = torch.arange(6.0).reshape(2, 3).T
    for number in (1, 2):
        store.write(cache, "name", {"a": strided + number, "b": strided[:0]}, {"number": number})
    assert len(list(cache.iterdir())) == 2
    tensors, about = store.read(cache, "name")
    assert torch.equal(tensors["a"], strided + 2)
    assert about["number"] == 2


# Trainings that end early.


@pytest.mark.parametrize(
    ("sync", "step"),
    [
        (9, 2),  # the third checkpoint's tensors are half written
        (11, 2),  # they are there, and its JSON is half written
        (12, 3),  # it is there
    ],
)
def test_killed_training_goes_on_from_its_last_checkpoint(sync, step, cache, direct, runs):
    """Killed within the write of its third checkpoint; each write is synced four times."""
    script = f"""
fsync, calls = os.fsync, []

def killing(file):
    calls.append(file)
    if len(calls) == {sync}:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)

os.fsync = killing
store.train = partial(train, save_every={EVERY_STEP})
store.trained(members, device="cpu")
"""
    with child(script, cache) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert_same(trained(), direct)
    assert runs == [step]
    about, tensors = entry(cache)
    assert {path for path in cache.iterdir() if path.suffix != ".lock"} == {about, tensors}


@pytest.fixture
def broken_off(cache, monkeypatch):
    """A training that was stopped at its seventh checkpoint; the name of that."""

    def stopping(members, *, save, **options):
        def save_or_stop(state):
            save(state)
            if state["step"] == 7:
                raise KeyboardInterrupt

        return train(members, save=save_or_stop, save_every=EVERY_STEP, **options)

    with monkeypatch.context() as patch:
        patch.setattr(store, "train", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained()
    return f"{store.key(MEMBERS)}.checkpoint"


def test_interrupted_training_goes_on_from_its_last_checkpoint(broken_off, direct, runs):
    assert_same(trained(), direct)
    assert runs == [7]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_checkpoint_is_not_used(damage, broken_off, cache, direct, runs):
    damage(*entry(cache, broken_off))
    with pytest.warns(UserWarning, match=f"stored entry {broken_off} is damaged"):
        again = trained()
    assert_same(again, direct)
    assert runs == [0]
    assert not list(cache.glob(f"{broken_off}*"))


def test_diverged_training_keeps_its_last_finite_weights(cache):
    wild = replace(BASE, steps=200, lr=1e30, loss="squared", evaluate_every=50)
    for _ in range(2):  # it is no entry: a second call does not load it
        with pytest.raises(TrainingDiverged) as caught:
            store.trained([wild], device="cpu")
    name = f"{store.key([wild])}.diverged"
    assert any(str(cache / f"{name}.json") in note for note in caught.value.__notes__)
    tensors, about = store.read(cache, name)
    assert {label: tuple(t.shape) for label, t in tensors.items()} == wild.model.shapes()
    assert all(t.isfinite().all() for t in tensors.values())
    assert all(torch.equal(t, caught.value.weights[label]) for label, t in tensors.items())
    assert about["settings"] == store.describe(wild)
    assert about["step"] == caught.value.step
    assert not list(cache.glob(f"{store.key([wild])}-*"))


def test_failed_training_releases_the_lock(cache, monkeypatch, direct):
    with monkeypatch.context() as patch:
        patch.setattr(store, "train", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained()
    with FileLock(cache / f"{store.key(MEMBERS)}.lock", timeout=0):
        pass
    assert_same(trained(), direct)


# Two processes.


def test_two_processes_train_once(cache, direct):
    """Both are let go at the same moment, and one waits for the other."""
    script = """
def logged(*members, **options):
    print("trains")
    return train(*members, **options)

store.train = logged
print("ready", flush=True)
for model in store.trained(members, device="cpu"):
    print([model.weights[name].tolist() for name in model.settings.model.shapes()])
"""
    lock = FileLock(cache / f"{store.key(MEMBERS)}.lock")
    with lock:
        processes = [child(script, cache) for _ in range(2)]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    printed = [output.splitlines() for output, _ in ended]
    assert sum(lines.count("trains") for lines in printed) == 1
    weights = [str([w.tolist() for w in model.weights.values()]) for model in direct]  # 17 digits: all bits
    assert [lines[-2:] for lines in printed] == [weights, weights]
    entry(cache)  # one of each file
