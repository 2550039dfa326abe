"""How a step sees moments that are held narrow: wide, to be advanced in place, and rounded again after it.

Narrow are bytes (`state_bits=8`), and moments of bfloat16 of which one is rounded stochastically.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..functional import rounding
from ..functional.quantisation import dequantised, quantised
from . import eight_bit
from .eight_bit import SIGNED, maxima_of, stored
from .moment_draws import Draws


def seen_wide(state: dict[str, Any], draws: Draws) -> list[str]:
    """The moments that a step sees wide and `state` holds narrow. If one of bfloat16 is rounded stochastically, a step
    sees all of them wide: the passes of a method have one dtype."""
    halves = {key for key in SIGNED if key in state and state[key].dtype == torch.bfloat16}
    if draws.bfloat16_seed is None or not halves.intersection(draws.keys):
        halves = set()
    return [key for key in SIGNED if maxima_of(key) in state or key in halves]


@contextlib.contextmanager
def wide(
    state: dict[str, Any], dtype: torch.dtype, draws: Draws, *, if_written: bool = False
) -> Iterator[dict[str, Any]]:
    """`state` with its narrow moments in `dtype`, for changes in place; they are rounded when the block ends without an
    error.

    if_written: round only those that were written. Quantising again changes bytes even without a change of the moments:
    where the largest number of a block is negative, its maximum shrinks by 0.7 per cent.
    """
    keys = seen_wide(state, draws)
    if not keys:
        yield state
        return
    moments = {key: _widened(key, state, dtype) for key in keys}
    before = {key: moment._version for key, moment in moments.items()}
    others = state.keys() - set(stored(keys))
    yield {key: state[key] for key in state if key in others} | moments
    for key, moment in moments.items():
        if not if_written or moment._version != before[key]:
            _round(moment, key, state, draws)


def _rows(codes: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes [B, k] and maxima [B, blocks] of a moment; B is 1 for one whose blocks go through all its dimensions."""
    count = maxima.shape[:-1].numel()
    return codes.reshape(count, -1), maxima.reshape(count, -1)


def _widened(key: str, state: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """A copy of the moment `key`, in its shape."""
    held = state[key]
    if held.dtype != torch.uint8:
        return held.to(dtype, copy=True)
    values = eight_bit.maps(held.device)[SIGNED[key]].values
    return dequantised(*_rows(held, state[maxima_of(key)]), values).view(held.shape).to(dtype)


def _round(moment: Tensor, key: str, state: dict[str, Tensor], draws: Draws) -> None:
    held = state[key]
    if held.dtype == torch.uint8:
        _quantise(moment, key, state, draws)
    elif draws.bfloat16_seed is not None and key in draws.keys:
        sources = draws.sources(draws.bfloat16_seed, key, held.device)
        is_stack = held.ndim > 0 and len(held) == len(sources)  # else the moment of one parameter of any shape
        of_matrices = zip(held, moment, strict=True) if is_stack else [(held, moment)]
        for (narrow, exact), source in zip(of_matrices, sources, strict=True):
            rounding.write(narrow, exact.float(), source)
    else:
        held.copy_(moment)


def _quantise(moment: Tensor, key: str, state: dict[str, Tensor], draws: Draws) -> None:
    codes, maxima = state[key], state[maxima_of(key)]
    rows = moment.float().reshape(maxima.shape[:-1].numel(), -1)
    new_state = quantised(rows, eight_bit.maps(codes.device)[SIGNED[key]], draws.noise(key, rows))
    for held, new in zip((codes, maxima), new_state, strict=True):
        held.copy_(new.view(held.shape))
