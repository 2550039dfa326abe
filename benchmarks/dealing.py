"""The seconds of an optimizer's step on replicas: dealt to them, against made whole by each of them."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import optimizers
from configs.schema import Model
from models.llama import build_model
from optimizers import BaseOptimizer, registry
from training.processes.world import World

RANK = 128  # of llama_60m in Table 10 of arXiv 2502.07752


class StepSeconds(NamedTuple):
    """Medians of the rounds: seconds from a common start to the end on all processes, the processor's seconds of the
    process that took the most, and the ratios dealt / whole of both."""

    whole: float
    dealt: float
    ratio: float
    whole_processor: float
    dealt_processor: float
    processor_ratio: float


def step_seconds(name: str, section: Model, world: World, rounds: int) -> StepSeconds:
    """Measure plain steps of the optimizer `name` on the matrices of a model, both ways in turn. All processes call it
    together."""
    steppers = [stepper(name, section, dealt) for dealt in (False, True)]
    seconds: list[list[tuple[float, float]]] = [[], []]
    for step in steppers:
        step()  # makes bases and stacks
    for _ in range(rounds):
        for step, measured in zip(steppers, seconds, strict=True):
            dist.barrier()
            measured.append(_slowest(step))
    medians = []
    for whole, dealt in ([[each[k] for each in measured] for measured in seconds] for k in (0, 1)):
        ratios = [b / a for a, b in zip(whole, dealt, strict=True)]
        medians += [statistics.median(values) for values in (whole, dealt, ratios)]
    return StepSeconds(*medians)


def _slowest(step: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and seconds of the processor, that `step` takes on the process where it takes the most of each."""
    started, processor = time.perf_counter(), time.process_time()
    step()
    took = torch.tensor([time.perf_counter() - started, time.process_time() - processor])
    dist.all_reduce(took, dist.ReduceOp.MAX)
    wall, busy = took.tolist()
    return wall, busy


def stepper(name: str, section: Model, dealt: bool) -> Callable[[], Any]:
    """The step of an optimizer on the matrices of a model, without the parameters that Adam steps."""
    model = build_model(section, dtype=torch.float32, seed=0)
    options: dict[str, Any] = {"rank": RANK} if registry.options(name).get("rank") else {}
    optimizer = optimizers.build(model, name, lr=1e-4, **options)
    for group in list(optimizer.param_groups):
        if group["algorithm"] == "adam":
            optimizer.param_groups.remove(group)
    source = torch.Generator().manual_seed(0)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter).normal_(generator=source)
    share(optimizer, dealt)
    return optimizer.step


def share(optimizer: BaseOptimizer, dealt: bool) -> None:
    """Deal the steps of `optimizer` to all processes, or its refreshes."""
    assert dist.group.WORLD is not None
    (optimizer.deal_steps if dealt else optimizer.share_refreshes)(dist.group.WORLD)
