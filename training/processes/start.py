"""The start of a process: under accelerate's launcher or alone."""

import ipaddress
import logging
import os
import random
import socket
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from configs.messages import first_line, one_line
from configs.schema import SettingsError
from training.processes.launch_variables import check_launch, launched
from training.processes.signals import Signals, ctrl_c_ends_the_process
from training.processes.world import PATIENCE, World
from training.run_errors import MachineError

log = logging.getLogger(__name__)

GPUS = Path("/proc/driver/nvidia/gpus")  # where NVIDIA's driver shows them


def start_world(*, seed: int, threads: int | None, deterministic: bool, dtype: str, tf32: bool = False) -> World:
    """Start this process under accelerate (or alone), with its threads and random states set.

    Args:
        seed: of the random generators of Python, NumPy and torch.
        threads: CPU threads of torch; None leaves torch's choice.
        deterministic: whether torch may use deterministic algorithms only.
        dtype: of the weights, "float32" or "bfloat16".
        tf32: whether CUDA may round the factors of float32 products to 11 bits; an optimizer's step does not.

    Raises SettingsError when the environment makes no sense, when accelerate would shard the model itself, when the
    launcher and accelerate disagree about the number of processes, or when the launcher's mixed precision does not go
    with weights of `dtype`; MachineError when the processes do not meet or could not, or when there is a GPU that torch
    cannot use.
    """
    check_launch()
    _refuse_unreachable_name()
    _refuse_accelerates_sharding()
    _refuse_unusable_gpu()
    signals = Signals()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    with ctrl_c_ends_the_process():  # the processes wait for each other
        accelerator = _accelerator()
    signals.catch()
    _check_count(accelerator)
    _check_precision(accelerator.mixed_precision, dtype)
    # Also against TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which NVIDIA's containers set.
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    # Weight gradients add up thousands of positions; parts of such a sum would be added up in bfloat16.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    if threads is not None:
        torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    log.info(describe(accelerator, dtype))
    if (warning := float32_warning(accelerator, dtype, tf32)) is not None:
        log.warning(warning)
    return World(accelerator, signals)


def _accelerator() -> Accelerator:
    """Raises SettingsError for variables that accelerate refuses, MachineError where the processes do not meet."""
    try:
        return Accelerator(
            cpu=not torch.cuda.is_available(),
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=PATIENCE),
                # The model's one buffer (rotary frequencies) is a constant.
                DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False),
            ],
        )
    except (ValueError, KeyError) as error:
        raise SettingsError(f"accelerate cannot start from this environment: {one_line(error)}") from error
    except dist.DistError as error:
        raise MachineError(f"the processes of the run did not meet: {first_line(error)}") from error


def describe(accelerator: Accelerator, dtype: str) -> str:
    """What the run computes on, in one line."""
    count = accelerator.num_processes
    if accelerator.device.type == "cuda":
        place = f"{torch.cuda.get_device_name(accelerator.device)}, CUDA {torch.version.cuda}"
    else:
        place = f"the CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)} each"
        if _driver_shows_gpu():
            place += " (there is a GPU, which this run does not use)"
    mixed = "" if accelerator.mixed_precision == "no" else f" with autocast to {accelerator.mixed_precision}"
    return f"{count} process{'es' * (count > 1)} on {place}, {dtype}{mixed}"


def float32_warning(accelerator: Accelerator, dtype: str, tf32: bool) -> str | None:
    """What the defaults cost on a GPU, whose fast units take no float32; None where they are not used."""
    slow = dtype == "float32" and accelerator.mixed_precision == "no" and not tf32
    if accelerator.device.type != "cuda" or not slow:
        return None
    return (
        "train.dtype=float32: the model is computed in float32 without a GPU's matrix units, which takes about three "
        "times as long as in bfloat16; train.dtype=bfloat16, mixed_precision bf16 of accelerate, or train.tf32=true "
        "use them, and change the result"
    )


def _driver_shows_gpu() -> bool:
    return GPUS.is_dir() and any(GPUS.iterdir())


def _refuse_unusable_gpu() -> None:
    """A driver that is too old would otherwise mean days of training on the CPU."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if asked or hidden or torch.version.cuda is None or torch.cuda.is_available() or not _driver_shows_gpu():
        return
    raise MachineError(
        f"this machine has an NVIDIA GPU, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it: "
        "is the driver older than that? To train on the CPU, set CUDA_VISIBLE_DEVICES=-1"
    )


def _refuse_unreachable_name() -> None:
    """gloo tells other machines the address of this machine's name. If that is a loopback, they wait in vain."""
    count, first = launched("WORLD_SIZE", 1), os.environ.get("MASTER_ADDR", "localhost")
    one_machine = launched("LOCAL_WORLD_SIZE", count) == count or first == "localhost" or first.startswith("127.")
    if one_machine or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    name = socket.gethostname()
    try:
        address = str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        address = "no address"
    if address == "no address" or ipaddress.ip_address(address).is_loopback:
        raise MachineError(
            f"the name of this machine, {name}, stands for {address}, where other machines cannot reach it: set "
            "GLOO_SOCKET_IFNAME to the network interface that the machines share (`ip address` lists them), on each"
        )


def _refuse_accelerates_sharding() -> None:
    for plugin in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{plugin}", "false") == "true":
            raise SettingsError(
                f"accelerate is configured for {plugin}: launch with a file of configs/accelerate; "
                "train.parallel=fsdp2 shards the model"
            )


def _check_count(accelerator: Accelerator) -> None:
    count = launched("WORLD_SIZE", 1)
    if count != accelerator.num_processes:
        raise SettingsError(
            f"the launcher started {count} processes, accelerate sees {accelerator.num_processes}: "
            "launch with a file of configs/accelerate, e.g. configs/accelerate/cpu_2.yaml"
        )


def _check_precision(precision: str, dtype: str) -> None:
    if precision not in ("no", "bf16"):
        raise SettingsError(f"accelerate's mixed_precision is {precision}: use no, or bf16 with train.dtype=float32")
    if precision != "no" and dtype != "float32":
        raise SettingsError(
            f"train.dtype={dtype} with accelerate's mixed_precision={precision}: bfloat16 weights are trained "
            "as they are, launch with --mixed_precision no"
        )
