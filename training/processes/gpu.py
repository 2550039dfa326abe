"""What a run asks of its GPU before it uses it."""

import os
import re
from pathlib import Path

import torch

from training.run_errors import MachineError

GPUS = Path("/proc/driver/nvidia/gpus")  # where NVIDIA's driver shows them


def driver_shows_gpu() -> bool:
    """Whether this machine has a GPU of NVIDIA, whatever torch can use."""
    return GPUS.is_dir() and any(GPUS.iterdir())


def refuse_old_driver() -> None:
    """A driver that is too old would otherwise mean days of training on the CPU. Raises MachineError."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if asked or hidden or torch.version.cuda is None or torch.cuda.is_available() or not driver_shows_gpu():
        return
    raise MachineError(
        f"this machine has an NVIDIA GPU, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it: "
        "is the driver older than that? To train on the CPU, set CUDA_VISIBLE_DEVICES=-1"
    )


def refuse_missing_kernels(device: torch.device) -> None:
    """torch is built for some generations of GPUs; on others its first kernel fails. Raises MachineError.

    Code of `sm_75` runs on GPUs of capability 7.5 and later of 7.x, that of `compute_75` on all from 7.5 on.
    """
    if device.type != "cuda" or torch.version.cuda is None:  # AMD's have other names
        return
    major, minor = torch.cuda.get_device_capability(device)
    built = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in torch.cuda.get_arch_list()]
    codes = [(code[1], (int(code[2]), int(code[3]))) for code in built if code]
    runs = [least <= (major, minor) and (kind == "compute" or least[0] == major) for kind, least in codes]
    if codes and not any(runs):
        raise MachineError(
            f"torch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)}, a GPU of compute "
            f"capability {major}.{minor}; install a build of torch that has, or set CUDA_VISIBLE_DEVICES=-1"
        )


def precision_warning(device: torch.device, dtype: str, mixed_precision: str, tf32: bool) -> str | None:
    """What a precision costs on this GPU; None where there is nothing to say."""
    if device.type != "cuda":
        return None
    if dtype == "float32" and mixed_precision == "no" and not tf32:
        return (
            "train.dtype=float32: the model is computed in float32 without a GPU's matrix units, which takes about "
            "three times as long as in bfloat16; train.dtype=bfloat16, mixed_precision bf16 of accelerate, or "
            "train.tf32=true use them, and change the result"
        )
    narrow = dtype == "bfloat16" or mixed_precision == "bf16"
    if narrow and not torch.cuda.is_bf16_supported(including_emulation=False):
        return (
            "this GPU has no bfloat16 of its own: it is emulated, and nothing is compiled; "
            "train.dtype=float32 without mixed precision needs neither"
        )
    return None
