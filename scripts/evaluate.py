"""Perplexity of a finished run, on its own evaluation text or on other text.

    python scripts/evaluate.py RUN [key=value ...] [--save NAME]
    python scripts/evaluate.py runs/my_run data=files data.eval_path=book.txt data.eval_tokens=20000

RUN is a run folder. The settings are the run's, changed by the arguments; the tokenizer is the run's. Starts under
`accelerate launch` as well, and then shares the rows out. --save keeps the result as NAME in RUN/evaluations.json.
Exit codes as for train.py.
"""

import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.schema import Config, SettingsError, load
from data.held_out import EvaluationData
from data.tokenizer import load_tokenizer
from models.llama import build_model
from training.evaluation import Evaluation, evaluate, perplexity
from training.processes import failures
from training.processes.logs import set_up_logging
from training.processes.signals import Interrupted
from training.processes.start import start_world
from training.processes.world import World
from training.run.atomic import write_atomically


def settings(arguments: list[str]) -> Config:
    """The settings of the run folder `arguments[0]`, changed by the rest. Raises SettingsError."""
    if not arguments or ("=" in arguments[0] and not Path(arguments[0]).is_dir()):
        raise SettingsError("name a run folder: scripts/evaluate.py RUN [key=value ...]")
    run, *changes = arguments
    model = Path(run, "model")
    if not model.is_dir():
        raise SettingsError(f"{run} is not the folder of a finished run: it has no model folder")
    for change in changes:
        if change.startswith("data.eval_path="):  # nothing is trained here
            changes = [*changes, change.replace("eval_path", "path")]
            break
    own = (f"data.tokenizer={model}", f"model.init_from={model}")
    return load([f"{run}/config.yaml", *changes, *own]).config


def evaluate_run(config: Config, world: World) -> Evaluation:
    """The evaluation of the model in `model.init_from`. Raises Interrupted when the launcher dies."""
    with failures.settings_errors():
        tokenizer = load_tokenizer(config.data)
        held_out = EvaluationData(config.data, tokenizer, vocab_size=config.model.vocab_size)
        model = build_model(config.model, dtype=getattr(torch, config.train.dtype), seed=config.run.seed)
    return evaluate(
        model.to(world.device),
        held_out,
        world,
        rows=config.train.micro_batch_size or -(-config.train.batch_size // world.count),
        galore_rows=config.train.galore_batch_size,
    )


def save(found: Evaluation, path: Path, name: str) -> None:
    """Put the evaluation as `name` among those in the JSON file `path`. Raises SettingsError if that is damaged."""
    try:
        saved = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise SettingsError(f"{path} is not readable ({error}); the evaluation is not saved") from error
    saved[name] = {"loss": found.loss, "perplexity": perplexity(found.loss), "eval_tokens": found.targets}
    write_atomically(path, (json.dumps(saved, indent=2) + "\n").encode())


def main(arguments: list[str]) -> int:
    """Print the perplexity; returns the exit code."""
    set_up_logging(int(os.environ.get("RANK", 0)))
    world = name = None
    try:
        if "--save" in arguments:
            at = arguments.index("--save")
            if at + 1 == len(arguments):
                raise SettingsError("--save needs a name for the result")
            name, arguments = arguments[at + 1], [*arguments[:at], *arguments[at + 2 :]]
        config = settings(arguments)
        world = start_world(
            seed=config.run.seed,
            threads=config.train.threads,
            deterministic=config.run.deterministic,
            dtype=config.train.dtype,
        )
        found = evaluate_run(config, world)
        world.close()
        if world.is_main:
            exact, galore = f"perplexity {perplexity(found.loss):.4f}", found.galore_perplexity
            galore = "" if galore is None else f", GaLore's {galore:.4f}"
            print(f"{exact}{galore} (loss {found.loss:.6f} over {found.targets:,} targets)", flush=True)
            if name is not None:
                save(found, Path(arguments[0], "evaluations.json"), name)
    except (Exception, Interrupted) as error:
        return failures.report(error, world)
    finally:
        if world is not None:
            world.signals.release()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
