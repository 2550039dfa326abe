"""Refreshes shared among replicas: each computes some of the bases and sends them to the others."""

import itertools
from collections.abc import Callable, Iterable

import torch.distributed as dist
from torch import Tensor

from ..engine.stack import Stack
from .tensor_messages import send_to_all


def refresh_in_shares(
    due: Iterable[tuple[Stack, list[int]]],
    refresh: Callable[[Stack, list[int]], None],
    refreshed: Iterable[str],
    processes: dist.ProcessGroup,
) -> None:
    """Refresh the matrices that are due, dealt in turn to `processes`, and send each result to all others.

    Args:
        due: pairs of a stack and the indices of its matrices that are due, the same on every process.
        refresh: refreshes the matrices of a stack with these indices.
        refreshed: names of the state that `refresh` writes.
    """
    me, count = processes.rank(), processes.size()
    results: list[list[Tensor]] = [[] for _ in range(count)]
    dealt = 0  # matrices so far: stacks are dealt one after the other, without a new beginning
    for stack, places in due:
        shares = [places[(process - dealt) % count :: count] for process in range(count)]
        refresh(stack, shares[me])
        for share, result in zip(shares, results, strict=True):
            for part in evenly_spaced(share):
                result += [stack.state[key][part] for key in refreshed if key in stack.state]
        dealt += len(places)
    for message in send_to_all(results, processes):
        message.finish()


def evenly_spaced(places: list[int]) -> list[slice]:
    """`places`, ascending, as one slice if they are evenly spaced, else one by one: a slice of a stack is a view."""
    if not places:
        return []
    gaps = {later - earlier for earlier, later in itertools.pairwise(places)}
    if len(gaps) > 1:
        return [slice(place, place + 1) for place in places]
    return [slice(places[0], places[-1] + 1, gaps.pop() if gaps else 1)]
