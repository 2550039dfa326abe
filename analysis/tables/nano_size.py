"""Tables of the study with 2,048 positions a step (results/nano): Table 2 at nano size and the learning rates tried."""

from collections.abc import Sequence

from analysis import comparison, records
from analysis.comparison import crossed, reached
from analysis.paper import read_csv
from analysis.paths import NANO
from analysis.records import Record
from analysis.rows import ABLATIONS, ByRow, by_row, style
from analysis.tables.cells import PROVENANCE, mean_of_reached, provenance, text, whole
from analysis.tables.claims import Study, means, paper_60m
from analysis.tables.table import Table
from analysis.tables.table_5 import table_5

MODEL = "llama_nano"


def nano_tables() -> list[Table]:
    """Every table of results/nano, from its records and the seconds of a step there."""
    finished, runs = by_row(records.read(NANO / "runs").values()), final_runs()
    tuning = by_row(records.read(NANO / "tuning").values())
    return [nano_table_2(runs, step_seconds()), table_5(runs, MODEL, "nano"), tuning_table(tuning, finished)]


def nano_study() -> Study:
    """The study beside the arenas: its runs of each row at its best settings."""
    return Study("nano study: 2,048 positions a step, 2M", final_runs(), step_seconds())


def final_runs() -> ByRow:
    """The study's runs of each row at its best settings, by seed."""
    finished = by_row(records.read(NANO / "runs").values())
    return {row: comparison.best_settings(found) for row, found in finished.items()}


def step_seconds() -> dict[str, float]:
    """Median seconds of a training step by row; empty without step_seconds.csv.

    scripts/benchmark_steps.py measures them, all rows in turn on a quiet machine. The study's own runs, several at a
    time, do not have one.
    """
    file = NANO / "step_seconds.csv"
    if not file.is_file():
        return {}
    return {row["row"]: float(row["seconds"]) for row in read_csv(file)}


def nano_table_2(runs: ByRow, pace: dict[str, float]) -> Table:
    """Table 2 of the study's methods, by perplexity. `pace`: seconds of a training step by row."""
    found, paper = means(runs), paper_60m()
    methods = sorted((row for row in runs if row not in ABLATIONS), key=found.__getitem__)
    rows = []
    for row in methods:
        seeds = runs[row]
        held_out = [run["held_out"]["books"]["perplexity"] for run in seeds if "held_out" in run]
        rows.append(
            [style(row).label, text(paper.get(row)), text(found[row]),
             text(comparison.deviation(comparison.perplexities(seeds))), str(len(seeds)),
             text(comparison.mean(held_out)), *_speed_cells(row, runs, pace),
             str(seeds[0]["summary"]["optimizer_state_bytes"]), *provenance(seeds)]
        )  # fmt: skip
    return Table(
        "table2",
        "Table 2 at nano size: a LLaMA of 1.8M parameters, 2M tokens, tuned learning rates",
        "Perplexity on C4's validation documents; books: on held-out books. Speed-up over Adam of the same seed: in "
        "steps at the first evaluation (every 50 steps) at or below Adam's final loss, interpolated between "
        "evaluations, and the latter in seconds, by the median step of each on a quiet machine; 0: never reached. "
        "Where some seeds never reach it the mean is over the others, whose number follows.",
        ["method", "paper 60M", "ppl", "sd", "n", "books", "speed-up", "interpolated", "in seconds", "positions/s",
         "state bytes", *PROVENANCE],
        rows,
        "nano",
    )  # fmt: skip


def _speed_cells(row: str, runs: ByRow, pace: dict[str, float]) -> list[str]:
    """Speed-up over Adam at an evaluation, between two, and in seconds; positions a second."""
    adam, seeds = runs.get("adam", []), runs[row]
    others = [] if row == "adam" else seeds
    between = comparison.speed_ups(others, adam, crossed)
    found = (comparison.speed_ups(others, adam, reached), between)
    cells = [mean_of_reached(ratios, of=len(others)) for ratios in found]
    if row not in pace:
        return [*cells, "", ""]
    settings = seeds[0]["settings"]
    positions = settings["train"]["batch_size"] * settings["data"]["sequence_length"]
    in_time = [ratio * pace["adam"] / pace[row] for ratio in between]
    return [*cells, mean_of_reached(in_time, of=len(others)), whole(positions / pace[row])]


def tuning_table(tuning: ByRow, finished: ByRow) -> Table:
    """Every rate tried, in short runs and, on the first seed, in `finished` ones."""
    rows = []
    for row, tried in tuning.items():
        best = min(tried, key=lambda run: run["summary"]["final_loss"])["summary"]
        long = [run for run in finished.get(row, []) if run["summary"]["seed"] == 0]
        edges = _edges((best["lr"], best["adam_lr"]), [(r["summary"]["lr"], r["summary"]["adam_lr"]) for r in tried])
        rows.append(
            [style(row).label, f"{best['lr']:g}", f"{best['adam_lr']:g}", " ".join(edges),
             text(best["final_perplexity"], 1), _rates(tried), _rates(long)]
        )  # fmt: skip
    return Table(
        "tuning",
        "Learning rates tried at nano size, seed 0",
        "lr/adam_lr: perplexity. With 0.5M tokens first the method's rate at the paper's value times 1/8 to 2, then "
        "other rates of the parameters that Adam steps, then half and twice the method's rate; lr, adam_lr and ppl are "
        "of the best. At the edge: it is the smallest or largest of those tried with the same other rate. With 2M "
        "tokens at these, and at twice the method's rate, again while that is better.",
        ["method", "lr", "adam_lr", "at the edge", "ppl", "0.5M tokens", "2M tokens"],
        rows,
        "nano",
    )


def _edges(best: tuple[float, float], tried: list[tuple[float, float]]) -> list[str]:
    """Which of the best (lr, adam_lr) is the smallest or largest of those tried with the same other rate."""
    edges = []
    for k, name in enumerate(("lr", "adam_lr")):
        values = sorted({rates[k] for rates in tried if rates[1 - k] == best[1 - k]})
        if len(values) > 1 and best[k] in (values[0], values[-1]):
            edges.append(name)
    return edges


def _rates(runs: Sequence[Record]) -> str:
    return " · ".join(
        f"{run['summary']['lr']:g}/{run['summary']['adam_lr']:g}: {run['summary']['final_perplexity']:.1f}"
        for run in sorted(runs, key=lambda run: (run["summary"]["lr"], run["summary"]["adam_lr"]))
    )
