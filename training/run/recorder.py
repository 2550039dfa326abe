"""Where a run's numbers go while it trains and when it is finished."""

import contextlib
import importlib
import logging
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.identity import to_dict
from configs.messages import one_line
from configs.schema import Config
from configs.user_paths import expanded
from optimizers import BaseOptimizer
from training.processes.logs import say
from training.processes.world import World
from training.run import checkpoint, curve
from training.run.checkpoint import Checkpoint
from training.run.cosines import BasisCosines
from training.run.disk import is_full
from training.run.export import export_model
from training.run.folder import RunFolder
from training.run.metrics import MetricsLog
from training.run.provenance import environment
from training.run.reference import Reference, effective_tokens_per_second
from training.run.summary import final_line
from training.run.tracking import Tracker
from training.run_errors import SaveError

log = logging.getLogger(__name__)


class Recorder:
    """The recorder of every process but the main one: it records nothing. `RunRecorder` has the same methods."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def begin(self) -> None:
        """The run is about to train."""

    def write(self, row: dict[str, Any]) -> None:
        """Record a row of metrics."""

    def recording_bases(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Around the optimizer's part of `step`."""
        return contextlib.nullcontext()

    def sync(self) -> None:
        """Return when every row is on the disk."""

    def export(self, model: PreTrainedModel, weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase) -> None:
        """Write the final model."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Declare the run finished."""


class RunRecorder(Recorder):
    """The main process's recorder: writes metrics.jsonl, wandb, and the results of a finished run.

    `resumed` is the checkpoint that the run resumes from, None at its beginning. Nothing in the folder changes before
    `begin`. Raises ImportError without matplotlib, and ValueError naming `run.reference` when no finished run is there,
    or `run.record_basis_cosines` when `optimizer` has no bases to record.
    """

    _metrics: MetricsLog
    _tracker: Tracker | None = None

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        resumed: Checkpoint | None,
        optimizer: BaseOptimizer,
        device: torch.device,
    ):
        importlib.import_module("matplotlib.figure")  # the curve is drawn at the end: without it, fail now
        self._folder, self._config, self._settings, self._resumed = folder, config, to_dict(config), resumed
        self._reference = Reference.read(expanded(config.run.reference)) if config.run.reference else None
        self._cosines = BasisCosines(optimizer) if config.run.record_basis_cosines else None
        self._environment = environment(device, config.optimizer)

    def __exit__(self, *exception: object) -> None:
        if self._tracker is not None:
            self._tracker.finish(exit_code=1)  # does nothing after `finish`

    def begin(self) -> None:
        """This run is about to train: remove summary.json, write config.yaml and environment.json, drop the rows of
        steps that are trained again, start wandb. Raises RunFolderError."""
        folder, resumed = self._folder, self._resumed
        step, evaluated = (None, None) if resumed is None else (resumed.step, resumed.counters["evaluated"])
        folder.summary.unlink(missing_ok=True)
        folder.write_config(self._settings)
        folder.write_environment(self._environment)
        self._metrics = MetricsLog(folder.metrics, step, evaluated)
        if self._cosines is not None:
            self._cosines.open(folder.path / "basis_cosines.jsonl", step)
        assert self._config.run.name is not None, "configs.schema fills it in"
        self._tracker = Tracker(self._config.wandb, folder.path, name=self._config.run.name, config=self._settings)

    def write(self, row: dict[str, Any]) -> None:
        """Record `row`; an evaluation gets the effective throughput against the reference run, if there is one."""
        if row["kind"] == "eval":
            row |= self._effective([*self._metrics.evaluations, row])
        self._metrics.write(row)
        assert self._tracker is not None, "begun"
        self._tracker.log(row)

    def recording_bases(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Around the optimizer's part of `step`: records how far bases turn, if `run.record_basis_cosines` is set."""
        return self._cosines.recording(step) if self._cosines is not None else contextlib.nullcontext()

    def sync(self) -> None:
        """Return when every row is on the disk. Raises SaveError."""
        self._metrics.sync()
        if self._cosines is not None:
            self._cosines.sync()

    def export(self, model: PreTrainedModel, weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase) -> None:
        """Write the final model and its tokenizer. Raises SaveError."""
        self._making_room(lambda: export_model(model, weights, tokenizer, self._folder.model))

    def finish(self, summary: dict[str, Any]) -> None:
        """Draw the curve, write summary.json, which declares the run finished, and say how it ended.

        Raises SaveError.
        """
        summary |= self._environment | self._effective(self._metrics.evaluations)
        self._making_room(self._metrics.sync)
        self._metrics.close()
        self._making_room(self._draw)
        self._making_room(lambda: self._folder.write_summary(summary))
        assert self._tracker is not None, "begun"
        self._tracker.finish(summary)
        say(final_line(summary, self._folder))

    def _draw(self) -> None:
        """Raises SaveError where the disk is at fault. Otherwise a run is worth more than its picture."""
        try:
            curve.draw(self._folder)
        except (SaveError, OSError):
            raise
        except Exception as error:  # whatever matplotlib raises
            log.warning("cannot draw %s: %s", self._folder.curve, one_line(error))

    def _making_room(self, write: Callable[[], None]) -> None:
        """Call `write`; where the disk is full, once more without the older checkpoints. Raises SaveError."""
        try:
            write()
        except SaveError as error:
            if not (is_full(error) and checkpoint.delete_older(self._folder.checkpoints)):
                raise
            log.warning("%s; older checkpoints were given up for it", error)
            write()

    def _effective(self, evaluations: list[dict[str, Any]]) -> dict[str, float]:
        if self._reference is None:
            return {}
        return {"effective_tokens_per_second": effective_tokens_per_second(self._reference, evaluations)}


def open_recorder(
    world: World, folder: RunFolder, config: Config, resumed: Checkpoint | None, optimizer: BaseOptimizer
) -> Recorder:
    """The recorder of this process. Raises what `RunRecorder` raises."""
    return RunRecorder(folder, config, resumed, optimizer, world.device) if world.is_main else Recorder()
