"""Compiling the model's layers: `train.compile` asks for it, forbids it, or leaves it to the length of the run."""

import logging
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from configs.schema import SettingsError, Train
from models.llama import LlamaForCausalLM
from optimizers.kernels.compiled_step import missing_on_gpu

log = logging.getLogger(__name__)

# FLOPs of a run above which the first compilation, about half a minute, is worth its time (docs/performance.md).
PAYS_FROM = {"cpu": 3e14, "cuda": 1e17}


def compile_layers(
    model: LlamaForCausalLM, train: Train, sequence_length: int, device: torch.device, dtype: torch.dtype
) -> bool:
    """Compile the layers of `model` if `should_compile` says so, and log it; returns that. Raises SettingsError as that
    does."""
    compiled = should_compile(model, train, sequence_length, device, dtype)
    if compiled:
        log.info("compiling the layers: the first step takes about half a minute more; train.compile=false skips it")
        # DDP would cut each layer's graph where a bucket ends. Messages need no cuts: layers are compiled one by one.
        torch._dynamo.config.optimize_ddp = False
        # Otherwise the compiler may choose kernels by a race, whatever torch's own operators are told.
        deterministic = torch.are_deterministic_algorithms_enabled()
        model.compile(dynamic=False, options={"deterministic": True} if deterministic else None)
    return compiled


def should_compile(
    model: LlamaForCausalLM, train: Train, sequence_length: int, device: torch.device, dtype: torch.dtype
) -> bool:
    """Whether to compile the layers of `model` on `device`, by the settings and the FLOPs of the whole run.

    `dtype`: of the products, which is autocast's where there is one.

    The answer depends on the machine and on settings that a resume keeps, not on the step reached: compiled steps round
    differently, and a resumed run has to repeat them. Raises SettingsError when `train.compile` is true and there is no
    compiler.
    """
    if not train.compile:
        return False
    missing = missing_compiler(device, dtype)
    if train.compile is True:
        if missing:
            raise SettingsError(f"train.compile=true needs {missing}, which this machine does not have")
        return True
    return not missing and long_enough(model, train, sequence_length, device.type)


def long_enough(model: LlamaForCausalLM, train: Train, sequence_length: int, device_type: str) -> bool:
    """Whether a run has so many FLOPs that compiling pays on such a device."""
    positions = train.steps * train.batch_size * sequence_length
    flops = 6 * positions * sum(parameter.numel() for parameter in model.parameters())
    return flops >= PAYS_FROM[device_type]


def missing_compiler(device: torch.device, dtype: torch.dtype) -> str | None:
    """The name of what torch.compile needs for such products and does not find; None if nothing is missing."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return "a C++ compiler (g++, clang++ or $CXX)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():  # compiled kernels are Python modules
        return "the headers of Python (the system's package python3-dev or python3-devel)"
    return missing_on_gpu(device, dtype) if device.type == "cuda" else None
