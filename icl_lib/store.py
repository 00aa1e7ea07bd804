"""Trained models on disk, keyed by everything that determines them: settings, code, torch and device.

An entry is a JSON file that names a safetensors file, with checksums of both. They are written under a
temporary name, synced and renamed, the JSON last: an entry is whole or it is not there. A damaged or
half-written entry is reported, set aside and trained again. Runs that want the same models train them once.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from uuid import uuid4

import torch
from filelock import FileLock
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from icl_lib.provenance import git_commit, home, library_hash, versions
from icl_lib.training import Trained, Training, TrainingDiverged, Weights, train

PARTS = ("weights", "last", "history", "kept")  # of a trained model


def trained(
    members: Sequence[Training], *, starts: Sequence[Weights] | None = None, device: str | None = None
) -> list[Trained]:
    """The trained members, from the store or trained now as one stack (see `training.train`).

    A training that was killed goes on from its last checkpoint. The key is that of the whole stack: a
    member's weights depend on the others by rounding alone, but a book that is built again is to be the
    same to the last bit.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    name = key(members, device, starts)
    with FileLock(folder / f"{name}.lock"):
        found = read(folder, name)
        if found is None:
            found = _train(folder, name, members, device, starts)
    tensors, about = found
    return [
        Trained(member, **_split(tensors, row), skipped=about["skipped"][row])
        for row, member in enumerate(members)
    ]


def key(members: Sequence[Training], device: str = "cpu", starts: Sequence[Weights] | None = None) -> str:
    """The name of an entry: a hash of all that determines it."""
    determined_by = [describe(list(members)), library_hash(["training"]), versions()["torch"], device]
    if starts is not None:
        determined_by.append([_sha256(save_tensors(dict(sorted(weights.items())))) for weights in starts])
    return hashlib.sha256(json.dumps(determined_by).encode()).hexdigest()[:24]


def describe(value: object) -> object:
    """Settings as JSON holds them; dataclasses carry their name."""
    if is_dataclass(value):
        return {"is": type(value).__name__} | {
            f.name: describe(getattr(value, f.name)) for f in fields(value)
        }
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    return value


def cache_folder() -> Path:
    """`$ICL_CACHE`, or `.cache/models` of the checkout."""
    return Path(os.environ.get("ICL_CACHE") or home() / ".cache" / "models")


def write(folder: Path, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write an entry whole; it takes the place of an older one of the same name."""
    payload = save_tensors(
        {label: t.cpu().clone(memory_format=torch.contiguous_format) for label, t in tensors.items()}
    )
    checksum = _sha256(payload)
    older = set(folder.glob(f"{name}-*.safetensors"))
    file = folder / f"{name}-{checksum[:16]}.safetensors"
    _write_whole(file, payload)
    entry = {**about, "file": file.name, "sha256": checksum}
    entry["sha256 of the rest"] = _sha256(json.dumps(entry).encode())
    _write_whole(folder / f"{name}.json", json.dumps(entry, indent=1).encode())
    for path in older - {file}:
        path.unlink(missing_ok=True)


def read(folder: Path, name: str) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and JSON of an entry; None if there is none, or if it was damaged and is now set aside."""
    path = folder / f"{name}.json"
    files = list(folder.glob(f"{name}-*.safetensors"))
    if not path.exists() and not files:
        return None
    try:
        about = json.loads(path.read_bytes())
        if about.pop("sha256 of the rest") != _sha256(json.dumps(about).encode()):
            raise ValueError(f"checksum of {path.name} differs")
        payload = (folder / about["file"]).read_bytes()
        if about["sha256"] != _sha256(payload):
            raise ValueError(f"checksum of {about['file']} differs")
        return load_tensors(payload), about
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        aside = folder / "damaged" / f"{name}-{uuid4().hex[:8]}"
        aside.mkdir(parents=True)
        for part in [path, *files]:
            if part.exists():
                part.rename(aside / part.name)
        warnings.warn(f"stored entry {name} is damaged ({error}): set aside in {aside.name}", stacklevel=2)
        return None


def _train(
    folder: Path,
    name: str,
    members: Sequence[Training],
    device: str,
    starts: Sequence[Weights] | None,
) -> tuple[dict, dict]:
    """Train from the checkpoint if there is one, and store the result."""
    checkpoint = f"{name}.checkpoint"
    state, spent = read(folder, checkpoint) or (None, {"seconds": 0.0})
    started = time.monotonic() - spent["seconds"]

    def save(state: dict[str, Tensor]) -> None:
        write(folder, checkpoint, state, {"seconds": time.monotonic() - started})

    try:
        models = train(members, starts=starts, state=state, save=save, device=device)
    except TrainingDiverged as error:
        write(
            folder,
            f"{name}.diverged",
            error.weights,
            {"settings": describe(error.settings), "step": error.step},
        )
        error.add_note(f"its last finite weights are in the store: {folder / name}.diverged.json")
        raise
    tensors = {
        f"{row}/{part}/{label}": tensor
        for row, model in enumerate(models)
        for part in PARTS
        for label, tensor in getattr(model, part).items()
    }
    about = {
        "settings": describe(list(members)),
        "skipped": [model.skipped for model in models],
        "seconds": time.monotonic() - started,
        "device": device,
        "library": library_hash(["training"]),
        "commit": git_commit(),
        "versions": versions(),
    }
    write(folder, name, tensors, about)
    for path in [*folder.glob(f"{checkpoint}*"), *folder.glob(f".{name}*")]:  # of killed trainings too
        path.unlink(missing_ok=True)
    return tensors, about


def _split(tensors: Mapping[str, Tensor], row: int) -> dict[str, dict]:
    """A member's parts out of the entry, in an order that files keep."""
    parts: dict[str, dict] = {part: {} for part in PARTS}
    for label, tensor in sorted(tensors.items()):
        member, part, name = label.split("/")
        if int(member) == row:
            parts[part][name] = tensor
    return parts


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
