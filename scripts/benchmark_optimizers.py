"""How fast is each optimizer's step, against the least it could cost and against other implementations?

    python scripts/benchmark_optimizers.py [FILE.yaml ...] [key=value ...] [--optimizers alice,racs,...] [--no-peers]
        [--whole] [--rank R] [--leading L] [--rounds 15] [--refreshes 3] [--patience 20] [--threads N]
        [--results results/benchmarks]

The settings are those of train.py; model=llama_60m in float32 if there are none. Every optimizer of the registry, and
every peer that is installed, steps the attention and MLP matrices of that model, with the paper's rank for it, on the
same gradients. With --whole they step embeddings, norms and lm_head as well: methods for matrices by the Adam of their
package, and peers whose package has no Adam are left out. All take turns, each round also measures memory and a matrix
product, and the table has medians of rounds:

    step      ms, no refresh       x adam     step time over that of torch's fused AdamW in the same round
    refresh   ms more in a step that renews the bases       mean   ms, step + refresh / update_interval
    x bound   step time over bytes / memory bandwidth + FLOPs / GEMM rate (training/cluster/bounds.py)
    x ours    a peer's step time over that of the registry's optimizer of the same algorithm       (mean)  likewise
    share     of a training step of 131,072 positions at the GEMM rate, % (mean time; the paper's batch)
    state     MiB held             peak       MiB allocated at the most during a step, above those held before it
              (on a CPU by one thread: each holds that much for the matrix it steps)

Writes optimizers_<model>[_whole]_<device>_<dtype>.csv and .png into the results' folder.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import argparse
from pathlib import Path

import torch

from analysis.paths import RESULTS
from benchmarks.optimizer_rows import describe_conditions, draw, evaluate, show, write
from benchmarks.optimizers import Machine, measure, paper_settings, parts, race
from configs.schema import SettingsError, load
from optimizers import registry


def main() -> None:
    """Run the race that the command line describes, show and write its table."""
    arguments, parser = parse()
    torch.set_num_threads(arguments.threads)
    names = arguments.optimizers.split(",")
    try:
        for name in names:
            registry.get(name)
        config = load(arguments.settings or ["model=llama_60m"]).config
        paper = vars(paper_settings(config).optimizer)
    except (SettingsError, ValueError) as error:
        parser.error(str(error))
    rank = arguments.rank or paper["rank"]
    leading = arguments.leading or min(paper["leading"], rank)

    model, machine = parts(config, whole=arguments.whole), Machine()
    candidates = race(model, names, rank, leading, with_peers=arguments.peers)
    measure(candidates, model, machine, arguments.rounds, arguments.refreshes, patience=arguments.patience)
    rows = evaluate(candidates, model, machine, config, rank)

    conditions = describe_conditions(model, machine, config, rank)
    show(rows, conditions)
    whole, device = "_whole" if model.rest else "", model.matrices[0].device.type
    path = arguments.results / f"optimizers_{config.model.name}{whole}_{device}_{config.train.dtype}.csv"
    write(rows, conditions, path)
    draw(rows, conditions, path.with_suffix(".png"))
    print(path)


def parse() -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """The command line, and the parser that refuses a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for train.py")
    parser.add_argument("--optimizers", default=",".join(registry.names()), help="names of the registry")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="only the registry's")
    parser.add_argument("--whole", action="store_true", help="all of the model, not the matrices alone")
    parser.add_argument("--rank", type=int, help="default: the paper's for the model")
    parser.add_argument("--leading", type=int, help="default: the paper's for the model")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--refreshes", type=int, default=3)
    patience = "seconds of steps, and of refreshes, after which a candidate sits out the other rounds"
    parser.add_argument("--patience", type=float, default=20.0, help=patience)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's choice")
    parser.add_argument("--results", type=Path, default=RESULTS / "benchmarks")
    return parser.parse_intermixed_args(), parser


if __name__ == "__main__":
    main()
