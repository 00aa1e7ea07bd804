"""One clear line for a bad value: it names the value and says what is allowed."""

import math
from collections.abc import Collection
from numbers import Integral, Real


def number(name: str, value: object, low: float = -float("inf"), high: float = float("inf")) -> None:
    """Raise ValueError unless `value` is a finite real number in [low, high]."""
    real = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not real or not low <= value <= high:
        raise ValueError(f"{name} = {value!r}: allowed is a number {_between(low, high)}")


def integer(name: str, value: object, low: float = 1, high: float = float("inf")) -> None:
    """Raise ValueError unless `value` is an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise ValueError(f"{name} = {value!r}: allowed is an integer {_between(low, high)}")


def integers(name: str, value: object, low: float = 1, high: float = float("inf")) -> None:
    """Raise ValueError unless `value` is a tuple of integers in [low, high], one at least."""
    if not isinstance(value, tuple) or not value:
        raise ValueError(f"{name} = {value!r}: allowed is a tuple of integers, one at least")
    for item in value:
        integer(f"an item of {name}", item, low, high)


def lengths(value: object) -> tuple[int, int]:
    """Context lengths n, given as one integer or as a pair (low, high): the pair.

    Raises ValueError unless 1 <= low <= high.
    """
    low, high = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    integer("n", low)
    integer("n", high, low)
    return low, high


def one_of(name: str, value: object, allowed: Collection[object]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} = {value!r}: allowed is {' or '.join(map(repr, allowed))}")


def shape(name: str, tensor, *expected: int | None) -> None:
    """Raise ValueError unless `tensor` has the expected shape (None: any size)."""
    actual = tuple(tensor.shape)
    fits = len(actual) == len(expected) and all(
        want in (None, have) for have, want in zip(actual, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{name} has shape {actual}: allowed is ({wanted})")


def _between(low: float, high: float) -> str:
    if high == float("inf"):
        return "of any size" if low == -float("inf") else f">= {low}"
    return f"from {low} to {high}"
