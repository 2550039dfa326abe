"""Weights & Biases: the numbers of the run folder once more, never a reason for a run to wait or to end."""

import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.schema import Wandb
from training.run.atomic import write_atomically

if TYPE_CHECKING:
    from wandb import Run

AXES = ("step", "tokens", "train_seconds")
START_TIMEOUT = 15  # seconds for the server to answer; then the run is recorded offline
FINISH_TIMEOUT = 30  # seconds for the last upload; the rest then stays in the run folder

log = logging.getLogger(__name__)


class Tracker:
    """A wandb run that lasts as long as the training run does, over any number of resumes.

    Metrics are logged as `train/loss`, `eval/perplexity`, ..., drawn over `step`. `tokens` and `train_seconds` are
    logged with each, so that runs can be overlaid on any of the three. wandb's own step counter is not used, because
    it cannot go back to the step that a run resumes from. Steps trained again after a resume are logged again, with
    the same numbers.

    If the server refuses or cannot be reached, the run is recorded offline, and `wandb sync` uploads it later.
    No failure of wandb is raised: it is logged once, and tracking ends.

    Args:
        settings: mode ("disabled", "offline" or "online"; wandb is imported in the last two only), project,
            entity, group, tags.
        folder: the run folder. wandb's files go to its wandb/, the id of the wandb run to wandb_id. Under the agent of
            a sweep the agent chooses the id, and a later resume without an agent keeps it.
        name: the run's name.
        config: the resolved config, plain values.
    """

    def __init__(self, settings: Wandb, folder: Path, *, name: str, config: dict[str, Any]):
        self._run: Run | None = None
        if settings.mode != "disabled":
            self._attempt(lambda: self._start(settings, folder, name, config))

    def log(self, row: dict[str, Any]) -> None:
        """Log a row of metrics.jsonl."""
        run = self._run
        if run is not None:
            values = {axis: row[axis] for axis in AXES}
            for key, value in row.items():
                if key not in values and key != "kind" and value is not None:
                    values[f"{row['kind']}/{key}"] = value
            self._attempt(lambda: run.log(values))

    def finish(self, summary: dict[str, Any] | None = None, *, exit_code: int = 0) -> None:
        """Hand over the summary, if the run is finished, and close the wandb run."""
        run = self._run
        if run is None:
            return
        if summary is not None:
            self._attempt(lambda: run.summary.update(summary))
        if self._run is not None:  # otherwise wandb has just failed
            self._attempt(lambda: run.finish(exit_code=exit_code))
        self._run = None

    def _start(self, settings: Wandb, folder: Path, name: str, config: dict[str, Any]) -> None:
        import wandb

        def init(mode: Literal["offline", "online"]) -> "Run":
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

        run_id = _run_id(folder / "wandb_id")
        wandb.setup(settings=wandb.Settings(silent=True))  # on a terminal it would ask for a key, and wait
        if settings.mode == "offline":
            run = init("offline")
        else:
            try:
                run = init("online")
            except Exception as error:
                log.warning(
                    "wandb is offline, `wandb sync %s/offline-run-*` will upload the run later: %s",
                    folder / "wandb",
                    _first_line(error),
                )
                wandb.teardown()  # the failed start still holds the id
                run = init("offline")
        for axis in AXES:
            run.define_metric(axis)
        for kind in ("train", "eval"):
            run.define_metric(f"{kind}/*", step_metric="step")
        self._run = run

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._run = None
            log.warning("wandb failed and is switched off: %s", _first_line(error))


def _run_id(file: Path) -> str:
    """The id of the wandb run, kept in `file` from its first start on."""
    if "WANDB_SWEEP_ID" in os.environ:  # wandb takes its agent's id, whatever init is given
        write_atomically(file, os.environ["WANDB_RUN_ID"].encode())
    elif not file.exists():
        write_atomically(file, secrets.token_hex(8).encode())
    return file.read_text()


def _first_line(error: Exception) -> str:
    return f"{error}".strip().partition("\n")[0] or type(error).__name__
