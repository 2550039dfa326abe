"""Runs of train.py and of a plain loop in turns, each in a process of its own, and the table of their speeds."""

import itertools
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from analysis.paths import ROOT
from benchmarks.machine import rates
from benchmarks.plain_loop import LoopRun
from configs.reading import argument
from configs.schema import Config, load
from data.sources import training_source
from training.plan import plan_run

WARM = 2  # steps that are not counted
# Characters of a document: log-normal with the median and the spread of 500 documents of C4's validation set.
DOCUMENT, SPREAD = 1_150, 1.1


class Loop(NamedTuple):
    """A way to train."""

    name: str
    checkpointing: bool  # of activations


PLAIN = Loop("plain", checkpointing=False)
Rounds = dict[Loop, list[LoopRun]]  # a run for each round


@dataclass(frozen=True)
class Row:
    """One way to train: medians over the rounds; a ratio is to the plain loop of the same round."""

    loop: str
    checkpointing: bool
    positions_per_second: float
    ratio: float
    tokens_per_second: float  # without padding
    tokens_ratio: float
    of_bound: float  # seconds of the products alone over seconds of a step
    data_percent: float
    first_seconds: float
    peak_bytes: float
    peak_ratio: float


def write_documents(path: Path) -> None:
    """Write the builtin text, cut into documents of the lengths of C4's, as JSON Lines."""
    files = training_source(load(["data=builtin"]).config.data).files
    text = "\n".join(Path(file).read_text(encoding="utf-8") for file in files)
    source, start = random.Random(0), 0
    with path.open("w") as file:
        while start < len(text):
            end = start + round(source.lognormvariate(math.log(DOCUMENT), SPREAD))
            file.write(json.dumps({"text": text[start:end]}) + "\n")
            start = end


def take_turns(settings: list[str], documents: Path, rounds: int, checkpointing: bool, config: Config) -> tuple[
        Rounds, list[float]]:  # fmt: skip
    """The runs of each way to train, and the FLOP/s of a matrix product, both by round."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measure_rates = rates(device, getattr(torch, config.train.dtype))
    results: Rounds = {}
    gemm = []
    for _ in range(rounds):
        gemm.append(measure_rates()[1])
        for recompute in (False, True)[: 1 + checkpointing]:
            chosen = [*settings, f"train.activation_checkpointing={str(recompute).lower()}"]
            results.setdefault(Loop("plain", recompute), []).append(run_plain(chosen, documents))
            ours = {"train.py": "data.packing=false"}
            if not recompute:
                ours["train.py, packed"] = "data.packing=true"
            for loop, packing in ours.items():
                found = run_ours([*chosen, packing], documents.parent / "run")
                results.setdefault(Loop(loop, recompute), []).append(found)
    return results, gemm


def run(command: list[str]) -> str:
    """The output of a Python process with these arguments. Raises CalledProcessError, after showing its stderr."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    done.check_returncode()
    return done.stdout


def run_ours(settings: list[str], folder: Path) -> LoopRun:
    """A run of train.py in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)  # of the round before
    run(["train.py", *settings, argument("run.dir", str(folder))])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    totals = [0.0, *(row["train_seconds"] for row in rows)]
    return LoopRun(
        seconds=[after - before for before, after in itertools.pairwise(totals)],
        data_seconds=[row["data_seconds"] for row in rows],
        tokens=rows[-1]["tokens"],
        peak_bytes=json.loads((folder / "summary.json").read_text())["peak_memory_bytes"],
    )


def run_plain(settings: list[str], documents: Path) -> LoopRun:
    """A run of the plain loop (benchmarks/plain_loop.py)."""
    printed = run(["-m", "benchmarks.plain_loop", str(documents), *settings])
    return LoopRun(**json.loads(printed.splitlines()[-1]))


def evaluate(rounds: Rounds, gemm: list[float], config: Config) -> list[Row]:
    """A row for each way to train; `gemm`: FLOP/s of a matrix product by round."""
    positions = config.train.batch_size * config.data.sequence_length
    attention = 6 * config.model.num_hidden_layers * config.model.hidden_size * config.data.sequence_length
    flops_per_token = plan_run(config)["flops_per_position"] - attention
    speeds = {
        loop: [positions / statistics.median(one.seconds[WARM:]) for one in runs] for loop, runs in rounds.items()
    }
    whole_run = positions * config.train.steps
    useful = {
        loop: [speed * one.tokens / whole_run for speed, one in zip(speeds[loop], runs, strict=True)]
        for loop, runs in rounds.items()
    }
    peaks = {loop: statistics.median(one.peak_bytes for one in runs) for loop, runs in rounds.items()}
    return [
        Row(
            loop=loop.name,
            checkpointing=loop.checkpointing,
            positions_per_second=statistics.median(speeds[loop]),
            ratio=_ratio(speeds[loop], speeds[PLAIN]),
            tokens_per_second=statistics.median(useful[loop]),
            tokens_ratio=_ratio(useful[loop], useful[PLAIN]),
            of_bound=flops_per_token * _ratio(useful[loop], gemm),
            data_percent=100
            * statistics.median(sum(one.data_seconds[WARM:]) / sum(one.seconds[WARM:]) for one in runs),
            first_seconds=statistics.median(one.seconds[0] for one in runs),
            peak_bytes=peaks[loop],
            peak_ratio=peaks[loop] / peaks[PLAIN],
        )
        for loop, runs in rounds.items()
    ]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the rounds."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def show(rows: Sequence[Row], conditions: str) -> None:
    """The table, on stdout."""
    heads = ("positions/s", "ratio", "tokens/s", "ratio", "of bound", "data", "first", "peak MiB", "ratio")
    print(f"{conditions}\n{'':24}" + "".join(f"{head:>12}" for head in heads))
    for row in rows:
        name = row.loop + (", checkpointing" if row.checkpointing else "")
        cells = (
            f"{row.positions_per_second:,.0f}",
            f"{row.ratio:.2f}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.tokens_ratio:.2f}",
            f"{row.of_bound:.2f}",
            f"{row.data_percent:.2f}%",
            f"{row.first_seconds:.1f}",
            f"{row.peak_bytes / 2**20:,.0f}",
            f"{row.peak_ratio:.2f}",
        )
        print(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells))
