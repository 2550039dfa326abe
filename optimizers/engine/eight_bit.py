"""States in 8 bits (the option `state_bits`): which tensors are bytes, and the values that bytes stand for.

A moment of 4096 elements and more is held as one byte an element, an index into a map of 256 values that are densest
near 0, and one float32 maximum for each block of 256 elements. A step sees it wide (engine/wide_moments.py). What stays
wide, and why: docs/eight-bit-states.md.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import torch

from ..functional.quantisation import BLOCK, ByteMap, byte_map

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


@functools.cache
def maps(device: torch.device) -> dict[bool, ByteMap]:
    """bitsandbytes' maps: True: 256 values in [-1, 1] for first moments, False: in [0, 1] for second moments."""
    create = library().create_dynamic_map
    return {signed: byte_map(create(signed=signed).to(device), signed=signed) for signed in (True, False)}
