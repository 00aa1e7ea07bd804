"""Explorables: what a chapter leaves in its page for the reader to move.

The scripts are in book/_static/explorables/. Data go into the page itself: a page that was opened from disk
may not read other files.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from icl_book.studies import pruning
from icl_lib import checks
from icl_lib.training import Trained

NAMES = ("preprocess", "heads", "two_heads")


def show(name: str, figure: str, data: Mapping[str, object], digits: int = 6):
    """The place of an explorable, with its data: numbers, lists and tensors, to so many significant digits.

    Without JavaScript, and outside the book's pages, it names the static figure that stands for it.
    """
    from IPython.display import HTML  # needed by the book alone

    checks.one_of("name", name, NAMES)
    text = json.dumps(_plain(data, digits), separators=(",", ":"), allow_nan=False)
    scripts = "".join(
        f'<script src="../_static/explorables/{part}.js"></script>' for part in ("math", "page", name)
    )
    return HTML(
        f'<div class="explorable" data-explorable="{name}">'
        '<p class="explorable-fallback">This part of the page is interactive and needs JavaScript. '
        f'<a href="#{figure}">A figure</a> shows the same at rest.</p>'
        f'<script type="application/json">{text}</script>'
        f"</div>{scripts}"
    )


def transformer(model: Trained, off: pd.DataFrame) -> dict[str, object]:
    """What the page with switches for heads needs of a model: packed weights, task, lengths, what heads do.

    `off` has layer, risk and importance of each head, as `studies.ablation.heads_off` gives them.
    """
    task, layers = model.settings.task, off.groupby("layer")
    risks = layers.risk.agg(list).tolist()
    return {
        "weights": pack(model.weights),
        "task": {"d": task.d, "s": task.s, "law": task.weights, "sigma": task.sigma},
        "n_range": model.settings.n,
        "importance": layers.importance.agg(list).tolist(),
        "kept": {version: pruning.kept(risks, version) for version in pruning.VERSIONS},
    }


def pack(weights: Mapping[str, Tensor]) -> dict[str, dict]:
    """Weights in eight bits, small enough for a page: whole numbers up to 127, times each tensor's scale."""
    packed = {}
    for name, weight in weights.items():
        scale = weight.abs().max().item() / 127 or 1.0
        whole = (weight.double() / scale).round().to(torch.int8)
        text = b64encode(whole.contiguous().numpy().tobytes()).decode()
        packed[name] = {"shape": list(weight.shape), "scale": scale, "bytes": text}
    return packed


def unpack(packed: Mapping[str, Mapping]) -> dict[str, Tensor]:
    """The weights that were packed, rounded as they are now, in double precision."""
    return {
        name: torch.frombuffer(bytearray(b64decode(one["bytes"])), dtype=torch.int8)
        .double()
        .reshape(one["shape"])
        * one["scale"]
        for name, one in packed.items()
    }


def _plain(value: object, digits: int) -> object:
    """Tensors and arrays as lists, floats rounded."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(part, digits) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, digits) for part in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
