"""Perplexity of a finished run on other text, and its place in the run's folder: evaluations.json."""

import json
import os
from pathlib import Path

import torch

from configs.reading import argument, with_training_text
from configs.schema import Config, SettingsError, load
from configs.user_paths import is_dir
from data.file_lock import lock_file
from data.held_out import EvaluationData
from data.tokenizer import load_tokenizer
from models.llama import build_model
from training.evaluation import Evaluation, evaluate, perplexity
from training.processes.failures import settings_errors
from training.processes.world import World
from training.run.atomic import write_atomically

# The settings of data that say how a text becomes rows: the run's own, unless they are changed by name.
ROWS = ("sequence_length", "packing", "special_tokens_in_text")


def evaluation_settings(run: str, changes: list[str]) -> Config:
    """The settings of a run folder, changed by key=value arguments. Raises SettingsError."""
    model = Path(run, "model")
    if not is_dir(model):
        raise SettingsError(f"{run} is not the folder of a finished run: it has no model folder")
    own: tuple[str, ...] = (argument("data.tokenizer", str(model)), argument("model.init_from", str(model)))
    data = vars(load([f"{run}/config.yaml"]).config.data)
    named = [change.partition("=")[0] for change in changes]
    other_text = "data.eval_path" in named
    if data["source"] in ("builtin", "prepared") and other_text and not {"data", "data.source"} & set(named):
        text = "the builtin text" if data["source"] == "builtin" else "a prepared store"
        raise SettingsError(f"{run} was trained on {text}: other text needs data=files beside data.eval_path")
    # Of the other text all is evaluated on.
    own += ("data.held_out=null",) if other_text and "data.held_out" not in named else ()
    kept = [f"data.{key}={json.dumps(data[key])}" for key in ROWS]  # `data=files` would bring its own
    invocation = load([f"{run}/config.yaml", *kept, *with_training_text(changes), *own])
    if invocation.plan is not None:
        raise SettingsError("--plan is an option of train.py: an evaluation has none")
    return invocation.config


def evaluate_run(config: Config, world: World) -> Evaluation:
    """The evaluation of the model in `model.init_from`. Raises Interrupted when a process is sent a signal."""
    with settings_errors():
        tokenizer = load_tokenizer(config.data)
        held_out = EvaluationData(config.data, tokenizer, vocab_size=config.model.vocab_size)
        model = build_model(config.model, dtype=getattr(torch, config.train.dtype), seed=config.run.seed)
    model.to(world.device)  # type: ignore[arg-type]  # wrapped by transformers
    world.autocast(model)
    return evaluate(
        model,
        held_out,
        world,
        rows=config.train.micro_batch_size or -(-config.train.batch_size // world.count),
        galore_rows=config.train.galore_batch_size,
    )


def describe(found: Evaluation) -> str:
    """The evaluation in a line."""
    galore = "" if found.galore_perplexity is None else f", GaLore's {found.galore_perplexity:.4f}"
    return f"perplexity {perplexity(found.loss):.4f}{galore} (loss {found.loss:.6f} over {found.targets:,} targets)"


def save(found: Evaluation, run: Path, name: str) -> None:
    """Put the evaluation as `name` into the run's evaluations.json. Raises SettingsError if that is damaged."""
    path = run / "evaluations.json"
    folder = os.open(run, os.O_RDONLY)
    try:
        lock_file(folder, run, wait=True)  # until it is closed: another evaluation of the run may end at the same time
        saved = dict(json.loads(path.read_text())) if path.is_file() else {}
        saved[name] = {"loss": found.loss, "perplexity": perplexity(found.loss), "eval_tokens": found.targets}
        write_atomically(path, (json.dumps(saved, indent=2) + "\n").encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise SettingsError(f"{path} is not readable ({error}); the evaluation is not saved") from error
    finally:
        os.close(folder)
