"""Forward, backward and optimizer of whole models: targets a second, and what each part takes."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from benchmarks.acceptance.device import (
    SIZES,
    config_of,
    median_seconds,
    micro_batch,
    random_model,
)
from benchmarks.acceptance.items import Item, Measured, Setup, at_least, at_most
from benchmarks.acceptance.step_times import prepared
from benchmarks.machine import seconds
from models.kernels.cross_entropy import summed_cross_entropy
from models.llama import LlamaForCausalLM
from training.cluster.cards import CARDS
from training.compiler import missing_compiler
from training.plan import plan_run

BATCH = 512  # rows of a step
# Targets a second of padded rows on an H100: eager, compiled.
LEAST = {"60m": (350e3, 600e3), "350m": (90e3, 130e3), "1_3b": (32e3, 40e3)}
FASTER = 1.2  # compiled over eager
LOSS = 0.35  # of a step at 60M
STEPS = {"alice": 1.08, "racs": 1.06}  # over a step with Adam, at 1.3B


class Case(NamedTuple):
    """A model's size, whether its layers are compiled, and whether rows are padded."""

    size: str
    compiled: bool
    padded: bool


# Compiling takes longer than the measurement, so only padded rows are compiled: they need the most kernels.
CASES = [Case(size, False, padded) for size in SIZES for padded in (True, False)]
CASES += [Case(size, True, True) for size in ("60m", "1_3b", "350m")]


class Found(NamedTuple):
    """Seconds of a micro-batch and of the first one, targets of it."""

    seconds: float
    first: float
    targets: int


def training(setup: Setup) -> Iterator[Item]:
    """Micro-batches of random rows; a step is as many as the paper's batch has, and Adam's step."""
    passes: dict[Case, Found] = {}
    steps: dict[str, float] = {}
    for case in CASES:
        yield Item(
            f"{case.size} {_form(case)}",
            lambda case=case: _speed(case, setup, passes, steps),  # type: ignore[misc]
        )
    yield Item("loss", lambda: [_loss_share(setup, passes)])
    for name, limit in STEPS.items():
        yield Item(name, lambda name=name, limit=limit: [_against_adam(name, limit, setup, passes, steps)])  # type: ignore[misc]


def _form(case: Case) -> str:
    return f"{'compiled' if case.compiled else 'eager'} {'padded' if case.padded else 'packed'}"


def of_case(case: Case, device: torch.device) -> Found:
    """Forward and backward of a micro-batch."""
    model = random_model(SIZES[case.size], device)
    if case.compiled:
        model.compile(dynamic=False)
    batch = micro_batch(SIZES[case.size].rows, device, padded=case.padded)

    def both() -> None:
        model(**batch.inputs).loss_sum.backward()

    first = seconds(both)
    return Found(median_seconds(both, 8), first, batch.targets)


def _speed(case: Case, setup: Setup, passes: dict[Case, Found], steps: dict[str, float]) -> Iterator[Measured]:
    if case.compiled and (missing := missing_compiler(setup.device, torch.bfloat16)):
        yield Measured(f"{case.size} {_form(case)}", f"not measured: {missing} is missing")
        return
    found = passes[case] = of_case(case, setup.device)
    name, size = f"{case.size} {_form(case)}", SIZES[case.size]
    if case.size not in steps:
        steps[case.size] = _optimizer_seconds(case.size, "adam", setup)
    times = BATCH / size.rows
    step = times * found.seconds + steps[case.size]
    limit = LEAST.get(case.size, (0, 0))[case.compiled]
    yield at_least(
        f"{name}, targets/s", times * found.targets / step, limit, asked=setup.speed and case.padded and limit > 0
    )
    config = config_of(size)
    flops = plan_run(config)["flops_per_position"] * found.targets * times
    yield Measured(f"{name}, share of an H100's bfloat16 FLOPs", flops / step / CARDS["H100"].bfloat16)
    yield Measured(f"{name}, micro-batch ms", 1e3 * found.seconds)
    yield Measured(f"{name}, first micro-batch s", found.first)
    if case.compiled:
        eager = passes[case._replace(compiled=False)].seconds
        yield at_least(f"{name}, faster than eager", eager / found.seconds, FASTER, asked=setup.speed)


def _optimizer_seconds(size: str, name: str, setup: Setup) -> float:
    model, optimizer = prepared(SIZES[size], name, setup.device)
    took = median_seconds(optimizer.step)
    del model
    return took


def _loss_share(setup: Setup, passes: dict[Case, Found]) -> Measured:
    case = Case("60m", False, True)
    took = loss_seconds(random_model(SIZES["60m"], setup.device), passes[case].targets)
    return at_most("60m, loss's share of an eager micro-batch", took / passes[case].seconds, LOSS, asked=setup.speed)


def loss_seconds(model: LlamaForCausalLM, positions: int) -> float:
    """Forward and backward of the loss alone."""
    weight = model.lm_head.weight
    hidden = torch.randn(positions, weight.shape[1], device=weight.device, dtype=weight.dtype, requires_grad=True)
    targets = torch.randint(weight.shape[0], (positions,), device=weight.device)
    return median_seconds(lambda: summed_cross_entropy(hidden, weight, targets, model._loss_chunk).backward())


def _against_adam(
    name: str, limit: float, setup: Setup, passes: dict[Case, Found], steps: dict[str, float]
) -> Measured:
    """A step with the optimizer over one with Adam, compiled if that was measured."""
    compiled = Case("1_3b", True, True)
    found = passes.get(compiled) or passes[compiled._replace(compiled=False)]
    together = BATCH / SIZES["1_3b"].rows * found.seconds
    ratio = (together + _optimizer_seconds("1_3b", name, setup)) / (together + steps["1_3b"])
    return at_most(f"1_3b, a step with {name} over one with adam", ratio, limit, asked=setup.speed)
