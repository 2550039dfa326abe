"""Weights & Biases beside the run folder: the same numbers, never a reason for a run to wait or to end."""

import logging
import os
import secrets
from pathlib import Path
from typing import Any

from training.files import write_atomically

AXES = ("step", "tokens", "train_seconds")
START_TIMEOUT = 15  # seconds for the server to answer; then the run is recorded offline
FINISH_TIMEOUT = 30  # seconds for the last upload; what is missing then stays in the run folder

log = logging.getLogger(__name__)


class Tracker:
    """A wandb run that lasts as long as the training run does, over any number of resumes.

    Metrics arrive as `train/loss`, `eval/perplexity`, ..., drawn over `step`; `tokens` and `train_seconds` are
    logged with each so that runs can be overlaid on any of the three. wandb's own step counter is not used: it
    cannot go back to the step a run resumes from. What was trained again after a resume is logged again, with
    the same numbers.

    A server that cannot be reached or refuses makes the run an offline one, which `wandb sync` uploads later.
    No failure of wandb is raised: it is logged once, and tracking ends.

    Args:
        settings: mode ("disabled", "offline" or "online"; wandb is imported in the last two only), project,
            entity, group, tags.
        folder: the run folder; wandb's files go to its wandb/, the id of the wandb run to wandb_id. Under an agent of
            a sweep it is the id that the agent has chosen, also for a resume without one.
        name: the run's name.
        config: the resolved config, plain values.
    """

    def __init__(self, settings: Any, folder: Path, *, name: str, config: dict[str, Any]):
        self._run = None
        if settings.mode != "disabled":
            self._attempt(lambda: self._start(settings, folder, name, config))

    def log(self, row: dict[str, Any]) -> None:
        """Log a row of metrics.jsonl."""
        if self._run is not None:
            values = {axis: row[axis] for axis in AXES}
            for key, value in row.items():
                if key not in values and key != "kind" and value is not None:
                    values[f"{row['kind']}/{key}"] = value
            self._attempt(lambda: self._run.log(values))

    def finish(self, summary: dict[str, Any] | None = None, *, exit_code: int = 0) -> None:
        """Hand over the summary, if the run is finished, and close the wandb run."""
        if self._run is not None:
            if summary is not None:
                self._attempt(lambda: self._run.summary.update(summary))
            if self._run is not None:
                self._attempt(lambda: self._run.finish(exit_code=exit_code))
            self._run = None

    def _start(self, settings: Any, folder: Path, name: str, config: dict[str, Any]) -> None:
        import wandb

        def init(mode: str) -> Any:
            return wandb.init(
                mode=mode,
                dir=folder,
                id=run_id,
                resume="allow",
                name=name,
                project=settings.project,
                entity=settings.entity,
                group=settings.group,
                tags=list(settings.tags),
                config=config,
                allow_val_change=True,
                settings=wandb.Settings(
                    init_timeout=START_TIMEOUT,
                    finish_timeout=FINISH_TIMEOUT,
                    console="off",  # the terminal is ours
                    silent=True,
                ),
            )

        id_file = folder / "wandb_id"
        if "WANDB_SWEEP_ID" in os.environ:  # wandb takes its agent's id, whatever init is given
            write_atomically(id_file, os.environ["WANDB_RUN_ID"].encode())
        elif not id_file.exists():
            write_atomically(id_file, secrets.token_hex(8).encode())
        run_id = id_file.read_text()
        try:
            self._run = init(settings.mode)
        except Exception as error:
            if settings.mode == "offline":
                raise
            log.warning(
                "wandb is offline, `wandb sync %s/offline-run-*` will upload the run later: %s",
                folder / "wandb",
                _first_line(error),
            )
            wandb.teardown()  # the failed start still holds the id
            self._run = init("offline")
        for axis in AXES:
            self._run.define_metric(axis)
        for kind in ("train", "eval"):
            self._run.define_metric(f"{kind}/*", step_metric="step")

    def _attempt(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            self._run = None
            log.warning("wandb failed and is switched off: %s", _first_line(error))


def _first_line(error: Exception) -> str:
    return f"{error}".strip().partition("\n")[0] or type(error).__name__
