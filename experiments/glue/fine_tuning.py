"""One fine-tuning run with the Trainer of transformers: from settings to the record of what came out.

OUT/<name>/config.yaml    the settings, written at the start
OUT/<name>/environment.json  where it was started: commit, device, versions, a method's own file
OUT/<name>/checkpoints/   the Trainer's, one an epoch, gone when the run is finished
OUT/<name>/record.jsonl   one line; there only when the run is finished
"""

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

import optimizers
from configs.messages import why_not_opened
from configs.reading import SettingsError
from configs.schema import optimizer_options
from experiments.glue import glue_data
from experiments.glue.glue_settings import RECORD, GlueConfig, plain
from experiments.glue.scores import scores
from experiments.glue.tasks import TASKS, Task
from optimizers.engine.base import BaseOptimizer
from training.run.atomic import write_atomically
from training.run.folder import RunFolder
from training.run.provenance import environment
from training.run_errors import MachineError

# Adam steps what is in no numbered layer: embeddings, the pooler of BERT, the classifier.
OUTSIDE_LAYERS = r"^(?!.*\.\d+\.)"


def fine_tune(config: GlueConfig, folder: Path) -> dict[str, Any]:
    """Train, or go on from the newest whole checkpoint, and write the record into `folder`; returns it.

    Raises SettingsError for data or an encoder that do not fit, RunFolderError for a folder that cannot be written or
    that another process trains in, MachineError for a loss that is not finite.
    """
    with RunFolder(folder) as run_folder:
        made = _train(config, run_folder)
        write_atomically(folder / RECORD, (json.dumps(made) + "\n").encode())
        shutil.rmtree(run_folder.checkpoints)
    return made


def _train(config: GlueConfig, run_folder: RunFolder) -> dict[str, Any]:
    """Train and return the record."""
    glue, task = config.glue, TASKS[config.glue.task]
    _check_one_device()
    train, validation = glue_data.read(glue.task, glue.data)
    model, tokenizer = load_encoder(glue.model, task, glue.seed)
    if glue.max_length > tokenizer.model_max_length:
        raise SettingsError(f"glue.max_length must be at most {glue.model}'s {tokenizer.model_max_length} tokens")
    optimizer = build_optimizer(model, config)
    arguments = _arguments(config, run_folder.checkpoints)
    made_in = environment(arguments.device, config.optimizer)
    run_folder.write_config(plain(config))
    run_folder.write_environment(made_in)
    trainer = transformers.Trainer(
        model,
        arguments,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        train_dataset=glue_data.tokenize(train, task, tokenizer, glue.max_length),
        eval_dataset=glue_data.tokenize(validation, task, tokenizer, glue.max_length),
        compute_metrics=lambda made: scores(task, np.asarray(made.predictions), np.asarray(made.label_ids)),
        optimizers=(optimizer, None),
        callbacks=[_Watch()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=newest_checkpoint(run_folder.checkpoints))
    return record(config, epochs_of(trainer.state.log_history), optimizer, made_in)


def _check_one_device() -> None:
    """A batch is one device's: the Trainer would take one for each device that it sees."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("scripts/glue.py trains with one process a run: start it without a launcher")
    if torch.cuda.device_count() > 1:
        raise SettingsError(f"a run takes one of the {torch.cuda.device_count()} CUDA devices: name them, as -g 0,1")


def load_encoder(
    name: str, task: Task, seed: int
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """The encoder in float32 under a classifier made from `seed`, and its tokenizer. Raises SettingsError."""
    transformers.set_seed(seed)
    kind = {"problem_type": "regression"} if task.is_regression else {}
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            name, num_labels=task.labels, dtype=torch.float32, trust_remote_code=False, **kind
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(f"glue.model: {name} is no encoder that can be loaded: {why_not_opened(error)}") from error
    return model, tokenizer


def build_optimizer(model: nn.Module, config: GlueConfig) -> BaseOptimizer:
    """The method on the matrices of attention and MLP, Adam on embeddings, norms, biases and the classifier."""
    section = config.optimizer
    assert section.adam_lr is not None
    return optimizers.build(
        model, section.name, lr=section.lr, adam_lr=section.adam_lr, rules=[(OUTSIDE_LAYERS, "adam")],
        **optimizer_options(section),
    )  # fmt: skip


def _arguments(config: GlueConfig, checkpoints: Path) -> transformers.TrainingArguments:
    glue = config.glue
    return transformers.TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=glue.epochs,
        per_device_train_batch_size=glue.batch_size,
        per_device_eval_batch_size=64,
        lr_scheduler_type="linear",
        warmup_steps=glue.warmup,
        max_grad_norm=0.0,
        seed=glue.seed,
        eval_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_strategy="epoch",
        save_total_limit=1,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )


class _Watch(transformers.TrainerCallback):
    """Puts seconds of training (evaluation left out) into the log, prints each epoch, ends a run that diverges.

    The seconds are of each epoch alone, and the log is part of the checkpoints, so that a resumed run has them all.
    """

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.begun = time.perf_counter()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        self.seconds = time.perf_counter() - self.begun

    def on_log(self, args: object, state: transformers.TrainerState, *_: object, **__: object) -> None:
        if not math.isfinite(state.log_history[-1].get("loss", 0.0)):
            raise MachineError(f"the loss of epoch {round(state.epoch or 0)} is not finite: try a smaller optimizer.lr")

    def on_evaluate(self, args: object, state: transformers.TrainerState, *_: object, **__: object) -> None:
        state.log_history[-1]["train_seconds"] = self.seconds
        row = epochs_of(state.log_history)[-1]
        print(" ".join(f"{key}={value:.4g}" for key, value in row.items()), flush=True)


def newest_checkpoint(folder: Path) -> str | None:
    """The last whole checkpoint of a run, which is one whose trainer_state.json, written last, can be read."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return str(checkpoint)
    return None


def epochs_of(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """A row an epoch of the Trainer's log: epoch, step, mean training loss, validation loss, scores, train_seconds."""
    rows: dict[int, dict[str, float]] = {}
    for logged in history:
        row = rows.setdefault(int(logged["step"]), {"epoch": round(logged["epoch"]), "step": int(logged["step"])})
        if "loss" in logged:
            row["loss"] = logged["loss"]
        if "eval_loss" in logged:
            row |= {"validation_loss": logged["eval_loss"], "train_seconds": logged.get("train_seconds", 0.0)}
            timings = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
            names = [key for key in logged if key.startswith("eval_") and key not in timings]
            row |= {key.removeprefix("eval_"): logged[key] for key in names}
    return [row for row in rows.values() if "validation_loss" in row]


def record(
    config: GlueConfig, epochs: list[dict[str, float]], optimizer: BaseOptimizer, made_in: dict[str, Any]
) -> dict[str, Any]:
    """What is kept of a finished run, `made_in` this environment.

    `best` is the largest of the task's first score over the epochs.
    """
    score = TASKS[config.glue.task].scores[0]
    best = max(epochs, key=lambda row: row[score])
    return {
        "task": config.glue.task,
        "seed": config.glue.seed,
        "optimizer": config.optimizer.name,
        "score": score,
        "best": best[score],
        "best_epoch": best["epoch"],
        "last": epochs[-1][score],
        "train_seconds": sum(row["train_seconds"] for row in epochs),
        "optimizer_state_bytes": optimizers.state_bytes(optimizer),
        "settings": plain(config),
        "epochs": epochs,
        **made_in,
    }
