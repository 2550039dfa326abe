"""How well does each optimizer's structure approximate the Fisher of a real model, and what does it hold for that?

    python scripts/fim_error.py RUN [key=value ...] [--samples 512] [--seed 0] [--results results/fim_error]

RUN is a finished run's folder, or one with a saved model (then model=... and data.* settings describe it; default: a
llama_nano on the builtin text). Every attention and MLP matrix gets one gradient from each of 2 * samples training
sequences; the structures of fisher_structures.py are fitted to the first half, and measured on it and on the second.
Writes fim_error.csv, fim_error.png and medians.md; without RUN the last two are made again from the first.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from configs.schema import Data, load  # noqa: E402
from data.loader import TrainingData  # noqa: E402
from data.tokenizer import check_vocabulary, load_tokenizer  # noqa: E402
from models.llama import build_model  # noqa: E402
from optimizers import partition  # noqa: E402
from scripts import fim_figure  # noqa: E402
from scripts import fisher_structures as structures  # noqa: E402
from scripts.fisher_structures import Fisher, Structure  # noqa: E402

RANKS = (16, 8, 4, 2)  # m / rank; the paper's ranks are m / 4 to m / 2 (its Table 10)
LEADING = 40 / 128  # share of its basis that Alice keeps at a switch, by default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run folder or a model folder")
    parser.add_argument("settings", nargs="*", help="key=value, as for train.py")
    parser.add_argument("--samples", type=int, default=512, help="sequences to fit to, and as many again to test on")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the sequences and of Alice's draws")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "fim_error")
    arguments = parser.parse_args()
    table = arguments.results / "fim_error.csv"
    try:
        if arguments.samples < 2:
            raise ValueError(f"--samples must be at least 2, got {arguments.samples}")
        if arguments.run:
            rows = list(measure(arguments.run, arguments.settings, arguments.samples, arguments.seed))
            arguments.results.mkdir(parents=True, exist_ok=True)
            with table.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        elif not table.is_file():
            raise ValueError(f"there is no {table} to draw again: give a run folder")
    except ValueError as error:
        parser.error(str(error))
    fim_figure.make(table)
    print(f"{table.with_suffix('.png')} and medians.md made from {table}")


def measure(run: Path, settings: list[str], samples: int, seed: int) -> Iterator[dict]:
    """One row of the table for each matrix and structure. Raises ValueError for settings or a folder that is wrong."""
    resolved, saved = run / "config.yaml", run / "model"
    files = [str(resolved)] if resolved.is_file() else []
    folder = saved if resolved.is_file() else run
    config = load([*files, *settings, f"model.init_from={folder}", f"data.seed={seed}"]).config
    model = build_model(config.model, dtype=torch.float32, seed=0)
    ids, labels = sequences(config.data, config.model.vocab_size, 2 * samples)
    method = partition.parameter_groups(model, last_layer="adam")[0]["params"]
    for layer, members in groupby(method, key=lambda pair: re.search(r"\d+|$", pair[0]).group()):
        # A layer at a time: its gradients of all sequences are what this holds in memory.
        print(f"layer {layer}", file=sys.stderr, flush=True)
        members = list(members)
        gradients = sampled_gradients(model, [parameter for _, parameter in members], ids, labels)
        for name, _ in members:
            oriented = gradients.pop(0)
            scale = oriented.norm(dim=(1, 2), dtype=torch.float64).mean()  # squares of squares must not underflow
            fitted, unseen = (Fisher(half.double() / scale) for half in oriented.split(samples))
            m, n = fitted.m, fitted.n
            for label, rank, structure in fit_all(fitted, torch.Generator().manual_seed(seed)):
                yield {
                    "matrix": name.removesuffix(".weight").removeprefix("model."),
                    "m": m,
                    "n": n,
                    "structure": label,
                    "rank": rank,
                    "numbers": structure.numbers,
                    "error": f"{fitted.error(structure):.6g}",
                    "unseen_error": f"{unseen.error(structure):.6g}",
                    "samples": samples,
                    "length": ids.shape[1],
                    "seed": seed,
                }


def fit_all(fisher: Fisher, source: torch.Generator) -> Iterator[tuple[str, int | str, Structure]]:
    """(name, rank or "", structure) of every structure; `source` draws Alice's switched columns."""
    for name in ("normalization", "racs", "adam", "whitening", "shampoo", "kronecker", "eigen_adam", "soap"):
        yield name, "", getattr(structures, name)(fisher)
    yield "full_blocks", "", structures.full_blocks(fisher)
    for rank in sorted({max(fisher.m // part, 1) for part in RANKS}):
        yield "galore", rank, structures.galore(fisher, rank)
        yield "alice", rank, structures.alice(fisher, rank)
        yield "alice_switched", rank, structures.alice_switched(fisher, rank, round(LEADING * rank), source)


def sequences(section: Data, vocab_size: int, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` rows of the training data, in its order: ids and labels, [count, length]. Raises DataError."""
    tokenizer = load_tokenizer(section)
    check_vocabulary(tokenizer, vocab_size)
    rows = TrainingData(section, tokenizer, vocab_size=vocab_size, batch_size=section.streams)
    batches = [next(rows) for _ in range(-(-count // section.streams))]
    rows.close()
    return tuple(torch.cat([getattr(batch, part) for batch in batches])[:count] for part in ("input_ids", "labels"))


def sampled_gradients(model: nn.Module, weights: list[Tensor], ids: Tensor, labels: Tensor) -> list[Tensor]:
    """The gradient of each sequence's mean loss: for every weight, [N, m, n] float32 with m <= n."""
    sizes = [sorted(weight.shape) for weight in weights]
    sampled = [torch.empty(len(ids), *size) for size in sizes]
    for i in range(len(ids)):
        targets = (labels[i, 1:] != -100).sum()
        loss = model(ids[i : i + 1], labels[i : i + 1]).loss_sum / targets
        for store, gradient in zip(sampled, torch.autograd.grad(loss, weights), strict=True):
            store[i] = gradient if gradient.shape == store[i].shape else gradient.T
    return sampled


if __name__ == "__main__":
    main()
