"""Tables of the nano study (scripts/nano_study.py): Tables 2 and 5 at nano size, the tuning, and the paper's claims."""

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

from scripts import comparison, records
from scripts.comparison import crossed, reached
from scripts.curves import ABLATIONS, by_row, style
from scripts.records import Record
from scripts.tables import (
    ABLATION_ROWS,
    PROVENANCE,
    Table,
    among,
    provenance,
    published,
    row_name,
    table_5,
    text,
    whole,
)

NANO = Path(__file__).resolve().parents[1] / "results" / "nano"
MODEL = "llama_nano"
Runs = dict[str, list[Record]]


def nano_tables() -> list[Table]:
    finished = by_row(records.read(NANO / "runs").values())
    runs = {row: comparison.best_settings(found) for row, found in finished.items()}
    tuning = by_row(records.read(NANO / "tuning").values())
    pace = step_seconds()
    return [nano_table_2(runs, pace), table_5(runs, MODEL, "nano"), tuning_table(tuning, finished), claims(runs, pace)]


def step_seconds() -> dict[str, float]:
    """Median seconds of a training step by row, from scripts/benchmark_steps.py: all rows in turn on a quiet machine,
    which the study's own runs, several at a time, are not."""
    file = NANO / "step_seconds.csv"
    if not file.is_file():
        return {}
    with file.open(newline="") as lines:
        return {row["row"]: float(row["seconds"]) for row in csv.DictReader(lines)}


def paper_60m() -> dict[str, float]:
    """Table 2's perplexities at 60M, by row."""
    rows = (row for row in published("table2_perplexity.csv") if row["method"] != "adam_cited")
    return {row_name(row["method"], row["last_layer"]): float(row["60m"]) for row in rows}


def means(runs: Runs) -> dict[str, float]:
    """Mean final perplexity of each row."""
    return {row: statistics.fmean(comparison.perplexities(seeds)) for row, seeds in runs.items()}


def nano_table_2(runs: Runs, pace: dict[str, float]) -> Table:
    paper, found, rows = paper_60m(), means(runs), []
    adam = runs.get("adam", [])
    for row in sorted((row for row in runs if row not in ABLATIONS), key=found.get):
        seeds, others = runs[row], [] if row == "adam" else runs[row]
        held_out = [run["held_out"]["books"]["perplexity"] for run in seeds if "held_out" in run]
        first = comparison.speed_ups(others, adam, reached)
        between = comparison.speed_ups(others, adam, crossed)
        per_step = pace.get(row)
        in_time = [ratio * pace["adam"] / per_step for ratio in between] if per_step else []
        positions = seeds[0]["settings"]["train"]["batch_size"] * seeds[0]["settings"]["data"]["sequence_length"]
        rows.append(
            [style(row).label, text(paper.get(row)), text(found[row]),
             text(comparison.deviation(comparison.perplexities(seeds))), str(len(seeds)),
             text(comparison.mean(held_out)), among(first), among(between), among(in_time),
             whole(positions / per_step if per_step else None), str(seeds[0]["summary"]["optimizer_state_bytes"]),
             *provenance(seeds)]
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


def tuning_table(tuning: Runs, finished: Runs) -> Table:
    """Every rate tried, in short runs and, on the first seed, in `finished` ones."""
    rows = []
    for row, tried in tuning.items():
        best = min(tried, key=lambda run: run["summary"]["final_loss"])
        edges = []
        for rate, other in (("lr", "adam_lr"), ("adam_lr", "lr")):
            beside = [run for run in tried if run["summary"][other] == best["summary"][other]]
            values = sorted({run["summary"][rate] for run in beside})
            if len(values) > 1 and best["summary"][rate] in (values[0], values[-1]):
                edges.append(rate)
        long = [run for run in finished.get(row, []) if run["summary"]["seed"] == 0]
        rows.append(
            [style(row).label, f"{best['summary']['lr']:g}", f"{best['summary']['adam_lr']:g}", " ".join(edges),
             text(best["summary"]["final_perplexity"], 1), _rates(tried), _rates(long)]
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


def _rates(runs: Sequence[Record]) -> str:
    return " · ".join(
        f"{run['summary']['lr']:g}/{run['summary']['adam_lr']:g}: {run['summary']['final_perplexity']:.1f}"
        for run in sorted(runs, key=lambda run: (run["summary"]["lr"], run["summary"]["adam_lr"]))
    )


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's. Values must differ from each other."""
    return statistics.correlation(*([sorted(values).index(value) for value in values] for values in (x, y)))


def claims(runs: Runs, pace: dict[str, float]) -> Table:
    """What the paper says, and what these runs say."""
    found, adam = means(runs), runs.get("adam", [])
    rows: list[list[str]] = []
    for claim, where, theirs in (
        ("order of the methods", "Table 2, 60M", paper_60m()),
        ("order of Table 5's rows", "Table 5, 130M", _paper_130m("table 5")),
        ("order of the parts of Alice", "Table 5, Figs. 5b and 5c, 130M", _paper_130m("table 5", "5b", "5c")),
    ):
        common = [row for row in found if row in theirs]
        if len(common) > 2:
            rho = rank_correlation([found[row] for row in common], [theirs[row] for row in common])
            shown = f"Spearman's rank correlation {rho:.2f} over {len(common)} rows"
            rows.append([claim, where, shown, _verdict(rho > 0.7)])
    for better, worse, where in CLAIMS:
        if better in found and worse in found:
            a, b = comparison.perplexities(runs[better]), comparison.perplexities(runs[worse])
            claim = f"{style(better).label} before {style(worse).label}"
            verdict = _verdict(found[better] < found[worse]) + ("" if _clear(a, b) else ", but not clearly")
            rows.append([claim, where, f"{_spread(a)} against {_spread(b)}", verdict])
    for row, printed in (("alice", "2.22x in steps at 60M"), ("racs", "ahead of Adam")):
        if row in runs and adam:
            steps = comparison.speed_ups(runs[row], adam, crossed)
            shown = "never there"
            if any(steps):
                spread = _spread if all(steps) else among
                shown = f"{spread(steps)}x in steps"
                if row in pace and "adam" in pace:
                    shown += f", {spread([ratio * pace['adam'] / pace[row] for ratio in steps])}x in seconds"
            claim = f"{style(row).label} is sooner at tuned Adam's final loss"
            rows.append([claim, printed, shown, _verdict(statistics.fmean(steps) > 1)])
    return Table(
        "claims",
        "What of the paper shows at nano size",
        "Mean ± standard deviation over the seeds there are. A difference within twice the spread of both, or of "
        "single seeds, is marked.",
        ["claim", "paper", "nano", "holds"],
        rows,
        "nano",
    )


# (better, worse, where the paper says so)
CLAIMS = (
    ("racs", "adam", "Table 2"),
    ("alice", "adam", "Table 2"),
    ("alice", "racs", "Table 2, 60M to 130M"),
    ("alice", "alice_0", "Table 2, 60M to 350M"),
    ("alice", "fira", "Table 2"),
    ("alice", "galore", "Table 2"),
    ("racs", "apollo_svd", "Table 2"),
    ("fira", "galore", "Table 2"),
    ("galore_last_layer_adam", "galore", "Fig. 5d"),
    ("alice", "alice_last_layer_adam", "Table 2, 60M"),
    ("switching", "none", "Table 5"),
    ("none", "tracking", "Table 5: tracking alone does harm"),
    ("tracking_switching", "switching", "Table 5"),
    ("alice", "tracking_switching", "Table 5: compensation"),
    ("tracking_switching", "full_basis", "Fig. 5b"),
    ("tracking_switching", "gaussian", "Fig. 5b"),
    ("alice", "compensation_fira", "Fig. 5c"),
    ("alice", "compensation_fira_plus", "Fig. 5c"),
    ("racs", "racs_no_ema", "Fig. 5e"),
    ("alice_two_sided", "alice", "not in the paper: ours"),
)


def _paper_130m(*figures: str) -> dict[str, float]:
    """The paper's perplexities of our rows in these of its figures."""
    published_rows = (row for row in published("table5_ablations.csv") if row["figure"] in figures)
    return {ABLATION_ROWS[row["figure"], row["setting"]]: float(row["perplexity"]) for row in published_rows}


def _clear(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two samples differ by more than twice their spread."""
    if len(a) < 2 or len(b) < 2:
        return False
    return abs(statistics.fmean(a) - statistics.fmean(b)) > 2 * (statistics.variance(a) + statistics.variance(b)) ** 0.5


def _spread(values: Sequence[float]) -> str:
    deviation = comparison.deviation(values)
    return f"{statistics.fmean(values):.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "")


def _verdict(holds: bool) -> str:
    return "yes" if holds else "no"
