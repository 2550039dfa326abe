"""The start of a process: what it computes on, said in a line, and GPUs that cannot be used."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import tiny
from training.processes import gpu as gpu_checks
from training.processes import start
from training.run_errors import MachineError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A machine whose driver shows a GPU, and torch made for CUDA that finds none."""
    (tmp_path / "0000:01:00.0").mkdir()
    monkeypatch.setattr(gpu_checks, "GPUS", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


def start_alone(**changes):
    world = start.start_world(**{"seed": 0, "threads": None, "deterministic": False, "dtype": "float32"} | changes)
    world.signals.release()
    return world


def test_a_gpu_that_torch_cannot_use_is_an_error(gpu):
    with pytest.raises(MachineError, match=r"has an NVIDIA GPU, but torch .* \(CUDA 13\.0\) cannot use it"):
        start_alone()


@pytest.mark.parametrize(
    ("name", "value"), [("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1"), ("ACCELERATE_USE_CPU", "true")]
)
def test_the_cpu_may_be_asked_for(gpu, monkeypatch, caplog, name, value):
    monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO)
    assert start_alone().device.type == "cpu"
    assert "1 process on the CPU" in caplog.text and "there is a GPU, which this run does not use" in caplog.text


def test_torch_without_cuda_asks_for_the_cpu(gpu, monkeypatch, caplog):
    monkeypatch.setattr(torch.version, "cuda", None)
    caplog.set_level(logging.INFO)
    start_alone(dtype="bfloat16")
    assert "which this run does not use), bfloat16" in caplog.text


def test_a_machine_without_a_driver_trains_on_the_cpu(gpu, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(gpu_checks, "GPUS", tmp_path / "missing")
    caplog.set_level(logging.INFO)
    start_alone()
    assert "GPU" not in caplog.text


@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest")])
def test_precision_of_products(tf32, precision):
    torch.set_float32_matmul_precision("high")  # as an environment variable of NVIDIA's containers does
    start_alone(tf32=tf32)
    assert torch.get_float32_matmul_precision() == precision
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "a:1"}, "a:1"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "b:1"}, None),
    ],
)
def test_the_allocator_is_set_before_torch_is_imported(given, expected):
    """Unless the user has set it, by its new or its old name."""
    code = """
import json, os, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            print(json.dumps(os.environ.get("PYTORCH_ALLOC_CONF")))
            sys.exit()
sys.meta_path.insert(0, Watch())
import train
"""
    environment = {"PATH": "/usr/bin:/bin", **given}
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert json.loads(found.stdout) == expected, found.stderr


@pytest.mark.slow
def test_a_run_says_what_it_computes_on(text, tmp_path):
    command = [sys.executable, "train.py", *tiny.command(text, tmp_path / "run", "train.steps=1")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr.count("1 process on the CPU, 1 thread each, float32\n") == 1


@pytest.mark.parametrize(
    ("device", "dtype", "mixed", "tf32", "emulated", "warned"),
    [
        ("cuda", "float32", "no", False, False, "train.dtype=bfloat16"),
        ("cuda", "float32", "bf16", False, False, None),
        ("cuda", "float32", "no", True, False, None),
        ("cuda", "bfloat16", "no", False, False, None),
        ("cpu", "float32", "no", False, False, None),
        ("cuda", "bfloat16", "no", False, True, "no bfloat16 of its own"),
        ("cuda", "float32", "bf16", False, True, "no bfloat16 of its own"),
        ("cpu", "bfloat16", "no", False, True, None),
    ],
)
def test_a_precision_that_is_slow_on_a_gpu_is_warned_of(monkeypatch, device, dtype, mixed, tf32, emulated, warned):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or not emulated
    )
    warning = gpu_checks.precision_warning(torch.device(device), dtype, mixed, tf32)
    assert (warning is None) == (warned is None)
    assert warned is None or warned in warning


@pytest.mark.parametrize(
    ("capability", "built", "refused"),
    [
        ((6, 1), ["sm_75", "sm_80", "sm_90a", "compute_120"], True),
        ((7, 0), ["sm_75", "sm_80"], True),
        ((8, 6), ["sm_75", "sm_80"], False),
        ((9, 0), ["sm_75", "sm_80"], True),
        ((9, 0), ["sm_80", "compute_80"], False),
        ((12, 0), ["sm_90", "sm_120"], False),
        ((9, 0), [], False),
    ],
)
def test_a_gpu_that_torch_has_no_kernels_for_is_refused(monkeypatch, capability, built, refused):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Card")
    if not refused:
        gpu_checks.refuse_missing_kernels(torch.device("cuda"))
        return
    sentence = rf"no kernels for Old Card, a GPU of compute capability {capability[0]}\.{capability[1]}; install"
    with pytest.raises(MachineError, match=sentence):
        gpu_checks.refuse_missing_kernels(torch.device("cuda"))
