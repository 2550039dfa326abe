"""Counts a step of optimizers on a model's shapes, and of the model itself; prints a JSON object a line.

    python -m tests.phantom.steps llama_1_3b alice galore ...    plain steps of these
    python -m tests.phantom.steps llama_60m --model              forward and backward of the model
    python -m tests.phantom.steps llama_60m --training           a whole training step

A plain step is one without a refresh. Weights and gradients are bfloat16, the rank is the paper's for the model.
"""

from tests.phantom import device  # before torch

import argparse  # isort: skip
import contextlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import optimizers
from configs.schema import load
from data.loader import Batch, TrainingData
from models import unpadding
from models.llama import build_model
from optimizers import registry
from optimizers.engine import base, eight_bit, moment_draws
from optimizers.functional.quantisation import ByteMap
from tests.phantom.count import Count
from training.cluster.bounds import BOUNDS
from training.device_numbers import DeviceNumbers
from training.loop import Trainer
from training.processes.layout import Replicas
from training.run.recorder import Recorder

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


def give_byte_maps_and_sources() -> None:
    """Maps of bytes on the phantom device; bitsandbytes fills its own on the host, number by number. A source of noise
    on a GPU needs one: here its draws are of no numbers, and any source does."""
    values, boundaries = torch.empty(256, device="cuda"), torch.empty(255, device="cuda")
    maps = {signed: ByteMap(values, boundaries, signed) for signed in (True, False)}
    eight_bit.maps = lambda _: maps
    base.rounding_source = moment_draws.moment_source = lambda *_, **__: torch.Generator()


def count_step(name: str, model_name: str, *, rounded: bool = False, **more: Any) -> dict[str, Any]:
    section = load([f"model={model_name}"]).config.model
    model = build_model(section, dtype=DTYPE, seed=0, device="meta")
    with device.phantom():
        device.to_phantom(model)
        give_byte_maps_and_sources()
        optimizer = optimizers.build(model, name, lr=0.01, **options(name, model_name), **more)
        if rounded:
            optimizer.round_stochastically(0)
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
        with Count() as moved, pytest.MonkeyPatch.context() as patch:
            patch.setattr(unpadding, "unpadded_indices", lambda _: indices)
            inputs = unpadding.model_inputs(ids, labels, torch.device("cuda"))
        with Count() as count:
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = model(**inputs).loss_sum
            loss.backward()
    products = [kernel for kernel in count.kernels if kernel.flops or "linear_cross_entropy" in kernel.name]
    return {
        "dtype": str(dtype), "padded": padded, "autocast": autocast, "launches": count.launches, "waits": count.waits,
        "moved": moved.waits, "products": sorted({str(kernel.dtype) for kernel in products}),
        "attention": sorted({kernel.name for kernel in count.kernels if re.search("attn|attention", kernel.name)}),
    }  # fmt: skip


def count_training_step(model_name: str) -> dict[str, Any]:
    """A whole step of `Trainer`, with padding, clipping and two micro-batches, from its batch to its row of metrics."""
    settings = ("train.dtype=bfloat16", "train.clip_grad_norm=1", f"train.micro_batch_size={ROWS}", "train.steps=100")
    config = load([f"model={model_name}", "optimizer=alice", f"train.batch_size={2 * ROWS}", *settings]).config
    model = build_model(config.model, dtype=DTYPE, seed=0, device="meta")
    ids = torch.randint(1000, (2 * ROWS, LENGTH))
    labels = ids.clone()
    labels[:, LENGTH * 3 // 4 :] = -100
    indices = unpadding.unpadded_indices(labels[:ROWS])
    rows: list[dict] = []
    with device.phantom(), pytest.MonkeyPatch.context() as patch:
        device.to_phantom(model)
        optimizer = optimizers.build(model, "alice", lr=0.01)
        optimizer.allocate_state()
        for parameter in model.parameters():
            if isinstance(optimizer.state[parameter].get("step"), int):
                optimizer.state[parameter]["step"] = AGE
        for label, group in zip(("method", "adam"), optimizer.param_groups, strict=True):
            group["label"] = label
        world: Any = Alone()
        recorder = Recorder()
        patch.setattr(recorder, "write", rows.append)
        trainer = Trainer(config, world, Replicas(model, world), optimizer, folder=Path(), recorder=recorder)
        trainer.counters.step = AGE
        patch.setattr(unpadding, "unpadded_indices", lambda _: indices)  # made of real labels, before anything is fake
        patch.setattr(trainer, "_next_batch", lambda _: (Batch(ids, labels, {}).pinned(), labels.numel()))
        patch.setattr(DeviceNumbers, "read", _read)
        progress: Any = SimpleNamespace(show=lambda *_: None)
        with Count() as step:
            trainer._step(cast(TrainingData, None), progress)
    return {"waits": step.waits + device.synchronized, "rows": len(rows), "operators": len(step.kernels)}


class Alone:
    """A process of its own, as `World` describes it."""

    device, count, is_main = torch.device("cuda"), 1, True
    accelerator = SimpleNamespace(no_sync=lambda _: contextlib.nullcontext())

    def replicate(self, model: Any) -> Any:
        return model

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor


def _read(numbers: DeviceNumbers) -> list[float]:
    """As `DeviceNumbers.read`, of numbers that are not there."""
    assert numbers._copied is not None
    numbers._copied.synchronize()
    return [1.0, 1.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(RANK))
    parser.add_argument("names", nargs="*", metavar="NAME", help="optimizers; default: all, unless --model")
    parser.add_argument("--model", dest="passes", action="store_true", help="forward and backward of the model")
    parser.add_argument("--training", action="store_true", help="a whole training step")
    parser.add_argument("--state-bits", type=int, choices=(32, 8), help="default: the method's")
    parser.add_argument("--rounded", action="store_true", help="with stochastic rounding")
    parser.add_argument("--kernels", action="store_true", help="print each operator of the step too")
    arguments = parser.parse_args()
    if arguments.passes:
        for padded in (False, True):
            print(json.dumps(count_pass(arguments.model, dtype=DTYPE, padded=padded, autocast=False)), flush=True)
        print(json.dumps(count_pass(arguments.model, dtype=torch.float32, padded=False, autocast=True)), flush=True)
        return
    if arguments.training:
        print(json.dumps(count_training_step(arguments.model)))
        return
    for name in arguments.names or registry.names():
        more = {"state_bits": bits} if (bits := arguments.state_bits) else {}
        row = count_step(name, arguments.model, rounded=arguments.rounded, **more)
        for kernel in row.pop("kernels"):
            if arguments.kernels:
                print(kernel.launches, f"{kernel.bytes / 2**20:.1f} MiB", kernel.name, kernel.dtype, kernel.shape)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
