"""Where a run starts: at its beginning, at its newest checkpoint, or not at all because it is finished."""

import logging
from dataclasses import dataclass
from typing import Any

from configs.identity import differences, to_dict
from configs.schema import Config, SettingsError
from training.plan import plan_run
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.folder import RunFolder
from training.run.provenance import beside_settings, method_file_of
from training.run_errors import RunFolderError

NUMBERS = {"steps", "final_loss", "tokens_per_second"}  # of summary.json, without which a run is not finished

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        checkpoint: to resume from; None at the beginning of the run.
        summary: of a finished run; None if there is something left to train.
        seed: with which the run began.
    """

    checkpoint: Checkpoint | None
    summary: dict[str, Any] | None
    seed: int

    def has_data_path(self, path: str | list[str] | None) -> bool:
        """Whether the run that is resumed read its text from `path`."""
        return self.checkpoint is not None and self.checkpoint.config["data"]["path"] == path


def find_start(folder: RunFolder, config: Config, mixed_precision: str = "no") -> Start:
    """Look into `folder`, which this process must have locked, for where the run of `config` starts under the
    launcher's mixed precision.

    Raises SettingsError when the run in the folder had other settings, and those are not allowed to change, or there is
    no checkpoint to go on from with the new ones; RunFolderError when the run would begin anew although checkpoints are
    there, all of them damaged; MachineError when one cannot be read.
    """
    found = checkpoint.newest(folder.checkpoints)
    summary = folder.read_summary()
    trained = _trained_steps(summary)
    before = found.config if found is not None else None
    if trained and (found is None or found.step < trained):  # the checkpoint of its end is gone
        kept = folder.read_config()
        before = before if kept is None else kept | method_file_of(folder.read_environment())
    # Of what older checkpoints do not say nothing has changed.
    beside = beside_settings(config.optimizer, mixed_precision)
    changed = differences(beside | before, to_dict(config) | beside) if before is not None else []
    if changed and found is None:
        raise SettingsError(
            f"run.dir: the finished run in {folder.path} has other settings ({', '.join(changed)}) and no checkpoint "
            "to go on from; choose another run.dir or run.name"
        )
    if changed and not config.run.allow_config_change:
        raise SettingsError(
            f"run.dir: the run in {folder.path} has other settings ({', '.join(changed)}); choose another run.dir "
            "or run.name, or resume with the new settings by run.allow_config_change=true"
        )
    seed = config.run.seed if before is None else _seed(before, folder)
    if seed != config.run.seed:
        log.warning("the run in %s began with run.seed=%d and keeps it; another seed needs another run.dir or run.name",
                    folder.path, seed)  # fmt: skip
    nothing_left = not changed or (found is not None and found.step >= config.train.steps)
    finished = trained >= config.train.steps and nothing_left
    if finished and changed:
        log.warning("the run in %s has other settings (%s), and no step is left to train with the new ones",
                    folder.path, ", ".join(changed))  # fmt: skip
    if found is not None and not finished and found.step > config.train.steps:
        raise SettingsError(
            f"train.steps={config.train.steps}, but the run in {folder.path} is at step {found.step} already; "
            f"train.steps={found.step} ends it there"
        )
    if found is None and not finished and checkpoint.damaged(folder.checkpoints):
        raise RunFolderError(
            f"run.dir: no checkpoint in {folder.checkpoints} is whole; mend one, choose another run.dir or run.name, "
            f"or move {folder.path} elsewhere to begin anew"
        )
    return Start(found, summary if finished else None, seed)


def _trained_steps(summary: dict[str, Any] | None) -> int:
    """The steps of a finished run by its summary; 0 if it is none. Another file may be there by that name."""
    if summary is None or not all(isinstance(summary.get(key), int | float) for key in NUMBERS):
        return 0
    return int(summary["steps"])


def _seed(settings: dict[str, Any], folder: RunFolder) -> int:
    """The seed in the settings that a run folder holds. Raises RunFolderError."""
    try:
        return int(settings["run"]["seed"])
    except (LookupError, TypeError, ValueError) as error:
        raise RunFolderError(f"run.dir: {folder.config} is damaged: it has no run.seed") from error


def require_space(folder: RunFolder, config: Config, start: Start) -> None:
    """Refuse a disk without room for a checkpoint, unless the last one is saved. Raises RunFolderError."""
    found = start.checkpoint
    if found is None or found.step < config.train.steps:
        spare = checkpoint.reclaimable(folder.checkpoints, None if found is None else found.path)
        folder.require_space(plan_run(config, resumed=found is not None)["checkpoint_bytes"], spare)
