"""The allocator: memory against the plan, and micro-batches of many sizes without fragments."""

from collections.abc import Iterator

import torch

from benchmarks.acceptance.device import SIZES, config_of, micro_batch, random_model
from benchmarks.acceptance.items import Item, Measured, Setup, at_most, near
from benchmarks.acceptance.step_times import prepared
from optimizers import Adam
from training.plan import plan_run

MICRO_BATCHES = 60
TOLERANCE, FRAGMENTS, LAMB = 0.15, 1.15, 2.0  # of the plan; reserved over allocated; GiB


def allocator(setup: Setup) -> Iterator[Item]:
    """Only a CUDA device has this allocator."""
    for size in ("60m", "1_3b"):
        yield Item(size, lambda size=size: _of_micro_batches(size, setup.device))  # type: ignore[misc]
    yield Item("lamb", lambda: [_of_lamb(setup.device)])


def _of_micro_batches(size: str, device: torch.device) -> list[Measured]:
    """Padded micro-batches, each of another size, may leave fragments. Full ones are what a plan counts."""
    rows = SIZES[size].rows
    model = random_model(SIZES[size], device)
    optimizer = Adam(model.parameters(), lr=1e-6)

    def train(batches: int, *, padded: bool) -> tuple[int, int]:
        torch.cuda.reset_peak_memory_stats()
        for number in range(batches):
            model(**micro_batch(rows, device, padded=padded, seed=number).inputs).loss_sum.backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()

    retries = torch.cuda.memory_stats()["num_alloc_retries"]
    allocated, reserved = train(MICRO_BATCHES, padded=True)
    full, _ = train(8, padded=False)
    planned = plan_run(config_of(SIZES[size], f"train.batch_size={rows}", "train.steps=10"))["cluster"]["memory"]
    more = torch.cuda.memory_stats()["num_alloc_retries"] - retries
    return judged(size, planned["peak_bytes"], full, reserved / allocated, more)


def judged(size: str, planned: int, full: int, fragments: float, retries: int) -> list[Measured]:
    """The lines of a model: bytes planned and, with full micro-batches, allocated at the most; bytes reserved over
    allocated with padded ones."""
    return [
        Measured(f"{size}, GiB allocated", full / 2**30),
        near(f"{size}, allocated over planned", full / planned, TOLERANCE),
        at_most(f"{size}, reserved over allocated", fragments, FRAGMENTS),
        at_most(f"{size}, allocations tried again", retries, 0),
    ]


def _of_lamb(device: torch.device) -> Measured:
    model, optimizer = prepared(SIZES["1_3b"], "lamb", device)
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    optimizer.step()
    more = torch.cuda.max_memory_allocated() - held
    del model
    return at_most("LAMB at 1.3B, GiB of transients", more / 2**30, LAMB)
