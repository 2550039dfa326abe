"""How fast is training, and what memory does it take, against a plain loop and against the matrix products alone?

    python scripts/benchmark_training.py [FILE.yaml ...] [key=value ...] [--steps 8] [--rounds 5] [--threads 1]
        [--checkpointing] [--results results/benchmarks]

The settings are those of train.py (default: model=llama_nano train.batch_size=16). Runs of train.py take turns with
runs of a plain loop, each in a process of its own: transformers' LlamaForCausalLM with its own loss, torch's fused
AdamW, and a loader that tokenises one document at a time and pads it, as GaLore's training code does (torchrun_main.py
and peft_pretraining/dataloader.py of jiaweizzhao/GaLore). Both train the same model, by Adam, on as many rows of the
same documents (of C4's lengths, made from the builtin text), one document a row; "train.py, packed" joins documents
instead, as data.packing=true does (the default except for C4, whose published numbers are of padded rows).
--checkpointing adds the first two with activation checkpointing. Medians over the steps after the first two, then over
the rounds:

    positions/s   a second of training steps         ratio   of a round's speeds, to the plain loop
                  (train.py leaves out padding: the more padding, the higher this number; compare tokens/s)
    tokens/s      without padding                    ratio   likewise
    of bound      the time that 6 FLOPs for each token and each element of the matrices and lm_head take at the rate of
                  a matrix product, measured in each round, over the time of a step
    data          share of the time spent waiting for data, %
    first         seconds of the first step, compilation included        peak    memory of the process, MiB

Writes training_<model>_<device>_<dtype>.csv into the results' folder.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import argparse
import statistics
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

import torch

from analysis.paths import RESULTS
from analysis.tables.table import write_csv
from benchmarks.training import WARM, Row, evaluate, show, take_turns, write_documents
from configs.reading import argument
from configs.schema import SettingsError, load


def main() -> None:
    """Run the comparison that the command line describes, show and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for train.py")
    parser.add_argument("--steps", type=int, default=8, help="of a run, the first two of which are not counted")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true", help="also with activation checkpointing")
    parser.add_argument("--results", type=Path, default=RESULTS / "benchmarks")
    arguments = parser.parse_intermixed_args()
    if arguments.steps <= WARM:
        parser.error(f"--steps must be above {WARM}, got {arguments.steps}")
    settings = [
        *(arguments.settings or ["model=llama_nano", "train.batch_size=16"]),
        *("optimizer=adam", "optimizer.lr=0.001", "data=files", "data.eval_tokens=1000"),
        *(f"train.steps={arguments.steps}", f"train.threads={arguments.threads}"),
        *("train.eval_every=0", "train.checkpoint_every=0", "train.log_every=1", "wandb.mode=disabled"),
    ]
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        documents = Path(folder) / "documents.jsonl"
        settings += [argument(key, str(documents)) for key in ("data.path", "data.eval_path")]
        try:
            config = load(settings).config
        except SettingsError as error:
            parser.error(str(error))
        write_documents(documents)
        rounds, gemm = take_turns(settings, documents, arguments.rounds, arguments.checkpointing, config)
    rows = evaluate(rounds, gemm, config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    conditions = (
        f"{config.model.name}, {config.train.batch_size} rows of {config.data.sequence_length}, {config.train.dtype}; "
        f"{device}, {arguments.threads} thread(s), torch {torch.__version__}, GEMM {statistics.median(gemm) / 1e9:.0f} "
        "GFLOP/s"
    )
    show(rows, conditions)
    path = arguments.results / f"training_{config.model.name}_{device}_{config.train.dtype}.csv"
    write_csv(path, [field.name for field in fields(Row)], [asdict(row).values() for row in rows], conditions)
    print(path)


if __name__ == "__main__":
    main()
