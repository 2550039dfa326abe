"""States in 8 bits (the option `state_bits`): which tensors are bytes, and how a step sees them.

A moment of 4096 elements and more is held as one byte an element, an index into a map of 256 values that are densest
near 0, and one float32 maximum for each block of 256 elements. A step gets it wide, changes it in place, and it is
quantised again. What stays wide, and why: docs/eight-bit-states.md.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..functional.quantisation import BLOCK, ByteMap, byte_map, dequantised, quantised

if TYPE_CHECKING:
    from .byte_draws import Draws

SMALLEST = 4096  # elements from which on moments are held in 8 bits, as by bitsandbytes' own optimizers

# The moments, and whether their map has signs.
SIGNED = {"exp_avg": True, "exp_avg_sq": False}


def library() -> ModuleType:
    """bitsandbytes.functional. Raises ImportError saying what to install."""
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise ImportError("8-bit optimizers need bitsandbytes: pip install bitsandbytes") from error
    return functional


def is_narrow(group: dict[str, Any]) -> bool:
    """Whether the moments of a group are held in 8 bits."""
    return group.get("state_bits") == 8


def maxima_of(key: str) -> str:
    """The name of the blocks' maxima of the moment `key`."""
    return f"{key}_absmax"


def stored(keys: Iterable[str]) -> list[str]:
    """The names under which the state of these names may be held: bytes have their maxima beside them."""
    return [name for key in keys for name in (key, maxima_of(key))]


def narrowed(state: dict[str, Any], exact: tuple[str, ...], *, matrices_from: int | None) -> dict[str, Any]:
    """The new `state` of one parameter, all zero, with its moments in 8 bits but for those named in `exact`.

    matrices_from: the dimensions of a tensor from this one on are of one matrix, whose blocks are its own; a vector
    stays wide. None: a tensor of any shape is one row of elements.
    """
    held = dict(state)
    # In one order on every process: state is sent tensor by tensor.
    for key in (key for key in SIGNED if key in state and key not in exact):
        moment = state[key]
        batch, own = moment.shape[: matrices_from or 0], moment.shape[matrices_from or 0 :]
        elements, is_matrix = own.numel(), len(own) == 2 and 1 not in own
        if elements >= SMALLEST and moment.dtype != torch.uint8 and (is_matrix or matrices_from is None):
            held[key] = torch.zeros(moment.shape, dtype=torch.uint8, device=moment.device)
            blocks = (*batch, -(-elements // BLOCK))
            held[maxima_of(key)] = torch.zeros(blocks, dtype=torch.float32, device=moment.device)
    return held


@contextlib.contextmanager
def in_order(device: torch.device, group: dict[str, Any]) -> Iterator[None]:
    """Around a step of `group`: on CUDA all of a step with bytes runs on the default stream, behind what the current
    stream has been given and before what it gets next. bitsandbytes launches some kernels there whichever is current.
    """
    if device.type != "cuda" or not is_narrow(group):
        yield
        return
    current, default = torch.cuda.current_stream(device), torch.cuda.default_stream(device)
    if current == default:
        yield
        return
    default.wait_stream(current)
    try:
        with torch.cuda.stream(default):
            yield
    finally:
        current.wait_stream(default)


@contextlib.contextmanager
def wide(
    state: dict[str, Any], dtype: torch.dtype, draws: "Draws", *, if_written: bool = False
) -> Iterator[dict[str, Any]]:
    """`state` with its bytes as moments of `dtype`, for changes in place; they are quantised when the block ends
    without an error.

    if_written: only those that were written. Quantising again changes bytes even without a change of the moments: where
    the largest number of a block is negative, its maximum shrinks by 0.7 per cent.
    """
    keys = [key for key in SIGNED if maxima_of(key) in state]
    if not keys:
        yield state
        return
    moments = {key: _widened(key, state).to(dtype) for key in keys}
    before = {key: moment._version for key, moment in moments.items()}
    others = state.keys() - set(stored(keys))
    yield {key: state[key] for key in state if key in others} | moments
    for key, moment in moments.items():
        if not if_written or moment._version != before[key]:
            _quantise(moment, key, state, draws)


def _rows(codes: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes [B, k] and maxima [B, blocks] of a moment; B is 1 for one whose blocks go through all its dimensions."""
    count = maxima.shape[:-1].numel()
    return codes.reshape(count, -1), maxima.reshape(count, -1)


def _widened(key: str, state: dict[str, Tensor]) -> Tensor:
    """float32, in the shape of the moment `key`."""
    codes, maxima = state[key], state[maxima_of(key)]
    return dequantised(*_rows(codes, maxima), maps(codes.device)[SIGNED[key]].values).view(codes.shape)


def _quantise(moment: Tensor, key: str, state: dict[str, Tensor], draws: "Draws") -> None:
    codes, maxima = state[key], state[maxima_of(key)]
    rows = moment.float().reshape(maxima.shape[:-1].numel(), -1)
    new_state = quantised(rows, maps(codes.device)[SIGNED[key]], draws.noise(key, rows))
    for held, new in zip((codes, maxima), new_state, strict=True):
        held.copy_(new.view(held.shape))


@functools.cache
def maps(device: torch.device) -> dict[bool, ByteMap]:
    """bitsandbytes' maps: True: 256 values in [-1, 1] for first moments, False: in [0, 1] for second moments."""
    create = library().create_dynamic_map
    return {signed: byte_map(create(signed=signed).to(device), signed=signed) for signed in (True, False)}
