"""How long does a training step of each row of the nano study take, on a machine that does nothing else?

    python scripts/benchmark_steps.py [--rounds 5] [--out results/nano/step_seconds.csv]

A step is forward and backward of one batch, the same for all rows and compiled if the study says so, and the
optimizer's part, which is the mean of an update_interval of steps with its refresh. All rows take turns on one thread;
medians of rounds. The study itself runs several at a time, so its own seconds say little: its speed-ups in seconds are
made from these.
"""

import argparse
import csv
import statistics
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import optimizers  # noqa: E402
from configs.schema import Config, load, optimizer_options  # noqa: E402
from models.llama import LlamaForCausalLM, build_model  # noqa: E402
from scripts.machine import seconds  # noqa: E402
from training import compiler  # noqa: E402

CONFIGS = ROOT / "configs" / "experiment" / "nano"
COLUMNS = ("row", "seconds", "forward_backward_seconds", "optimizer_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "nano" / "step_seconds.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted((CONFIGS / "study").glob("*.yaml"))
    configs = {file.stem: load([str(file)]).config for file in files}
    model, batch = prepare(configs["adam"])
    model(input_ids=batch, labels=batch).loss_sum.backward()  # compiles
    steppers = {row: build(model, config) for row, config in configs.items()}
    passes: list[float] = []
    parts: dict[str, list[float]] = {row: [] for row in steppers}
    for _ in range(arguments.rounds):
        for row, optimizer in steppers.items():
            model.zero_grad()
            passes.append(seconds(lambda: model(input_ids=batch, labels=batch).loss_sum.backward()))
            steps = getattr(configs[row].optimizer, "update_interval", 1)
            parts[row].append(statistics.fmean(seconds(optimizer.step) for _ in range(steps)))
    common = statistics.median(passes)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row, times in parts.items():
            own = statistics.median(times)
            writer.writerow([row, f"{common + own:.6f}", f"{common:.6f}", f"{own:.6f}"])
            print(f"{row:28} {1e3 * (common + own):8.1f} ms, {1e3 * own:6.2f} of them the optimizer's")


def prepare(config: Config) -> tuple[LlamaForCausalLM, torch.Tensor]:
    """The model of the study, and a batch of its size."""
    model = build_model(config.model, dtype=torch.float32, seed=0)
    if compiler.wanted(model, config.train, config.data.sequence_length, torch.device("cpu")):
        model.compile(dynamic=False)
    size = (config.train.batch_size, config.data.sequence_length)
    return model, torch.randint(config.model.vocab_size, size, generator=torch.Generator().manual_seed(0))


def build(model: LlamaForCausalLM, config: Config) -> optimizers.BaseOptimizer:
    """A row's optimizer on the model that all share, at a rate that leaves it as it is."""
    chosen = config.optimizer
    return optimizers.build(
        model, chosen.name, lr=1e-9, adam_lr=1e-9, last_layer=chosen.last_layer, **optimizer_options(chosen)
    )


if __name__ == "__main__":
    main()
