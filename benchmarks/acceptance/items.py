"""Items of checks: what is measured, and how it is judged."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Setup:
    """`speed`: whether limits of speed, which are an H100's, apply; without they are printed only."""

    device: torch.device
    speed: bool = False


class Measured(NamedTuple):
    """A line: what was found, the limit in words, and whether it is kept. `passed` is None where nothing is asked."""

    name: str
    value: float | str
    limit: str = "-"
    passed: bool | None = None


class Item(NamedTuple):
    """`measure` takes some seconds and gives one line or several."""

    name: str
    measure: Callable[[], Iterable[Measured]]


Check = Callable[[Setup], Iterator[Item]]


def at_most(name: str, value: float, limit: float, *, asked: bool = True) -> Measured:
    """A value that is not a number fails."""
    return Measured(name, value, f"<= {limit:g}", value <= limit) if asked else Measured(name, value)


def at_least(name: str, value: float, limit: float, *, asked: bool = True) -> Measured:
    """A value that is not a number fails."""
    return Measured(name, value, f">= {limit:g}", value >= limit) if asked else Measured(name, value)


def near(name: str, value: float, limit: float) -> Measured:
    """A ratio that should be 1 but for `limit`."""
    return Measured(name, value, f"1 +- {limit:g}", abs(value - 1) <= limit)


def holds(name: str, value: str | float, passed: bool, limit: str) -> Measured:
    """A fact."""
    return Measured(name, value, limit, passed)
