"""Counts a step of optimizers on a model's shapes, and of the model itself; prints a JSON object a line.

    python -m tests.phantom.steps llama_1_3b alice galore ...    plain steps of these
    python -m tests.phantom.steps llama_60m --model              forward and backward of the model

A plain step is one without a refresh. Weights and gradients are bfloat16, the rank is the paper's for the model.
"""

from tests.phantom import device  # before torch

import argparse  # isort: skip
import json
from typing import Any

import torch
from torch import Tensor

import optimizers
from configs.schema import load
from models import unpadding
from models.llama import build_model
from optimizers import registry
from optimizers.engine import eight_bit
from tests.phantom.count import Count
from training.cluster.bounds import BOUNDS

RANK = {"llama_60m": 128, "llama_1_3b": 512}  # Tables 7 and 10
DTYPE = torch.bfloat16
AGE = 4  # steps before the counted one: at the fifth no method with an interval of 10 or more refreshes
ROWS, LENGTH = 16, 256


def options(name: str, model: str) -> dict[str, Any]:
    """The options of a name that differ from its defaults: published ranks, and no refresh in each step."""
    defaults = {key: each.default for key, each in registry.options(name).items()}
    changed: dict[str, Any] = {}
    if defaults.get("rank", 1) > 1:
        changed["rank"] = RANK[model]
    if defaults.get("update_interval") == 1:
        changed["update_interval"] = 10
    return changed


def bound(optimizer: torch.optim.Optimizer, name: str) -> float:
    """Bytes that a step cannot do without (training/cluster/bounds.py)."""
    total = 0.0
    for group in optimizer.param_groups:
        adam = group["algorithm"] == "adam"
        for parameter in group["params"]:
            m, n = sorted(parameter.shape) if parameter.ndim == 2 and not adam else (1, parameter.numel())
            rank = min(group.get("rank", 1), m)
            total += BOUNDS["adam" if adam else name](m, n, rank, parameter.element_size()).bytes
    return total


def count_step(name: str, model_name: str) -> dict[str, Any]:
    section = load([f"model={model_name}"]).config.model
    model = build_model(section, dtype=DTYPE, seed=0, device="meta")
    with device.phantom():
        device.to_phantom(model)
        maps = torch.empty(256, device="cuda")
        eight_bit._maps = lambda _: (maps, maps)  # bitsandbytes fills its own on the host
        optimizer = optimizers.build(model, name, lr=0.01, **options(name, model_name))
        optimizer.allocate_state()
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
            if isinstance(optimizer.state[parameter].get("step"), int):
                optimizer.state[parameter]["step"] = AGE
        optimizer.step()  # makes the stacks
        with Count() as step:
            optimizer.step()
    return {
        "name": name, "launches": step.launches, "bytes": step.bytes, "flops": step.flops, "transients": step.peak,
        "times_bound": step.bytes / bound(optimizer, name), "waits": step.waits, "kernels": step.kernels,
    }  # fmt: skip


def count_pass(model_name: str, *, dtype: torch.dtype, padded: bool, autocast: bool) -> dict[str, Any]:
    """Forward and backward of one micro-batch, and moving it to the device."""
    model = build_model(load([f"model={model_name}"]).config.model, dtype=dtype, seed=0, device="meta")
    ids = torch.randint(1000, (ROWS, LENGTH))
    labels = ids.clone()
    if padded:
        labels[:, LENGTH * 3 // 4 :] = -100
    indices = unpadding.unpadded_indices(labels)  # made on the CPU of real labels, before anything is fake
    with device.phantom():
        device.to_phantom(model)
        with Count() as moved:
            inputs = {"input_ids": _moved(ids), "labels": _moved(labels)}
            inputs |= {} if indices is None else {"indices": _moved(indices)}
        with Count() as count:
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = model(**inputs).loss_sum
            loss.backward()
    products = [kernel for kernel in count.kernels if kernel.flops or "linear_cross_entropy" in kernel.name]
    return {
        "dtype": str(dtype), "padded": padded, "autocast": autocast, "launches": count.launches, "waits": count.waits,
        "moved": moved.waits, "products": sorted({str(kernel.dtype) for kernel in products}),
        "attention": sorted({kernel.name for kernel in count.kernels if "attention" in kernel.name}),
    }  # fmt: skip


def _moved(tensor: Tensor) -> Tensor:
    return tensor.to("cuda", non_blocking=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(RANK))
    parser.add_argument("names", nargs="*", metavar="NAME", help="optimizers; default: all, unless --model")
    parser.add_argument("--model", dest="passes", action="store_true", help="forward and backward of the model")
    parser.add_argument("--kernels", action="store_true", help="print each operator of the step too")
    arguments = parser.parse_args()
    if arguments.passes:
        for padded in (False, True):
            print(json.dumps(count_pass(arguments.model, dtype=DTYPE, padded=padded, autocast=False)), flush=True)
        print(json.dumps(count_pass(arguments.model, dtype=torch.float32, padded=False, autocast=True)), flush=True)
        return
    for name in arguments.names or registry.names():
        row = count_step(name, arguments.model)
        for kernel in row.pop("kernels"):
            if arguments.kernels:
                print(kernel.launches, f"{kernel.bytes / 2**20:.1f} MiB", kernel.name, kernel.dtype, kernel.shape)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
