"""Train a LLaMA on text with the optimizer that the settings name.

    accelerate launch train.py [FILE.yaml ...] [key=value ...] [--plan | --plan=json]

Without a FILE: configs/quickstart.yaml. The same command again resumes the run. The exit code is 0 for a finished run,
2 when the settings or the data are at fault, 1 when the machine is, 130 or 143 after an interrupt and its checkpoint.
"""

import contextlib
import json
import logging
import os
import sys
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

import optimizers
from configs.checks import check_layout
from configs.schema import Config, load, optimizer_options
from data.held_out import EvaluationData
from data.loader import TrainingData
from data.tokenizer import check_vocabulary, load_tokenizer
from models import estimate
from models.llama import build_model
from training import compiler, distributed, failures
from training.loop import Trainer
from training.parallel import lay_out
from training.progress import set_up_logging
from training.recorder import Recorder, export_model, final_line
from training.records import RunFolder
from training.resume import begin, find_start

log = logging.getLogger("training")


def main(argv: list[str]) -> int:
    """Do what the command line `argv` asks for; returns the exit code, after a sentence on stderr if it is not 0."""
    set_up_logging(int(os.environ.get("RANK", 0)))
    world = None
    try:
        invocation = load(argv)
        config = invocation.config
        if invocation.plan is not None:
            with failures.of_settings():
                plan = estimate.plan(config)
            figure_4 = estimate.figure_4(config, plan)
            if invocation.plan == "json":
                print(json.dumps({**plan, "figure_4": figure_4}))
            else:
                print(estimate.describe(plan, figure_4))
            return 0
        check_layout(config, int(os.environ.get("WORLD_SIZE", 1)))
        world = distributed.start(
            seed=config.run.seed,
            threads=config.train.threads,
            deterministic=config.run.deterministic,
            dtype=config.train.dtype,
        )
        with logging_redirect_tqdm():
            return run(config, world)
    except (Exception, distributed.Interrupted) as error:
        return failures.report(error, world)
    finally:
        if world is not None:
            world.signals.release()


def run(config: Config, world: distributed.World) -> int:
    """Build what the settings name, train it, and leave the results in the run folder; returns the exit code."""
    folder = RunFolder(Path(config.run.dir))
    with contextlib.ExitStack() as opened:
        with failures.of_settings():
            start = None
            if world.is_main:
                opened.enter_context(folder)
                start = find_start(folder, config)
            start = world.broadcast(start)
            config.run.seed = start.seed
            if start.summary is not None:
                if world.is_main:
                    print(f"this run is finished: {final_line(start.summary, folder)}")
                world.close()
                return 0
            if world.is_main:
                folder.require_space(estimate.plan(config)["checkpoint_bytes"])

            tokenizer = load_tokenizer(config.data)
            check_vocabulary(tokenizer, config.model.vocab_size)
            model = build_model(
                config.model,
                dtype=getattr(torch, config.train.dtype),
                seed=config.run.seed,
                activation_checkpointing=config.train.activation_checkpointing,
            )
            if compiler.wanted(model, config.train, config.data.sequence_length, world.device):
                model.compile(dynamic=False)
            layout = lay_out(model, world, parallel=config.train.parallel)  # before its parameters are handed out
            chosen = config.optimizer
            optimizer = optimizers.build(
                model,
                chosen.name,
                lr=chosen.lr,
                adam_lr=chosen.adam_lr,
                last_layer=chosen.last_layer,
                **optimizer_options(chosen),
            )
            if config.train.stochastic_rounding:
                optimizer.round_stochastically(config.run.seed)
            # One set for all processes; a download or a tokenisation for each would be waste.
            held_out = None
            if world.is_main:
                held_out = EvaluationData(config.data, tokenizer, vocab_size=config.model.vocab_size)
            held_out = world.broadcast(held_out)
            recorder = None
            if world.is_main:
                recorder = opened.enter_context(Recorder(folder, config, start.found, optimizer))
            trainer = Trainer(config, world, layout, optimizer, folder=folder.checkpoints, recorder=recorder)
            data = TrainingData(
                config.data,
                tokenizer,
                vocab_size=config.model.vocab_size,
                batch_size=config.train.batch_size,
                process_index=world.index,
                process_count=world.count,
                stream_states=trainer.restore(start.found) if start.found is not None else None,
            )
            opened.callback(data.close)
            if world.is_main:
                begin(folder, config)

        signum = trainer.train(data, held_out)
        if signum:
            world.close()
            if world.is_main:
                log.warning("interrupted; step %d is saved and the same command goes on from it", trainer.counters.step)
            return 128 + signum
        weights, summary = layout.weights(), trainer.summary()
        world.close()
        if world.is_main:
            export_model(model, weights, tokenizer, folder.model)
            summary = recorder.finish(summary)
            print(final_line(summary, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
