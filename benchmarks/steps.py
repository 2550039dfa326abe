"""Seconds of a training step of each row of the nano study, all rows in turn on one thread."""

import statistics
from dataclasses import replace
from typing import NamedTuple

import torch

from benchmarks.machine import seconds
from configs.schema import Config
from models.llama import LlamaForCausalLM, build_model
from optimizers import BaseOptimizer
from training.compiler import compile_layers
from training.optimizer import build_optimizer


class StepSeconds(NamedTuple):
    """Medians of rounds."""

    forward_backward: float  # of one batch, the same for all rows
    optimizer: dict[str, float]  # by row: the mean of an update_interval of steps with its refresh


def step_seconds(configs: dict[str, Config], rounds: int) -> StepSeconds:
    """Measure the rows of `configs`, which all train the model of "adam"."""
    model, batch = prepare(configs["adam"])
    model(input_ids=batch, labels=batch).loss_sum.backward()  # compiles
    steppers = {row: build(model, config) for row, config in configs.items()}
    passes: list[float] = []
    parts: dict[str, list[float]] = {row: [] for row in steppers}
    for _ in range(rounds):
        for row, optimizer in steppers.items():
            model.zero_grad()
            passes.append(seconds(lambda: model(input_ids=batch, labels=batch).loss_sum.backward()))
            steps = getattr(configs[row].optimizer, "update_interval", 1)
            parts[row].append(statistics.fmean(seconds(optimizer.step) for _ in range(steps)))
    return StepSeconds(statistics.median(passes), {row: statistics.median(times) for row, times in parts.items()})


def prepare(config: Config) -> tuple[LlamaForCausalLM, torch.Tensor]:
    """The model of the study, and a batch of its size."""
    model = build_model(config.model, dtype=torch.float32, seed=0)
    compile_layers(model, config.train, config.data.sequence_length, torch.device("cpu"), model.dtype)
    size = (config.train.batch_size, config.data.sequence_length)
    return model, torch.randint(config.model.vocab_size, size, generator=torch.Generator().manual_seed(0))


def build(model: LlamaForCausalLM, config: Config) -> BaseOptimizer:
    """A row's optimizer on the model that all share, at a rate that leaves it as it is."""
    return build_optimizer(model, replace(config.optimizer, lr=1e-9, adam_lr=1e-9))
