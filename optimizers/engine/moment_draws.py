"""Which moments are rounded stochastically where they are held narrow, and the draws of it.

A slow average changes in a step by less than half the distance of two values of a byte, or of two numbers of bfloat16.
Rounded to nearest it would stay where it is for ever (docs/eight-bit-states.md, docs/numerics.md).
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import eight_bit
from .generators import moment_source

if TYPE_CHECKING:
    from .base import BaseOptimizer

SLOW = 0.99  # the decay from which on
COUNTS = ("step", "roundings", "writes")  # the first that a state has counts the roundings of its moments


class Draws(NamedTuple):
    """What the noise of a rounding is a function of, for matrices that are rounded together."""

    keys: tuple[str, ...]  # the moments that are rounded stochastically where they are narrow
    seed: int  # of bytes
    counts: list[int]  # which rounding of a matrix this is, from 1
    indices: list[int]  # places of the matrices among all of the optimizer
    bfloat16_seed: int | None = None  # of moments of bfloat16; None: these are rounded to nearest
    refresh: bool = False  # whether it ends a refresh, not an update

    def of_refresh(self, part: slice) -> "Draws":
        """Those of a refresh of some of the matrices before their update."""
        return self._replace(counts=self.counts[part], indices=self.indices[part], refresh=True)

    def sources(self, seed: int, key: str, device: torch.device) -> list[torch.Generator]:
        """A source for the moment `key` of each matrix."""
        return [
            moment_source(seed, count, index, key, device=device, refresh=self.refresh)
            for count, index in zip(self.counts, self.indices, strict=True)
        ]

    def noise(self, key: str, rows: Tensor) -> Tensor | None:
        """Uniform in [0, 1), of the shape of `rows` [B, k], each matrix from a source of its own. None: round to
        nearest."""
        if key not in self.keys:
            return None
        noise = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
        for row, source in zip(noise, self.sources(self.seed, key, rows.device), strict=True):
            row.uniform_(generator=source)
        return noise


def draws(optimizer: "BaseOptimizer", group: dict[str, Any], states: list[dict[str, Any]], indices: list[int]) -> Draws:
    """Of the next rounding of the matrices with these places among all of `optimizer`, each with the state of its
    parameter."""
    counts = [next((state[name] for name in COUNTS if name in state), 0) + 1 for state in states]
    return Draws(slow(optimizer, group), group.get("seed", 0), counts, indices, optimizer._rounding_seed)


def count(optimizer: "BaseOptimizer", group: dict[str, Any], parameter: Tensor) -> None:
    """Count that bytes of `parameter` were rounded stochastically, where its steps are not counted. Every process does,
    whoever holds them."""
    state, keys = optimizer.state[parameter], slow(optimizer, group)
    if "step" in state or not eight_bit.is_narrow(group) or not keys:
        return
    held = _names(optimizer, group, parameter)
    if any(eight_bit.maxima_of(key) in held for key in keys):
        # Beside rounded weights `draws` counts by writes until there is this number, which goes on from them.
        state["roundings"] = state.get("roundings", state.get("writes", 1) - 1) + 1


def _names(optimizer: "BaseOptimizer", group: dict[str, Any], parameter: Tensor) -> frozenset[str]:
    """The names in the state of `parameter`, also where another process holds it."""
    if optimizer.owns(parameter):
        return frozenset(optimizer.state[parameter])
    kind = parameter.shape, parameter.dtype, id(group)
    if kind not in optimizer._state_names:
        optimizer._state_names[kind] = frozenset(optimizer.template(parameter, group))
    return optimizer._state_names[kind]


def slow(optimizer: "BaseOptimizer", group: dict[str, Any]) -> tuple[str, ...]:
    """The moments of a group that are rounded stochastically: those that are bytes, and with stochastic rounding those
    of bfloat16. One whose decay no option of a known name tells may be slow."""
    if not eight_bit.is_narrow(group) and not optimizer.rounds:
        return ()
    first, second = group.get("momentum", SLOW), SLOW
    if "betas" in group:
        place = 0 if group.get("algorithm") == "adam" else optimizer.traits.first_decay
        first, second = group["betas"][place], group["betas"][1]
    return tuple(key for key, decay in (("exp_avg", first), ("exp_avg_sq", second)) if decay >= SLOW)
