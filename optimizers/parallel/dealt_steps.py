"""Steps dealt to replicas: each process steps some of the matrices and sends their new weights to the others."""

from torch import Tensor


def deal(parameters: list[Tensor], dealt: dict[Tensor, int], count: int) -> dict[Tensor, int]:
    """The process, of `count`, that steps each of `parameters`; `dealt` are those that were dealt before.

    The largest are dealt first, each to the process with the fewest elements so far: a step takes about the same time
    for each element of a model's matrices. The result depends on shapes and order alone.
    """
    elements = [sum(p.numel() for p, owner in dealt.items() if owner == process) for process in range(count)]
    owners = {}
    for parameter in sorted(parameters, key=Tensor.numel, reverse=True):
        owners[parameter] = elements.index(min(elements))
        elements[owners[parameter]] += parameter.numel()
    return owners
