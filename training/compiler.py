"""Whether to compile the model's layers, which `train.compile` asks for, forbids, or leaves to what it would gain."""

import importlib.util
import logging
import os
import shutil
from typing import Any

import torch
from torch import nn

from configs.schema import SettingsError

log = logging.getLogger(__name__)

# FLOPs of a run from which on it is worth the first compilation, half a minute or so. On one CPU core llama_nano steps
# 3 to 8 % faster (results/benchmarks): at 50 GFLOP/s the half minute is back after 5e13 FLOPs at the latest, and six
# times that is clearly worth it. On GPUs others report 1.16 times (torchtitan, 8B) to 1.85 times (nanoGPT, 124M): at
# 140 TFLOP/s it is back after 3e16 at the latest.
PAYS_FROM = {"cpu": 3e14, "cuda": 1e17}


def wanted(model: nn.Module, train: Any, sequence_length: int, device: torch.device) -> bool:
    """Whether the layers of `model` are to be compiled under the `train` section of the settings.

    The answer depends on settings that a resume keeps and on the machine, not on where the run stands: compiled steps
    round differently, and a resumed run has to repeat them. Raises SettingsError when a compiler is asked for that is
    not there.
    """
    if not train.compile:
        return False
    missing = missing_compiler(device)
    if train.compile is True and missing:
        raise SettingsError(f"train.compile=true needs {missing}, which is not installed")
    positions = train.steps * train.batch_size * sequence_length
    flops = 6 * positions * sum(parameter.numel() for parameter in model.parameters())
    if train.compile is True or (not missing and flops >= PAYS_FROM[device.type]):
        log.info("compiling the layers: the first step takes about half a minute more; train.compile=false skips it")
        return True
    return False


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile lacks on such a device, if anything."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return "a C++ compiler (g++, clang++ or $CXX)"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton"
    return None
