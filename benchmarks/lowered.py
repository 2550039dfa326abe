"""Lowers compiled steps and the compiled loss to the Triton source that a GPU would compile, on a machine without one,
and counts kernels, products, and bytes: each operand of a kernel or product read once, each result written once.

    pip install --no-deps --target FOLDER triton    # any folder outside of the checkout; 1 GB
    python -m benchmarks.lowered --triton FOLDER alice racs ...

A step is that of one stack of llama_1_3b: 16 matrices of 2048 x 2048 in bfloat16, rank 512. The loss is that of one
chunk of llama_60m: 8192 positions, vocabulary 32,000. Nothing is run. Exit code 1 if there are more kernels than
LIMITS allow, or if a step was not compiled. It leans on the internals of torch's compiler, of the version that
requirements.txt names.
"""

from tests.phantom import device  # before torch

import argparse  # isort: skip
import contextlib
import re
import sys
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config, scheduler
from torch._inductor.graph import GraphLowering
from torch.utils import _triton

from models.kernels.cross_entropy import CompiledChunk
from optimizers import registry
from optimizers.engine.matrix import MatrixOptimizer
from tests.phantom.steps import give_byte_maps_and_sources

SHAPE, COUNT, RANK = (2048, 2048), 16, 512
ROWS, VOCABULARY, WIDTH = 8192, 32_000, 512

# The most Triton kernels, and for the loss products too.
LIMITS = {"alice": 20, "fira": 20, "racs": 40, "apollo_mini": 12}
LOSS_LIMITS = (3, 3)

H100 = types.SimpleNamespace(
    name="H100", multi_processor_count=132, major=9, minor=0, regs_per_multiprocessor=65536, warp_size=32,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, total_memory=80 << 30, L2_cache_size=50 << 20,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448,
)  # fmt: skip


class Lowered(NamedTuple):
    """What one graph calls: Triton kernels by name, and torch's own operators by name (products, solvers)."""

    kernels: Counter[str]
    operators: Counter[str]
    bytes: int


class Captured(Exception):
    """Stops torch before it compiles the source."""


@contextlib.contextmanager
def lowering() -> Iterator[list[Lowered]]:
    """In here, torch compiles for an H100 as far as the source, whose counts are added to the list, and gives up."""
    found: list[Lowered] = []

    def stop(graph: GraphLowering) -> None:
        source = graph.codegen()[0].value
        calls = source[source.rindex("def call(") :]
        operators = re.findall(r"extern_kernels\.(\w+)\(|torch\.ops\.aten\.(\w+)[.(]", calls)
        kernels = re.findall(r"^\s+(\w+)\.run\(", calls, re.M)
        found.append(Lowered(Counter(kernels), Counter(a or b for a, b in operators), graph.count_bytes()[0]))
        raise Captured

    worker = CudaInterface.Worker
    answers: list[tuple[Any, str, Any]] = [
        (GraphLowering, "compile_to_module", stop),
        (scheduler, "has_triton", lambda *_: True),
        (_triton, "triton_hash_with_backend", lambda: "H100"),
        (torch.cuda, "get_device_properties", lambda *_: H100),
        (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
        (worker, "get_device_properties", staticmethod(lambda *_: H100)),
        (CudaInterface, "get_device_properties", staticmethod(lambda *_: H100)),
        (CudaInterface, "get_compute_capability", staticmethod(lambda *_: 90)),
        (CudaInterface, "is_bf16_supported", staticmethod(lambda *_, **__: True)),
        (CudaInterface, "is_triton_capable", staticmethod(lambda *_: True)),
        (CudaInterface, "raise_if_triton_unavailable", staticmethod(lambda *_: None)),
    ]
    with contextlib.ExitStack() as replaced:
        for owner, name, answer in answers:
            replaced.enter_context(mock.patch.object(owner, name, answer))
        # Constants would be computed on the device.
        replaced.enter_context(config.patch(force_disable_caches=True, joint_graph_constant_folding=False))
        yield found


def lower_step(name: str) -> tuple[Lowered | None, str]:
    """The plain step of a stack by the method `name`; or None and torch's reason why there is no graph."""
    defaults = {key: option.default for key, option in registry.options(name).items()}
    if defaults.get("rank", 1) > 1:
        defaults["rank"] = RANK
    torch._dynamo.reset()
    with device.phantom(), lowering() as found, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        give_byte_maps_and_sources()
        weights = [torch.nn.Parameter(torch.empty(SHAPE, dtype=torch.bfloat16, device="cuda")) for _ in range(COUNT)]
        optimizer = registry.get(name)[0](weights, lr=0.01, **defaults)
        optimizer.compile_steps(on=("cuda",))
        optimizer.allocate_state()
        for weight in weights:
            weight.grad = torch.empty_like(weight)
            if "step" in optimizer.state[weight]:
                optimizer.state[weight]["step"] = 1 + 4  # no step of a refresh
        optimizer.step()
    reasons = [str(each.message) for each in caught if "was not compiled" in str(each.message)]
    return (found[0], "") if found else (None, reasons[0] if reasons else "not attempted")


def lower_loss() -> Lowered:
    """The kernels of the loss of a chunk of positions."""
    torch._dynamo.reset()
    with device.phantom(), lowering() as found, torch.no_grad(), contextlib.suppress(Exception):
        hidden, weight = (torch.empty(n, WIDTH, dtype=torch.bfloat16, device="cuda") for n in (ROWS, VOCABULARY))
        targets = torch.empty(ROWS, dtype=torch.int64, device="cuda")
        total = torch.empty_like(weight, dtype=torch.float32)
        CompiledChunk(dynamic=False, fullgraph=True)(hidden, weight, targets, total)
    return found[0]


def main() -> int:
    """Print what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="optimizers, or `loss`; default: all and the loss")
    parser.add_argument("--triton", required=True, metavar="FOLDER", help="where triton is installed")
    arguments = parser.parse_args()
    sys.path.append(arguments.triton)
    classes = {name: registry.get(name)[0] for name in registry.names()}
    names = [
        name for name, each in classes.items() if issubclass(each, MatrixOptimizer) and each.traits.same_every_step
    ]
    faults = 0
    for name in arguments.names or ["loss", *names]:
        lowered, reason = (lower_loss(), "") if name == "loss" else lower_step(name)
        if lowered is None:
            faults += name in LIMITS
            print(f"{name}: no graph: {reason}", flush=True)
            continue
        kernels, products = lowered.kernels.total(), lowered.operators.total()
        over = kernels > LIMITS.get(name, kernels) or (name == "loss" and (kernels, products) > LOSS_LIMITS)
        faults += over
        operators = ", ".join(f"{count} {operator}" for operator, count in sorted(lowered.operators.items()))
        moved = f"{lowered.bytes / 1e9:.2f} GB"
        print(f"{name}: {kernels} kernels; {operators or 'no operator'}; {moved}{' OVER' * over}", flush=True)
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
