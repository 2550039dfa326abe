"""The training loop: from one step boundary to the next, with evaluations, checkpoints and ordered ends.

At a boundary the run is its weights, optimizer state, stream states and counters. What happens there - evaluate,
save, stop - depends on nothing else, so a resumed run repeats what an uninterrupted one does.
"""

import contextlib
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from configs.identity import config_hash, to_dict
from configs.messages import one_line
from configs.schema import Config, SettingsError
from data.held_out import EvaluationData
from data.loader import Batch, TrainingData
from models.unpadding import model_inputs
from optimizers import BaseOptimizer, state_bytes
from training import checkpoint
from training.clock import DeviceClock
from training.distributed import World
from training.environment import environment
from training.errors import MachineError, SaveError
from training.evaluation import evaluate
from training.layerwise import GradientRelease
from training.parallel import Replicas, Shards
from training.progress import Progress, perplexity
from training.recorder import Recorder, peak_memory_bytes
from training.schedule import lr_factor
from training.state import random_states, set_random_states

log = logging.getLogger(__name__)


@dataclass
class Counters:
    """What is known of a run at a step boundary, beside its tensors."""

    step: int = 0  # updates made
    tokens: int = 0  # targets that entered the loss, all processes
    train_seconds: float = 0.0  # in training steps: evaluations and checkpoints excluded
    evaluated: int = 0  # step of the last evaluation
    evaluation_loss: float | None = None  # what it found


@dataclass
class Interval:
    """Sums since the last row of metrics."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0


class Trainer:
    """Trains the model of `layout` in place, from where it stands to `train.steps`, a signal, or an error.

    `folder` receives the checkpoints, `recorder` (of the main process, None on others) the rows of metrics.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        layout: Replicas | Shards,
        optimizer: BaseOptimizer,
        *,
        folder: Path,
        recorder: Recorder | None,
    ):
        self.config, self.world, self.optimizer = config, world, optimizer
        self.counters = Counters()
        self._folder, self._recorder = folder, recorder
        # As configured: a checkpoint brings its own, and of lr the last step's.
        self._options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        self._layout = layout
        layout.adopt(optimizer)
        self._parameters = [parameter for parameter in layout.bare.parameters() if parameter.requires_grad]
        self._rows = config.train.micro_batch_size or config.train.batch_size // world.count
        self._streams: dict[str, dict] = {}
        self._saved_step = 0  # of the last checkpoint
        self._interval = Interval()
        self._optimizer_clock = DeviceClock(world.device)
        self._release = None
        if config.train.layerwise:
            self._release = GradientRelease(self._parameters, optimizer, self._optimizer_clock)

    def restore(self, found: checkpoint.Checkpoint) -> dict[str, dict]:
        """Take over everything saved in `found` but the optimizer's options, which are those of the settings; returns
        the states of all streams, for the data.

        Raises SettingsError when the settings describe another model or optimizer.
        """
        saved = checkpoint.load(found, self._layout.state_device)
        try:
            self._layout.load(saved.model)
            groups = saved.optimizer["param_groups"]
            for group, options in zip(groups, self._options, strict=False):  # loading refuses another number of groups
                group.update(options)
            self.optimizer.load_full_state_dict(saved.optimizer)
        except (RuntimeError, ValueError) as error:  # after run.allow_config_change
            raise SettingsError(f"{found.path} does not fit these settings: {one_line(error)}") from error
        set_random_states(saved.random_states)
        self.counters = Counters(**found.counters)
        self._saved_step, self._streams = found.step, saved.streams
        return saved.streams

    def train(self, data: TrainingData, held_out: EvaluationData) -> int:
        """Run until the last step (returns 0) or until any process was sent a signal (returns its number); the
        state is saved either way.

        Raises MachineError for a loss that is not finite, of a step or an evaluation, for a process that failed or a
        final save that did, and whatever the data raise, after saving.
        """
        settings, counters = self.config.train, self.counters
        self.world.signals.defer()
        with contextlib.closing(
            Progress(steps=settings.steps, done=counters.step, enabled=self.world.is_main)
        ) as progress:
            while True:
                last = counters.step >= settings.steps
                if counters.evaluated < counters.step and (last or self._due(settings.eval_every)):
                    signum = self._evaluate(held_out)
                    if signum:
                        break
                if last:
                    signum = 0
                    break
                if self._due(settings.checkpoint_every):
                    self._save(required=False)
                signum = self._step(data, progress)
                if signum:
                    break
        self._save()
        return signum

    def summary(self) -> dict[str, Any]:
        """The figures of a finished run. All processes call it; they are the main one's."""
        config, counters = self.config, self.counters
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
            "parameters": sum(parameter.numel() for parameter in self._layout.bare.parameters()),
            "optimizer_state_bytes": self._layout.held(state_bytes(self.optimizer)),
            "peak_memory_bytes": peak_memory_bytes(self.world.device),
            "processes": self.world.count,
            "seed": config.run.seed,
            "config_hash": config_hash(config),
            "mixed_precision": self.world.mixed_precision,
            **environment(self.world.device),
        }

    def _due(self, every: int) -> bool:
        return every > 0 and self.counters.step % every == 0

    def _step(self, data: TrainingData, progress: Progress) -> int:
        """One update from the next batch; returns 0, or the signal that came before it and left it undone."""
        started = time.perf_counter()
        failure: Exception | None = None
        batch, targets = None, 0
        try:
            batch = data.next_batch(lambda: self.world.signals.noted)
            targets = 0 if batch is None else int((batch.labels[:, 1:] != -100).sum())
        except Exception as error:  # of the data's thread; whatever it is, what was trained is saved first
            failure = error
        waited = time.perf_counter() - started
        rows = self.world.exchange(targets, self.world.signals.noted, failure is not None)
        if any(failed for _, _, failed in rows):
            self._save()
            self.world.abandon(failure)
        if signum := max(signum for _, signum, _ in rows):
            return signum

        targets = sum(row[0] for row in rows)
        assert targets > 0, "a batch without a target"
        step = self.counters.step + 1
        schedule = self.config.schedule
        factor = lr_factor(
            step,
            steps=self.config.train.steps,
            warmup_fraction=schedule.warmup_fraction,
            final_fraction=schedule.final_fraction,
            first_lr_zero=schedule.first_lr_zero,
        )
        for group, options in zip(self.optimizer.param_groups, self._options, strict=True):
            group["lr"] = options["lr"] * factor
        loss, norm = self._gradients(batch, targets)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            # Layer-wise, a bad gradient of a good loss is known only when it has been applied; it is never saved.
            applied = "was applied but not kept" if self._release and math.isfinite(loss) else "was not applied"
            raise MachineError(
                f"step {step} {applied}: its loss is {loss}, its gradient norm {norm} ({self._last_saved()})"
            )
        watching = self._recorder.watching(step) if self._recorder is not None else contextlib.nullcontext()
        with watching, self._optimizer_clock:
            self.optimizer.step()
        self.optimizer.zero_grad()

        self._streams = batch.stream_states
        self.counters.step = step
        self.counters.tokens += targets
        train = self.config.train
        if self.world.device.type == "cuda" and (
            step == train.steps or self._due(train.eval_every) or self._due(train.checkpoint_every)
        ):
            torch.cuda.synchronize()  # what follows is not training time
        seconds = time.perf_counter() - started
        self.counters.train_seconds += seconds
        interval = self._interval
        interval.steps += 1
        interval.tokens += targets
        interval.seconds += seconds
        interval.data_seconds += waited
        progress.show(step, loss, targets / seconds)
        if self._due(train.log_every):
            self._log_row(loss, norm)
        return 0

    def _gradients(self, batch: Batch, targets: int) -> tuple[float, float]:
        """Gradients of the loss per target, over all micro-batches and processes, clipped if so set. Returns that
        loss and the global gradient norm before clipping: the one time a step waits for its device.

        Layer-wise, backward is also the step, so it waits for the loss too: one that is not finite is returned before.
        """
        device = self.world.device
        total = torch.zeros((), device=device)
        micro_batches = list(zip(batch.input_ids.split(self._rows), batch.labels.split(self._rows), strict=True))
        for index, (input_ids, labels) in enumerate(micro_batches):
            reduces = index == len(micro_batches) - 1
            inputs = model_inputs(input_ids, labels, device)
            with contextlib.nullcontext() if reduces else self._layout.unreduced():
                loss_sum = self._layout.model(**inputs).loss_sum
                if self._release and not math.isfinite(loss := loss_sum.item() / targets):
                    return loss, math.nan
                # Averaged over processes is what is a sum over all targets.
                (loss_sum * (self.world.count / targets)).backward()
            total += loss_sum.detach()
        if self._release:
            norm = self._release.take_norm()
        else:
            norm = self._layout.gradient_norm(self._parameters, self.config.train.clip_grad_norm)
        loss = self.world.sum(total) / targets
        return tuple(torch.stack([loss, norm.to(loss.dtype)]).tolist())

    def _log_row(self, loss: float, norm: float) -> None:
        interval, self._interval = self._interval, Interval()
        optimizer_seconds = self._optimizer_clock.take() / interval.steps
        if self._recorder is None:
            return
        groups = self.optimizer.param_groups
        adam = [group["lr"] for group in groups if group["label"] == "adam"]
        method = [group["lr"] for group in groups if group["label"] == "method"]
        self._recorder.write(
            {
                "kind": "train",
                "step": self.counters.step,
                "tokens": self.counters.tokens,
                "loss": loss,
                "lr": (method or adam)[0],
                "adam_lr": adam[0] if adam else None,
                "grad_norm": norm,
                "tokens_per_second": interval.tokens / interval.seconds,
                "optimizer_seconds": optimizer_seconds,
                "data_seconds": interval.data_seconds / interval.steps,
                "train_seconds": self.counters.train_seconds,
            }
        )

    def _evaluate(self, held_out: EvaluationData) -> int:
        """Evaluate and record; returns 0, or the signal that cut it short."""
        found = evaluate(
            self._layout.model,
            held_out,
            self.world,
            rows=self._rows,
            galore_rows=self.config.train.galore_batch_size,
        )
        if found is None:
            return self.world.stop_signal()
        counters = self.counters
        if not math.isfinite(found.loss):
            raise MachineError(
                f"step {counters.step} is not kept: the loss of its evaluation is {found.loss} ({self._last_saved()})"
            )
        counters.evaluated, counters.evaluation_loss = counters.step, found.loss
        if self._recorder is not None:
            log.info("step %d: evaluation perplexity %.4g", counters.step, perplexity(found.loss))
            self._recorder.write(
                {
                    "kind": "eval",
                    "step": counters.step,
                    "tokens": counters.tokens,
                    "loss": found.loss,
                    "perplexity": perplexity(found.loss),
                    "galore_perplexity": found.galore_perplexity,
                    "eval_tokens": found.targets,
                    "train_seconds": counters.train_seconds,
                }
            )
        return 0

    def _last_saved(self) -> str:
        saved = f"the last checkpoint is that of step {self._saved_step}" if self._saved_step else "none is saved"
        return f"{saved} in {self._folder}"

    def _save(self, *, required: bool = True) -> None:
        """Save the state at this boundary, unless that was done.

        A disk that refuses is no reason to stop training (`required` false: a warning, and the next checkpoint is
        tried at its time); at the end of training it raises SaveError.
        """
        if self._saved_step == self.counters.step:
            return
        streams = self.world.gather(self._streams)
        weights, optimizer_state = self._layout.weights(), self.optimizer.full_state_dict()
        failure: SaveError | None = None
        if self._recorder is not None:
            try:
                self._recorder.sync()
                path = checkpoint.save(
                    self._folder,
                    self.counters.step,
                    model_state=weights,
                    optimizer_state=optimizer_state,
                    streams={stream: state for part in streams for stream, state in part.items()},
                    random_states=random_states(),
                    counters=asdict(self.counters),
                    config=to_dict(self.config),
                )
                checkpoint.prune(path)
            except SaveError as error:
                failure = error
        if not any(failed for (failed,) in self.world.exchange(failure is not None)):
            self._saved_step = self.counters.step
        elif required:
            self.world.abandon(failure)
        elif failure is not None:
            log.warning("%s; training goes on", failure)
