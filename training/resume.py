"""Where a run starts: at its beginning, at its newest checkpoint, or not at all because it is finished."""

import logging
from dataclasses import dataclass
from typing import Any

from configs.identity import differences, to_dict
from configs.schema import Config, SettingsError
from training import checkpoint
from training.checkpoint import Checkpoint
from training.records import RunFolder

log = logging.getLogger("training")


@dataclass(frozen=True)
class Start:
    """`found`: the checkpoint to go on from, if there is one; `summary`: that of a finished run; `seed`: of the run."""

    found: Checkpoint | None
    summary: dict[str, Any] | None
    seed: int

    @property
    def step(self) -> int | None:
        """Of the checkpoint."""
        return self.found.step if self.found is not None else None


def find_start(folder: RunFolder, config: Config) -> Start:
    """Look into `folder`, and give `config` the seed that the run there began with. For the process that holds the
    folder.

    Raises SettingsError when the run in the folder had other settings, and those are not allowed to change.
    """
    found = checkpoint.newest(folder.checkpoints)
    summary = folder.read_summary()
    before = found.config if found is not None else folder.read_config() if summary is not None else None
    changed = differences(before, to_dict(config)) if before is not None else []
    if changed and not config.run.allow_config_change:
        raise SettingsError(
            f"run.dir: the run in {folder.path} has other settings ({', '.join(changed)}); choose another run.dir "
            "or run.name, or go on with the new settings by run.allow_config_change=true"
        )
    seed = config.run.seed if before is None else before["run"]["seed"]
    if seed != config.run.seed:
        log.warning("the run in %s began with run.seed=%d and keeps it; another seed needs another run.dir or run.name",
                    folder.path, seed)  # fmt: skip
        config.run.seed = seed
    finished = summary is not None and (found is None or found.step >= config.train.steps)
    return Start(found, summary if finished else None, seed)


def begin(folder: RunFolder, config: Config) -> None:
    """Leave the resolved config in `folder`, where a run that all is ready for is finished no longer."""
    folder.summary.unlink(missing_ok=True)
    folder.write_config(to_dict(config))
