"""The figures of a finished run, which summary.json holds."""

from typing import Any

from configs.identity import config_hash
from configs.schema import Config
from optimizers import BaseOptimizer
from training.counters import Counters
from training.evaluation import perplexity
from training.memory import peak_memory_bytes
from training.processes.layout import Layout
from training.processes.world import World
from training.run.folder import RunFolder


def summarize(
    config: Config, world: World, layout: Layout, optimizer: BaseOptimizer, counters: Counters
) -> dict[str, Any]:
    """The figures of a finished run. All processes call it; those of the main one go into summary.json."""
    assert counters.evaluation_loss is not None, "the last step is evaluated"
    return {
        "name": config.run.name,
        "optimizer": config.optimizer.name,
        "lr": config.optimizer.lr,
        "adam_lr": config.optimizer.adam_lr,
        "model": config.model.name,
        "steps": counters.step,
        "tokens": counters.tokens,
        "final_loss": counters.evaluation_loss,
        "final_perplexity": perplexity(counters.evaluation_loss),
        "tokens_per_second": counters.tokens / counters.train_seconds,
        "train_seconds": counters.train_seconds,
        "parameters": sum(parameter.numel() for parameter in layout.unwrapped.parameters()),
        "optimizer_state_bytes": layout.state_bytes(optimizer),
        "peak_memory_bytes": peak_memory_bytes(world.device),
        "processes": world.count,
        "seed": config.run.seed,
        "config_hash": config_hash(config),
        "mixed_precision": world.mixed_precision,
    }


def final_line(summary: dict[str, Any], folder: RunFolder) -> str:
    """The result of a finished run and the place of its files, in one line."""
    return (
        f"final perplexity {perplexity(summary['final_loss']):.4g}, {summary['tokens_per_second']:,.0f} tokens/s; "
        f"curve: {folder.curve}; model: {folder.model}"
    )
