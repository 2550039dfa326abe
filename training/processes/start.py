"""The start of a process: under accelerate's launcher or alone."""

import ipaddress
import logging
import os
import random
import socket

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DynamoBackend, InitProcessGroupKwargs

from configs.messages import first_line, one_line
from configs.schema import Config, SettingsError
from training.processes.gpu import driver_shows_gpu, precision_warning, refuse_missing_kernels, refuse_old_driver
from training.processes.launch_variables import check_launch, launched
from training.processes.signals import Signals, ctrl_c_ends_the_process
from training.processes.world import PATIENCE, World
from training.run_errors import MachineError

log = logging.getLogger(__name__)


def start_run(config: Config) -> World:
    """`start_world` as the settings of a run say."""
    return start_world(
        seed=config.run.seed,
        threads=config.train.threads,
        deterministic=config.run.deterministic,
        dtype=config.train.dtype,
        tf32=config.train.tf32,
    )


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
    refuse_old_driver()
    signals = Signals()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    with ctrl_c_ends_the_process():  # the processes wait for each other
        accelerator = _accelerator()
    signals.catch()
    refuse_missing_kernels(accelerator.device)
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
    if warning := precision_warning(accelerator.device, dtype, accelerator.mixed_precision, tf32):
        log.warning(warning)
    return World(accelerator, signals)


def _accelerator() -> Accelerator:
    """Raises SettingsError for variables that accelerate refuses and for a compiler of its own, MachineError where the
    processes do not meet."""
    try:
        accelerator = Accelerator(
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
    if (compiler := accelerator.state.dynamo_plugin.backend) != DynamoBackend.NO:
        raise SettingsError(
            f"accelerate's dynamo_backend is {compiler.value.lower()}: train.compile compiles the layers, launch with "
            "--dynamo_backend no"
        )
    return accelerator


def describe(accelerator: Accelerator, dtype: str) -> str:
    """What the run computes on, in one line."""
    count = accelerator.num_processes
    if accelerator.device.type == "cuda":
        place = f"{torch.cuda.get_device_name(accelerator.device)}, CUDA {torch.version.cuda}"
    else:
        place = f"the CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)} each"
        if driver_shows_gpu():
            place += " (there is a GPU, which this run does not use)"
    mixed = "" if accelerator.mixed_precision == "no" else f" with autocast to {accelerator.mixed_precision}"
    return f"{count} process{'es' * (count > 1)} on {place}, {dtype}{mixed}"


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
