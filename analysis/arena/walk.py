"""Tuning: a walk from point to point, of at most a fixed number of runs.

A point gives each tuned setting a value. From the start the walk tries the neighbours along one setting after the other
and moves to a neighbour whose loss is lower by more than the noise; while that helps it goes on in the same direction.
When all settings were tried it begins again with the first. It ends where no neighbour of its best point is left.
Every row may have equally many runs.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from analysis.arena.ledger import Point
from analysis.arena.spec import Entrant, Tuning

Loss = Callable[[Point], float | None]  # the final loss of the run at a point; infinite if it diverged, None if not run


@dataclass(frozen=True)
class Axis:
    """A tuned setting. `values`: those to choose from, in order, numbers or names; empty for a rate, which is `start`
    times a whole power of `factor`."""

    setting: str
    factor: float = 2.0
    start: float = 1.0
    values: tuple[Any, ...] = ()

    @property
    def named(self) -> bool:
        """Whether the values are names, which have no order: each is next to every other."""
        return any(isinstance(value, str | bool) for value in self.values)

    def neighbours(self, point: Point, direction: int) -> list[Point]:
        """The points one step up (1) or down (-1): none at the end of the values. All other names are up."""
        if self.named:
            others = [value for value in self.values if value != point[self.setting]]
            return [point | {self.setting: value} for value in others] if direction > 0 else []
        found = self._neighbour(point, direction)
        return [] if found is None else [found]

    def _neighbour(self, point: Point, direction: int) -> Point | None:
        value = point[self.setting]
        if not self.values:
            # From the start: a value that is rounded at every step would differ on the way back.
            power = round(math.log(value / self.start, self.factor)) + direction
            return point | {self.setting: float(f"{self.start * self.factor**power:.6g}") if power else self.start}
        place = self.values.index(value) + direction
        return point | {self.setting: self.values[place]} if 0 <= place < len(self.values) else None


@dataclass(frozen=True)
class Walk:
    """points: run so far, in order; best: of them; pending: the next to run, None when the walk is over; bracketed: the
    settings whose neighbours of the best point were both run so far, by this walk or another, and are no better; a
    number at the end of its list is not."""

    points: list[Point]
    best: Point
    pending: Point | None
    bracketed: list[str]


def start_and_axes(entrant: Entrant, lr: float, adam_lr: float, tuning: Tuning) -> tuple[Point, list[Axis]]:
    """Where a row's tuning starts, and what it tunes. lr, adam_lr: where the row does not say."""
    point: Point = {"lr": entrant.lr or lr, "adam_lr": entrant.adam_lr or adam_lr}
    axes = []
    for setting, values in entrant.own.items():
        point[setting] = values[0]
        axes.append(Axis(setting, values=tuple(sorted(values))))
    # A rate may take many runs; first, it would leave none for an option of few values.
    return point, [*axes, *(Axis(rate, tuning.factor, point[rate]) for rate in ("lr", "adam_lr"))]


def walk(start: Point, axes: list[Axis], tuning: Tuning, loss: Loss) -> Walk:
    """The walk as far as runs have been made. It depends on their losses alone, so it can be interrupted anywhere."""
    steps, pending = _Steps(start, tuning), None
    for point in steps.proposals(axes):
        if len(steps.points) == tuning.runs:
            break
        if (found := loss(point)) is None:
            pending = point
            break
        steps.take(point, found)
    bracketed = [axis.setting for axis in axes if _bracketed(axis, steps, loss)]
    return Walk(steps.points, steps.best, pending, bracketed)


def _bracketed(axis: Axis, steps: "_Steps", loss: Loss) -> bool:
    sides = [axis.neighbours(steps.best, direction) for direction in (1, -1)]
    losses = [loss(point) for side in sides for point in side]
    stays = steps.lowest < math.inf and all(found is not None and not steps.is_better(found) for found in losses)
    return stays and (axis.named or all(sides))


class _Steps:
    """The points that were run, and the best of them, with its loss: where the walk stands."""

    def __init__(self, start: Point, tuning: Tuning):
        self.start, self.best, self.points = start, start, list[Point]()
        self._noise, self.lowest = tuning.noise, math.inf

    def take(self, point: Point, loss: float) -> None:
        """Count a run; move to its point if that is better."""
        self.points.append(point)
        if self.is_better(loss):
            self.best, self.lowest = point, loss

    def is_better(self, loss: float) -> bool:
        """Whether a loss is lower than that of the best point by more than the noise."""
        return loss < self.lowest - self._noise

    def proposals(self, axes: list[Axis]) -> Iterator[Point]:
        """Points to run, each new. Ends when no neighbour of the best point is left."""
        yield self.start
        before = -1
        while len(self.points) > before:
            before = len(self.points)
            for axis in axes:
                for direction in (1, -1):
                    stood = None
                    while stood is not self.best:
                        stood = self.best
                        for point in axis.neighbours(stood, direction):
                            if point not in self.points:
                                yield point
