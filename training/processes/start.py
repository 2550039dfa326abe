"""The start of a process: under accelerate's launcher or alone."""

import os
import random

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from configs.messages import first_line, one_line
from configs.schema import SettingsError
from training.processes.launch_variables import check_launch, launched
from training.processes.signals import Signals
from training.processes.world import PATIENCE, World
from training.run_errors import MachineError


def start_world(*, seed: int, threads: int | None, deterministic: bool, dtype: str) -> World:
    """Start this process under accelerate (or alone), with its threads and random states set.

    Args:
        seed: of the random generators of Python, NumPy and torch.
        threads: CPU threads of torch; None leaves torch's choice.
        deterministic: whether torch may use deterministic algorithms only.
        dtype: of the weights, "float32" or "bfloat16".

    Raises SettingsError when the environment makes no sense, when accelerate would shard the model itself, when the
    launcher and accelerate disagree about the number of processes, or when the launcher's mixed precision does not go
    with weights of `dtype`; MachineError when the processes do not meet.
    """
    check_launch()
    _refuse_accelerates_sharding()
    signals = Signals()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    accelerator = _accelerator()
    _check_count(accelerator)
    _check_precision(accelerator.mixed_precision, dtype)
    if threads is not None:
        torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
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
