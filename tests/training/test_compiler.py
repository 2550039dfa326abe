"""Compiled layers: when they are compiled, and that a resumed run repeats the numbers."""

import shutil
import sysconfig

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import train
from configs.schema import SettingsError, load
from models.llama import build_model
from tests import tiny
from training import compiler

CPU = torch.device("cpu")


def compiles(*settings):
    config = load(list(settings)).config
    model = build_model(config.model, dtype=torch.float32, seed=0, device="meta")
    return compiler.should_compile(model, config.train, config.data.sequence_length, CPU, torch.float32)


def test_auto_compiles_long_runs_and_nothing_else(monkeypatch):
    monkeypatch.setattr(compiler, "missing_compiler", lambda device, dtype: None)
    assert not compiles()  # the quick start
    long = "configs/experiment/table2/60m/adam.yaml"
    assert compiles(long) and not compiles(long, "train.compile=false") and not compiles(long, "train.steps=1")
    assert compiles("train.compile=true")


def test_without_pythons_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert not compiles("configs/experiment/table2/60m/adam.yaml")
    with pytest.raises(SettingsError, match=r"train\.compile=true needs the headers of Python"):
        compiles("train.compile=true")
    (tmp_path / "Python.h").touch()
    assert compiles("train.compile=true")


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not compiles("configs/experiment/table2/60m/adam.yaml")
    with pytest.raises(SettingsError, match=r"train\.compile=true needs a C\+\+ compiler"):
        compiles("train.compile=true")


@pytest.mark.skipif(compiler.missing_compiler(CPU, torch.float32) is not None, reason="no C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize("packing", ["true", "false"])
def test_a_compiled_run_resumes_to_the_same_bits(text, tmp_path, monkeypatch, packing):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    intervals = ("train.steps=4", "train.eval_every=2", "train.checkpoint_every=2")
    settings = ("train.compile=true", f"data.packing={packing}", *intervals)
    assert train.main(tiny.command(text, tmp_path / "whole", *settings)) == 0
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.Trainer._update", tiny.unplugged_after(2))
        assert train.main(tiny.command(text, tmp_path / "resumed", *settings)) == 1
    assert train.main(tiny.command(text, tmp_path / "resumed", *settings)) == 0
    assert tiny.weights(tmp_path / "resumed") == tiny.weights(tmp_path / "whole")
    assert tiny.metrics(tmp_path / "resumed") == tiny.metrics(tmp_path / "whole")


@torch._dynamo.config.patch(optimize_ddp=True)  # `compile_layers` changes it
def test_replicas_do_not_cut_a_layers_graph(monkeypatch):
    """A layer of 3 MiB is larger than DDP's first bucket, of 1 MiB."""
    config = load(["model=llama_micro", "data=builtin", "train.compile=true"]).config
    model, graphs = build_model(config.model, dtype=torch.float32, seed=0, device=CPU), []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    real = model.compile
    monkeypatch.setattr(model, "compile", lambda **options: real(backend=count, **options))
    compiler.compile_layers(model, config.train, config.data.sequence_length, CPU, model.dtype)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ids = torch.arange(64).view(2, 32)
        DistributedDataParallel(model)(ids, labels=ids)
    finally:
        dist.destroy_process_group()
    assert len(graphs) == 1  # for all layers; cut, it is two


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_deterministic_run_has_no_kernels_chosen_by_a_race(monkeypatch, deterministic):
    config, given = load(["train.compile=true"]).config, []
    model = build_model(config.model, dtype=torch.float32, seed=0, device="meta")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(model, "compile", lambda **options: given.append(options["options"]))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    compiler.compile_layers(model, config.train, config.data.sequence_length, CPU, torch.float32)
    assert given == [{"deterministic": True} if deterministic else None]
