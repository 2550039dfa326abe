"""Where a run's numbers go, and what it leaves behind when it is finished."""

import contextlib
import resource
import shutil
import sys
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.identity import to_dict
from configs.schema import Config
from optimizers import BaseOptimizer
from training import curve
from training.checkpoint import Checkpoint
from training.cosines import BasisCosines
from training.errors import SaveError
from training.files import fsync
from training.progress import perplexity
from training.records import MetricsLog, Reference, RunFolder, effective_tokens_per_second
from training.tracking import Tracker


class Recorder:
    """Sends rows to metrics.jsonl and wandb. One of these exists in a run, on its main process.

    `found` is the checkpoint that the run goes on from, None at its beginning.
    Raises ValueError naming `run.reference` when no finished run is there, or `run.record_basis_cosines` when
    `optimizer` has no bases to record.
    """

    def __init__(self, folder: RunFolder, config: Config, found: Checkpoint | None, optimizer: BaseOptimizer):
        resumed, evaluated = (found.step, found.counters["evaluated"]) if found is not None else (None, None)
        self._folder = folder
        self._reference = Reference.read(Path(config.run.reference).expanduser()) if config.run.reference else None
        self._metrics = MetricsLog(folder.metrics, resumed, evaluated)
        self._cosines = None
        if config.run.record_basis_cosines:
            self._cosines = BasisCosines(folder.path / "basis_cosines.jsonl", optimizer, resumed)
        self._tracker = Tracker(config.wandb, folder.path, name=config.run.name, config=to_dict(config))
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._tracker.finish(exit_code=0 if self._finished else 1)

    def write(self, row: dict[str, Any]) -> None:
        """Record `row`; an evaluation is also held against the reference run, if there is one."""
        if row["kind"] == "eval":
            row |= self._effective([*self._metrics.evaluations, row])
        self._metrics.write(row)
        self._tracker.log(row)

    def watching(self, step: int) -> contextlib.AbstractContextManager:
        """Around the optimizer's part of `step`: records how far bases turn, if that is asked for."""
        return self._cosines.watching(step) if self._cosines is not None else contextlib.nullcontext()

    def sync(self) -> None:
        """Return when every row is on the disk. Raises SaveError."""
        self._metrics.sync()
        if self._cosines is not None:
            self._cosines.sync()

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Draw the curve and declare the run finished; returns the summary as written. Raises SaveError."""
        summary |= self._effective(self._metrics.evaluations)
        self._metrics.close()
        curve.draw(self._folder)
        self._folder.write_summary(summary)
        self._tracker.finish(summary)
        return summary

    def _effective(self, evaluations: list[dict[str, Any]]) -> dict[str, float]:
        if self._reference is None:
            return {}
        return {"effective_tokens_per_second": effective_tokens_per_second(self._reference, evaluations)}


def export_model(
    model: PreTrainedModel, weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase, path: Path
) -> None:
    """Put `model` with its whole `weights`, and the tokenizer, where `from_pretrained` opens them, whole or not at all.

    Raises SaveError.
    """
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary, state_dict=weights)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(path, ignore_errors=True)
        for file in (*temporary.iterdir(), temporary):
            fsync(file)
        temporary.rename(path)
        fsync(path.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise SaveError(f"cannot write the model to {path}: {error}; its weights are in the last checkpoint") from error


def final_line(summary: dict[str, Any], folder: RunFolder) -> str:
    """What a finished run is worth and where it lies."""
    return (
        f"final perplexity {perplexity(summary['final_loss']):.4g}, {summary['tokens_per_second']:,.0f} tokens/s; "
        f"curve: {folder.curve}; model: {folder.model}"
    )


def peak_memory_bytes(device: torch.device) -> int:
    """The most that tensors held on a CUDA device, or this process altogether on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
