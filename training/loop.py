"""The training loop. `Trainer._update` is one update: forward, backward and the optimizer's step.

At a step boundary a run is its weights, optimizer state, stream states and counters. Evaluations, checkpoints and stops
happen there and depend on nothing else, so a resumed run repeats an uninterrupted one.
"""

import contextlib
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from configs.identity import to_dict
from configs.messages import one_line
from configs.schema import Config, SettingsError
from data.held_out import EvaluationData
from data.loader import Batch, TrainingData
from models.unpadding import model_inputs
from optimizers import BaseOptimizer
from optimizers.engine.matrix import NotFiniteError
from training.counters import Counters
from training.device_numbers import DeviceNumbers
from training.evaluation import evaluate, perplexity
from training.layerwise import GradientRelease
from training.meter import Meter
from training.processes.layout import Layout
from training.processes.model_weights import check_weights, load_weights, whole_weights
from training.processes.signals import Interrupted
from training.processes.world import World
from training.progress import Progress
from training.run import checkpoint
from training.run.provenance import beside_settings
from training.run.random_states import random_states, set_random_states
from training.run.recorder import Recorder
from training.run_errors import MachineError, SaveError
from training.schedule import lr_factor

log = logging.getLogger(__name__)

# What an optimizer's step raises where it gets no basis out of a gradient that is not finite.
NO_BASIS = (NotFiniteError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


class Trainer:
    """Trains the model of `layout` in place, from the current step to `train.steps`, a signal, or an error.

    `folder` receives the checkpoints, `recorder` the rows of metrics.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        layout: Layout,
        optimizer: BaseOptimizer,
        *,
        folder: Path,
        recorder: Recorder,
    ):
        self.config, self.world, self.optimizer = config, world, optimizer
        self.counters = Counters()
        self._layout, self._folder, self._recorder = layout, folder, recorder
        # As configured: a checkpoint brings its own, and its lr is that of the last step.
        self._options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        layout.attach(optimizer)
        self._parameters = [parameter for parameter in layout.unwrapped.parameters() if parameter.requires_grad]
        self._rows = config.train.micro_batch_size or config.train.batch_size // world.count
        self._streams: dict[str, dict] = {}
        self._saved_step = 0  # of the last checkpoint
        self._once_last: int | None = None  # the last step of a run that goes on with more of them
        self._meter = Meter(world.device)
        # A CPU has computed loss and norm when they are asked for. A GPU would idle until the step's launches follow.
        self._reads_first = world.device.type != "cuda"
        self._release: GradientRelease | None = None
        if config.train.layerwise:
            self._release = GradientRelease(self._parameters, optimizer, self._meter.optimizer_clock)

    def restore(self, found: checkpoint.Checkpoint | None) -> dict[str, dict] | None:
        """Load all that `found` holds but the optimizer's options, which are those of the settings.

        Returns the states of all streams, for the data; None at the beginning of a run, where `found` is None.
        Raises SettingsError when the settings describe another model or optimizer.
        """
        if found is None:
            return None
        saved = checkpoint.load(found)
        model, weights, state = self._layout.unwrapped, saved.model.content, saved.optimizer.content
        try:
            check_weights(model, weights)
            # Loading refuses another number of groups.
            for group, options in zip(state["param_groups"], self._options, strict=False):
                group.update(options)
            self.optimizer.load_full_state_dict(state, saved.optimizer.read)
        except ValueError as error:  # possible after run.allow_config_change
            raise SettingsError(f"{found.path} does not fit these settings: {one_line(error)}") from error
        load_weights(model, weights, saved.model.read)
        set_random_states(saved.random_states)
        self.counters = Counters(**found.counters)
        self._saved_step, self._streams = found.step, saved.streams
        # A signal may have come before its evaluation; afterwards it is another step than the last.
        self._once_last = found.step if found.step == found.config["train"]["steps"] else None
        return saved.streams

    def train(self, data: TrainingData, held_out: EvaluationData) -> int:
        """Run until the last step (returns 0) or until any process was sent a signal (returns its number).

        The state is saved either way. Raises MachineError for a loss that is not finite, of a step or an evaluation,
        for a process that failed, and for a final save that failed; after saving, any error of the data.
        """
        signum = 0
        self.world.signals.defer()
        steps, done = self.config.train.steps, self.counters.step
        try:
            with Progress(steps=steps, done=done, enabled=self.world.is_main) as progress:
                self._run_steps(data, held_out, progress)
        except Interrupted as interrupted:
            signum = interrupted.signum
        self._save()
        return signum

    def _run_steps(self, data: TrainingData, held_out: EvaluationData, progress: Progress) -> None:
        """Evaluate, save and step until the last step is evaluated. Raises Interrupted at a step boundary."""
        settings, counters = self.config.train, self.counters
        while True:
            last = counters.step >= settings.steps
            due = last or self._due(settings.eval_every) or counters.step == self._once_last
            if due and counters.evaluated < counters.step:
                self._evaluate(held_out)
            if last:
                return
            if self._due(settings.checkpoint_every):
                self._save(required=False)
            self._step(data, progress)

    def _due(self, every: int) -> bool:
        return every > 0 and self.counters.step % every == 0

    def _step(self, data: TrainingData, progress: Progress) -> None:
        """From this step boundary to the next. Raises Interrupted, with nothing done, if a signal came first."""
        started = time.perf_counter()
        batch, targets = self._next_batch(data)
        loss, norm = self._update(batch, targets)
        self._streams = batch.stream_states
        self.counters.step += 1
        self.counters.tokens += targets
        self._finish_training_time()
        seconds = time.perf_counter() - started
        self.counters.train_seconds += seconds
        self._meter.add(targets=targets, seconds=seconds)
        progress.show(self.counters.step, loss, targets / seconds)
        if self._due(self.config.train.log_every):
            self._record_step(loss, norm)

    def _update(self, batch: Batch, targets: int) -> tuple[float, float]:
        """Forward, backward and the optimizer's step on `batch`, this process's rows [rows, length] of the whole batch.

        The loss is the mean over the `targets` of the whole batch: all micro-batches, all processes. Returns it (nats)
        and the norm of the gradient before clipping; only to read them does a step wait for its device. Raises
        MachineError if one of them is not finite. A CPU reads them before the optimizer's step, which such a gradient
        then does not reach; with train.layerwise, where backward is that step, it reads the loss before backward. A GPU
        reads them behind the step, and what was applied is not kept.
        """
        step, layout, device = self.counters.step + 1, self._layout, self.world.device
        self._set_learning_rates(step)
        total = torch.zeros((), device=device)
        micro_batches = list(zip(batch.input_ids.split(self._rows), batch.labels.split(self._rows), strict=True))
        for number, (input_ids, labels) in enumerate(micro_batches, 1):
            with contextlib.nullcontext() if number == len(micro_batches) else layout.no_sync():
                loss_sum = layout.model(**model_inputs(input_ids, labels, device)).loss_sum
                if self._release and self._reads_first and not math.isfinite(loss := loss_sum.item() / targets):
                    raise self._not_finite(loss, math.nan)
                self._backward(loss_sum, targets)
            total += loss_sum.detach()
        if self._release:
            norm = self._release.take_norm()
        else:
            norm = layout.gradient_norm(self._parameters, self.config.train.clip_grad_norm)
        mean = self.world.sum(total) / targets
        numbers = DeviceNumbers(torch.stack([mean, norm.to(mean.dtype)]))
        if self._reads_first:
            self._finite(numbers)
        with self._recorder.recording_bases(step), self._meter.optimizer_clock:
            try:
                self.optimizer.step()
            except NO_BASIS:
                self._finite(numbers)  # a gradient that is not may have stopped the renewal of a basis
                raise
        self.optimizer.zero_grad(set_to_none=not layout.keeps_gradients)
        return self._finite(numbers)

    def _finite(self, numbers: DeviceNumbers) -> tuple[float, float]:
        """Loss and gradient norm. Raises MachineError if one of them is not finite."""
        loss, norm = numbers.read()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._not_finite(loss, norm)
        return loss, norm

    def _backward(self, loss_sum: Tensor, targets: int) -> None:
        """Backward, which with train.layerwise is the optimizer's step. Raises MachineError where a gradient that is
        not finite stops the renewal of a basis."""
        try:
            # DDP averages gradients over processes: times their number gives the mean over all targets.
            (loss_sum * (self.world.count / targets)).backward()
        except NO_BASIS as error:
            norm = self._release.take_norm().item() if self._release else 0.0
            if math.isfinite(norm):
                raise
            raise self._not_finite(loss_sum.item() / targets, norm, applied="was not kept") from error

    def _next_batch(self, data: TrainingData) -> tuple[Batch, int]:
        """This process's rows of the next step, and the number of targets of all processes' rows.

        The processes agree before they go on. Raises Interrupted if any was sent a signal. If the data of any process
        raised an error, saves and raises it.
        """
        batch, targets = None, 0
        failure: Exception | None = None
        signals = self.world.signals
        try:
            with self._meter.waiting_for_data():
                batch = data.next_batch(lambda: signals.requested)
                targets = 0 if batch is None else int((batch.labels[:, 1:] != -100).sum())
        except Exception as error:  # raised by the data's thread: the steps so far are saved first, whatever it is
            failure = error
        rows = self.world.all_gather(targets, signals.requested, failure is not None)
        if any(failed for _, _, failed in rows):
            self._save()
            self.world.raise_agreed(failure)
        if signum := max(signum for _, signum, _ in rows):
            raise Interrupted(signum)
        targets = sum(share for share, _, _ in rows)
        assert batch is not None and targets > 0, "a batch without a target"
        return batch, targets

    def _set_learning_rates(self, step: int) -> None:
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

    def _finish_training_time(self) -> None:
        """Before the device does something else than training: wait for the steps, so that their time is counted."""
        train = self.config.train
        last = self.counters.step == train.steps
        if self.world.device.type == "cuda" and (
            last or self._due(train.eval_every) or self._due(train.checkpoint_every)
        ):
            torch.cuda.synchronize()

    def _not_finite(self, loss: float, norm: float, applied: str | None = None) -> MachineError:
        if applied is None:
            # Behind the step, or layer-wise a bad gradient of a good loss: applied when it is known, but never saved.
            late = not self._reads_first or (self._release and math.isfinite(loss))
            applied = "was applied but not kept" if late else "was not applied"
        return MachineError(
            f"step {self.counters.step + 1} {applied}: its loss is {loss}, its gradient norm {norm} "
            f"({self._last_saved()})"
        )

    def _record_step(self, loss: float, norm: float) -> None:
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
                **self._meter.take(),
                "train_seconds": self.counters.train_seconds,
            }
        )

    def _evaluate(self, held_out: EvaluationData) -> None:
        """Evaluate and record. Raises Interrupted, and MachineError for a loss that is not finite."""
        found = evaluate(
            self._layout.model,
            held_out,
            self.world,
            rows=self._rows,
            galore_rows=self.config.train.galore_batch_size,
        )
        counters = self.counters
        if not math.isfinite(found.loss):
            raise MachineError(
                f"step {counters.step} is not kept: the loss of its evaluation is {found.loss} ({self._last_saved()})"
            )
        counters.evaluated, counters.evaluation_loss = counters.step, found.loss
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

    def _last_saved(self) -> str:
        saved = f"the last checkpoint is that of step {self._saved_step}" if self._saved_step else "none is saved"
        return f"{saved} in {self._folder}"

    def _save(self, *, required: bool = True) -> None:
        """Save the state at this step boundary, unless that was done. Raises SaveError if a `required` save fails.

        A full disk is no reason to stop training: a save that is not required gives a warning, and the next checkpoint
        is tried at its time.
        """
        if self._saved_step == self.counters.step:
            return
        streams = self.world.gather(self._streams)
        weights = whole_weights(self._layout.unwrapped, self.world)
        optimizer_state = self.optimizer.full_state_dict()

        def write() -> bool:
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
                    config=to_dict(self.config) | beside_settings(self.config.optimizer, self.world.mixed_precision),
                )
                checkpoint.prune(path)
            except SaveError as error:
                if required:
                    raise
                log.warning("%s; training goes on", error)
                return False
            return True

        if self.world.from_main(write):
            self._saved_step = self.counters.step
