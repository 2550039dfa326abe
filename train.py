"""Train a LLaMA on text with the optimizer that the settings name.

    accelerate launch train.py [FILE.yaml ...] [key=value ...]
    python train.py [FILE.yaml ...] [key=value ...] --plan | --plan=json [--processes=N] [--card=NAME]

Without a FILE: configs/quickstart.yaml. Every key, with its default and meaning, is in docs/settings.md, those of the
optimizers in docs/options.md. The same command again resumes the run. The exit code is 0 for a finished run, 2 when the
settings or the data are at fault, 1 when the machine is, 128 + the signal (130, 143, ...) after an interrupt and its
checkpoint.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import json
import logging
import os
import sys
from contextlib import ExitStack, closing

# Micro-batches without padding are of many sizes, and memory in fixed pieces would not fit the next. Read when torch is
# imported.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its old name
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import torch

from configs.checks import check_layout
from configs.schema import Config, load, set_seed
from data.held_out import EvaluationData
from data.loader import TrainingData
from data.tokenizer import check_vocabulary, load_tokenizer
from models.llama import build_model
from training.cluster.cards import chosen
from training.compiler import compile_layers
from training.loop import Trainer
from training.optimizer import build_optimizer
from training.plan import plan_run
from training.plan_table import plan_table
from training.processes.failures import Ending, settings_errors
from training.processes.launch_variables import launched
from training.processes.layout import Layout, lay_out
from training.processes.logs import say, set_up_logging
from training.processes.model_weights import set_initial_weights, whole_weights
from training.processes.start import start_run
from training.processes.world import World
from training.run.folder import locked_run_folder
from training.run.recorder import open_recorder
from training.run.resume import find_start, require_space
from training.run.summary import final_line, summarize
from training.train_settings import deals_steps

log = logging.getLogger("training")


def main(argv: list[str]) -> int:
    """Train, resume or plan as the command line `argv` says; returns the exit code, after a sentence if it is not 0."""
    with Ending() as ending:
        set_up_logging(launched("RANK", 0))
        if not {"-h", "--help"}.isdisjoint(argv):
            say(__doc__.strip())
            return 0
        invocation = load(argv)
        config = invocation.config
        if invocation.plan is not None:
            with settings_errors():
                cards = chosen(invocation.card)
                check_layout(config, invocation.processes or 1)
                plan = plan_run(config, processes=invocation.processes or 1, cards=cards)
            bounded = invocation.processes is not None or invocation.card is not None
            say(json.dumps(plan) if invocation.plan == "json" else plan_table(plan, bounded=bounded))
        else:
            check_layout(config, launched("WORLD_SIZE", 1))
            ending.world = start_run(config)
            ending.code = run(config, ending.world)
    return ending.code


def run(config: Config, world: World) -> int:
    """Build model, optimizer and data from the settings, train, and write the results; returns the exit code."""
    with ExitStack() as opened:
        with settings_errors():
            folder = opened.enter_context(locked_run_folder(config, world))
            start = world.from_main(lambda: find_start(folder, config, world.mixed_precision))
            set_seed(config, start.seed)
            if start.summary is not None:
                result = final_line(start.summary, folder)
                world.from_main(lambda: say(f"this run is finished: {result}"))
                world.close()
                return 0
            world.from_main(lambda: require_space(folder, config, start))

            tokenizer = load_tokenizer(config.data)
            check_vocabulary(tokenizer, config.model.vocab_size)
            layout, compiled = build_layout(config, world, resumed=start.checkpoint is not None)
            model = layout.unwrapped
            optimizer = build_optimizer(model, config.optimizer)
            optimizer.compile_steps(on=("cuda",) if compiled else ())
            if config.train.stochastic_rounding:
                optimizer.round_stochastically(config.run.seed)
            held_out = world.from_main(  # one set for all processes: no need to download and tokenise it for each
                lambda: EvaluationData(config.data, tokenizer, vocab_size=config.model.vocab_size)
            )
            recorder = opened.enter_context(open_recorder(world, folder, config, start.checkpoint, optimizer))
            trainer = Trainer(config, world, layout, optimizer, folder=folder.checkpoints, recorder=recorder)
            data = TrainingData(
                config.data,
                tokenizer,
                vocab_size=config.model.vocab_size,
                batch_size=config.train.batch_size,
                process_index=world.index,
                process_count=world.count,
                stream_states=trainer.restore(start.checkpoint),
                mended=start.has_data_path(config.data.path),
                pin=world.device.type == "cuda",
                evaluated=held_out.files,
            )
            opened.enter_context(closing(data))
            recorder.begin()

        signum = trainer.train(data, held_out)
        if signum:
            world.close()
            step = trainer.counters.step
            saved = f"step {step} is saved and the same command goes on from it" if step else "there is nothing to save"
            log.info("interrupted; %s", saved)
            return 128 + signum
        weights = whole_weights(model, world)
        summary = summarize(config, world, layout, optimizer, trainer.counters)
        world.close()
        recorder.export(model, weights, tokenizer)
        recorder.finish(summary)
    return 0


def build_layout(config: Config, world: World, *, resumed: bool) -> tuple[Layout, bool]:
    """The model on the processes, with its first weights unless they come from a checkpoint; and whether its layers are
    compiled."""
    model = build_model(
        config.model,
        dtype=getattr(torch, config.train.dtype),
        seed=config.run.seed,
        activation_checkpointing=config.train.activation_checkpointing,
        device="meta",
        resumed=resumed,
    )
    products = torch.bfloat16 if world.mixed_precision == "bf16" else model.dtype
    compiled = compile_layers(model, config.train, config.data.sequence_length, world.device, products)
    deal_steps = deals_steps(config.run, config.train)
    layout = lay_out(model, world, parallel=config.train.parallel, deal_steps=deal_steps)
    if not resumed:
        set_initial_weights(model, config.model, world, seed=config.run.seed)
    return layout, compiled


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
