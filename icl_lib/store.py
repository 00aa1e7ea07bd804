"""Trained models on disk, keyed by all that determines them: settings, seeds, code, torch and device.

An entry is one safetensors file with its settings and a checksum in the header, written under a temporary
name, synced and renamed: it is whole or it is not there. A damaged one is reported, set aside and trained
again. Runs that want the same models train them once. What a key would not cover is trained and not stored.
"""

import ast
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import icl_lib
from icl_lib import attention_layer, checks, models, tasks, training, transformer
from icl_lib.tasks import MultiTask, Task
from icl_lib.training import Runs, Trained, Training, TrainingDiverged, Weights, run, which

PARTS = ("weights", "last", "history", "kept")  # of a trained model
NO_CHECKSUM = "0" * 64  # stands in an entry's header while its checksum is taken
TRAINS = (checks, tasks, models, transformer, attention_layer, training)  # the code that determines weights
# Classes that are no more than that code.
COVERED = (Training, Task, MultiTask, transformer.Transformer, attention_layer.AttentionLayer)


def trained(
    settings: Training,
    seeds: int | Sequence[int],
    *,
    starts: Sequence[Weights] | None = None,
    device: str | None = None,
) -> Runs:
    """The trained models of a setting, from the store or trained now by `training.run`.

    A training that was killed goes on from its last checkpoint. The key is that of the whole stack: a
    model's weights depend on the others by rounding alone, but a book that is built again is to be the same
    to the last bit. A task or model of one's own is trained each time, and a line says so: no key could tell
    what its code depends on. Without a device this is cuda where there is one. Raises TrainingDiverged with
    a note that says where the last finite weights are.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    seeds = which(seeds)
    if reason := not_covered(settings):
        print(f"{reason}: trained, and not stored", file=sys.stderr)
        return run(settings, seeds, starts=starts, device=device)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    name = key(settings, seeds, device, starts)
    with FileLock(folder / f"{name}.lock"):
        found = read(folder, name) or _train(folder, name, settings, seeds, device, starts)
    tensors, about = found
    return Runs(
        Trained(settings, seed, **_split(tensors, row), skipped=about["skipped"][row])
        for row, seed in enumerate(seeds)
    )


def key(
    settings: Training, seeds: Sequence[int], device: str = "cpu", starts: Sequence[Weights] | None = None
) -> str:
    """The name of an entry: a hash of all that determines it."""
    determined_by = [repr(settings), list(seeds), CODE, torch.__version__, device]
    if starts is not None:
        determined_by.append([_sha256(save_tensors(dict(sorted(weights.items())))) for weights in starts])
    return _sha256(json.dumps(determined_by).encode())[:24]


def not_covered(settings: Training) -> str | None:
    """Why a key would not tell these models from others; None if it does.

    It covers classes of the library's own modules, as their source was when they were imported.
    """
    for value in (settings, settings.task, settings.model):
        if type(value) not in COVERED or len(vars(value)) > len(fields(value)):
            return f"{type(value).__name__} is code that no key covers"
    changed = [module.__name__ for module in TRAINS if _running(module) != IN_MEMORY[module.__name__]]
    changed = EDITED or changed
    return f"{', '.join(changed)} changed after its import" if changed else None


def meaning(source: str) -> str:
    """A hash of Python source that comments, docstrings and layout do not change (16 hex digits)."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return _sha256(ast.dump(tree).encode())[:16]


def cache_folder() -> Path:
    """`$ICL_CACHE`, or `.cache/models` of the checkout, or of the working directory where there is none."""
    root = Path(__file__).resolve().parents[1]
    checkout = root if (root / "_toc.yml").exists() else Path.cwd()
    return Path(os.environ.get("ICL_CACHE") or checkout / ".cache" / "models")


def write(folder: Path, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write an entry whole; it takes the place of an older one of the same name."""
    tensors = {label: t.cpu().clone(memory_format=torch.contiguous_format) for label, t in tensors.items()}
    payload = save_tensors(tensors, {"about": json.dumps(about), "sha256": NO_CHECKSUM})
    payload = payload.replace(NO_CHECKSUM.encode(), _sha256(payload).encode(), 1)
    _write_whole(folder / f"{name}.safetensors", payload)


def read(folder: Path, name: str) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and settings of an entry; None if there is none, or if it was damaged and is now set aside."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
        payload = path.read_bytes()
        if _sha256(payload.replace(header["sha256"].encode(), NO_CHECKSUM.encode(), 1)) != header["sha256"]:
            raise ValueError("its checksum differs")
        return load_tensors(payload), json.loads(header["about"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        aside = folder / "damaged" / f"{name}-{uuid4().hex[:8]}.safetensors"
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)
        warnings.warn(f"stored entry {name} is damaged ({error}): set aside as {aside.name}", stacklevel=2)
        return None


def _train(
    folder: Path, name: str, settings: Training, seeds: Sequence[int], device: str, starts: Sequence | None
) -> tuple[dict, dict]:
    """Train from the checkpoint if there is one, and store the result."""
    checkpoint = f"{name}.checkpoint"
    state, spent = read(folder, checkpoint) or (None, {"seconds": 0.0})
    started = time.monotonic() - spent["seconds"]

    def save(state: dict[str, Tensor]) -> None:
        write(folder, checkpoint, state, {"seconds": time.monotonic() - started})

    try:
        runs = run(settings, seeds, starts=starts, state=state, save=save, device=device)
    except TrainingDiverged as error:
        about = {"settings": repr(settings), "seed": error.seed, "step": error.step}
        write(folder, f"{name}.diverged", error.weights, about)
        error.add_note(f"its last finite weights are in the store: {folder / name}.diverged.safetensors")
        raise
    tensors = {
        f"{row}/{part}/{label}": tensor
        for row, model in enumerate(runs)
        for part in PARTS
        for label, tensor in getattr(model, part).items()
    }
    about = {
        "settings": repr(settings),
        "seeds": list(seeds),
        "skipped": [model.skipped for model in runs],
        "seconds": time.monotonic() - started,
        "device": device,
        "code": CODE,
        "torch": torch.__version__,
    }
    write(folder, name, tensors, about)
    for path in [*folder.glob(f"{checkpoint}*"), *folder.glob(f".{name}*")]:  # of killed trainings too
        path.unlink(missing_ok=True)
    return tensors, about


def _split(tensors: Mapping[str, Tensor], row: int) -> dict[str, dict]:
    """A model's parts out of the entry, in an order that files keep."""
    parts: dict[str, dict] = {part: {} for part in PARTS}
    for label, tensor in sorted(tensors.items()):
        model, part, name = label.split("/")
        if int(model) == row:
            parts[part][name] = tensor
    return parts


def _running(module: ModuleType) -> dict[str, object]:
    """What a module holds in memory: the code of its functions and methods, and its constants."""
    held = dict(vars(module))
    for kind in [value for value in held.values() if getattr(value, "__module__", "") == module.__name__]:
        held |= {f"{kind.__qualname__}.{name}": part for name, part in getattr(kind, "__dict__", {}).items()}
    return {name: getattr(value, "__code__", value) for name, value in held.items() if "__" not in name}


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _write_whole(path: Path, payload: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the rename itself is on disk only once the folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# Sessions outlive edits of the source, and the key is that of the code that they run: what is taken here is
# that of the import, unless it was edited between that of the package and this one.
CODE = {module.__name__: meaning(icl_lib._SOURCES[module.__name__].decode()) for module in TRAINS}
EDITED = [m.__name__ for m in TRAINS if Path(m.__file__).read_bytes() != icl_lib._SOURCES[m.__name__]]
IN_MEMORY = {module.__name__: _running(module) for module in TRAINS}
