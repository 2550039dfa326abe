"""The paper's tables, its numbers beside those of our runs. Cells are texts; what nobody ran or printed stays empty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from configs.schema import load
from optimizers import registry
from scripts import comparison, records
from scripts.comparison import crossed, reached
from scripts.curves import FIGURE_1, FIGURE_2, FIGURE_5, PAPER, by_row, read_csv, style
from scripts.records import Record
from training.plan import plan_run

ROOT = Path(__file__).resolve().parents[1]
SIZES = ("60m", "130m", "350m", "1_3b")
STEPS = {panel.size: panel.steps for panel in (*FIGURE_2, *FIGURE_1)}  # of a run of Table 2
GIB = 2**30
# What a GPU is assumed to be and to cost, for the hours and the money of a run.
GPU, PEAK_FLOPS, UTILISATION, DOLLARS_AN_HOUR = "A100", 312e12, 0.40, 2.0


@dataclass(frozen=True)
class Table:
    """`name` is the stem of its files in results/<scale>/, `note` stands below it."""

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]
    scale: str = "full"


def tables() -> list[Table]:
    """Every table of the results, from the records and the published numbers."""
    from scripts.nano_tables import nano_tables  # which builds on this module

    runs = by_row(records.read(ROOT / "results" / "full" / "runs").values())
    return [table_2(runs), table_3(), table_4(runs), table_5(runs), cost(), *nano_tables()]


def text(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def published(file: str) -> list[dict[str, str]]:
    """The rows of a table of results/paper."""
    return read_csv(PAPER / file)


def row_name(method: str, last_layer: str) -> str:
    """The row of scripts.curves of a method and last layer as results/paper names them."""
    usual = registry.get(method)[0].last_layer == last_layer or method == "adam"
    return method if usual else f"{method}_last_layer_{last_layer}"


def provenance(runs: Sequence[Record]) -> list[str]:
    """Settings, commit and config hash of runs that share them."""
    if not runs:
        return ["", "", ""]
    section, defaults = runs[0]["settings"]["optimizer"], registry.options(runs[0]["settings"]["optimizer"]["name"])
    changed = {
        key: value
        for key, value in section.items()
        if key not in ("name", "last_layer") and (key not in defaults or not _same(value, defaults[key].default))
    }
    settings = " ".join(f"{key}={_short(value)}" for key, value in changed.items() if value is not None)
    commits = sorted({run["summary"]["git_commit"][:7] for run in runs if run["summary"]["git_commit"]})
    return [settings, " ".join(commits), runs[0]["summary"]["config_hash"]]


PROVENANCE = ["settings", "commit", "config hash"]


def _same(value: Any, default: Any) -> bool:
    return list(value) == list(default) if isinstance(default, tuple) else value == default


def _short(value: Any) -> str:
    return (
        ",".join(map(_short, value))
        if isinstance(value, list)
        else f"{value:g}"
        if value.__class__ is float
        else str(value)
    )


def of_model(runs: Sequence[Record], model: str, steps: int | None) -> list[Record]:
    """The best settings' runs on a model over so many steps (None: any), by seed."""
    chosen = [run for run in runs if run["summary"]["model"] == model and steps in (None, run["summary"]["steps"])]
    return comparison.best_settings(chosen) if chosen else []


def table_2(runs: dict[str, list[Record]]) -> Table:
    rows = []
    for size in SIZES:
        adam = of_model(runs.get("adam", []), f"llama_{size}", STEPS[size])
        cited_loss = next(
            math.log(float(row[size])) for row in published("table2_perplexity.csv") if row["method"] == "adam_cited"
        )
        for paper in published("table2_perplexity.csv"):
            cited = paper["method"] == "adam_cited"
            name = row_name("adam" if cited else paper["method"], paper["last_layer"])
            mine = [] if cited else of_model(runs.get(name, []), f"llama_{size}", STEPS[size])
            label = style(name).label + (", cited from APOLLO" if cited else "")
            cells = [size_name(size), label, paper["last_layer"], paper[size], *perplexity_cells(mine)]
            speed = _speed_cells("" if cited else name, size, mine, adam, cited_loss)
            rows.append([*cells, *speed, *provenance(mine)])
    return Table(
        "table2",
        "Table 2: evaluation perplexity on C4, speed-up over Adam, throughput and effective throughput",
        "Paper: arXiv 2502.07752; GaLore's and Fira's rows with the last layer by Adam, both APOLLO rows and one of "
        "Adam's are cited there from APOLLO. Muon: its ICLR version, which states no learning rate; ours is Adam's. "
        "GaLore's perplexity is what its evaluation code prints. Speed-up: steps of Adam over steps to Adam's final "
        "loss, at the first evaluation at or below it, and interpolated between evaluations; over cited: to the cited "
        "Adam's, as the first. Effective throughput: tokens of Adam's run over the seconds to its final loss, the same "
        "two ways; 0: never reached. Where some seeds never reach it the mean is over the others, whose number "
        "follows. Throughput depends on the machine.",
        ["model", "method", "last layer", "paper ppl", "ppl", "sd", "n", "GaLore's ppl", "paper speed-up", "speed-up",
         "interpolated", "paper over cited", "over cited", "paper tok/s", "tok/s", "paper effective", "effective",
         "eff. interpolated", *PROVENANCE],
        rows,
    )  # fmt: skip


def size_name(size: str) -> str:
    return size.upper().replace("_", ".")


def perplexity_cells(runs: Sequence[Record]) -> list[str]:
    """Mean, standard deviation and number of the final perplexities, and the mean of GaLore's."""
    found = comparison.perplexities(runs)
    galore = [run["evaluations"][-1]["galore_perplexity"] for run in runs]
    printed = comparison.mean([value for value in galore if value is not None])
    return [text(comparison.mean(found)), text(comparison.deviation(found)), str(len(found) or ""), text(printed)]


def _speed_cells(name: str, size: str, runs: Sequence[Record], adam: Sequence[Record], cited_loss: float) -> list[str]:
    """Speed-ups over Adam, the paper's and our two, and over the cited Adam; throughput, the paper's and ours;
    effective throughput, the paper's and our two."""
    printed = {(row["method"], row["model"]): row for row in published("table2_throughput.csv")}.get((name, size), {})
    faster = {(row["method"], row["model"]): row for row in published("table2_speed_up.csv")}.get((name, size), {})
    others = [] if name == "adam" else runs
    steps = [comparison.speed_ups(others, adam, when) for when in (reached, crossed)]
    over_cited = [run["summary"]["steps"] / at if (at := reached(run, cited_loss)) else 0.0 for run in others]
    effective = [comparison.effective_throughput(others, adam, when) for when in (reached, crossed)]
    rate = comparison.mean([run["summary"]["tokens_per_second"] for run in runs])
    return [
        faster.get("over_adam", ""),
        *(among(found) for found in steps),
        faster.get("over_cited_adam", ""),
        among(over_cited),
        printed.get("tokens_per_second", ""),
        whole(rate),
        printed.get("effective_tokens_per_second", ""),
        *(among(found, 0) for found in effective),
    ]


def among(values: Sequence[float], digits: int = 2) -> str:
    """The mean of the values above 0, followed by their number if others are 0: those of runs that never got there."""
    above = [value for value in values if value > 0]
    if len(above) in (0, len(values)):
        return text(comparison.mean(values), digits)
    return f"{text(comparison.mean(above), digits)} ({len(above)} of {len(values)})"


@cache
def _plan(file: str, *changes: str) -> dict[str, Any]:
    return plan_run(load([str(ROOT / "configs" / "experiment" / file), *changes]).config)


def table_3() -> Table:
    rows = []
    for paper in published("table3_memory.csv"):
        method, last_layer = paper["method"], paper["last_layer"]
        cells = [style(method).label, last_layer]
        for size in SIZES:
            plan = _plan(f"table2/{size}/{method}.yaml", f"optimizer.last_layer={last_layer}")
            cells += [paper[size], f"{(plan['weight_bytes'] + plan['optimizer_state_bytes']) / GIB:.3f}"]
        rows.append(cells)
    heads = [head for size in SIZES for head in (f"paper {size_name(size)}", size_name(size))]
    return Table(
        "table3",
        "Table 3: memory of weights and optimizer states, GiB",
        "Ours are of `train.py FILE --plan`: the optimizer's own state, counted on the meta device, at bfloat16; its "
        "scalars and vectors are float32. The paper prints two decimals; Muon's cell is its ICLR version's.",
        ["method", "last layer", *heads],
        rows,
    )


def table_4(runs: dict[str, list[Record]]) -> Table:
    steps, rows = {"40k": 40_000, "80k": 80_000, "120k": 120_000, "150k": 150_000}, []
    for paper in published("table4_1b_against_7b.csv"):
        small = paper["model"] == "1_3b"
        name = {"racs": "racs", "alice": "alice_last_layer_adam"}.get(paper["method"]) if small else None
        mine = of_model(runs.get(name, []), "llama_1_3b", max(steps.values()))
        cells = [style(paper["method"]).label, size_name(paper["model"]), paper["memory"]]
        for key, step in steps.items():
            found = [row["perplexity"] for run in mine for row in run["evaluations"] if row["step"] == step]
            cells += [paper[key], text(comparison.mean(found))]
        rows.append([*cells, str(len(mine) or ""), *provenance(mine)])
    heads = [head for key in steps for head in (f"paper {key.upper()}", key.upper())]
    return Table(
        "table4",
        "Table 4: 1B models by RACS and Alice against 7B models, evaluation perplexity by step",
        "The 7B rows are cited by the paper and not run.",
        ["method", "model", "paper memory", *heads, "n", *PROVENANCE],
        rows,
    )


# (figure, setting) of results/paper/table5_ablations.csv -> row of scripts.curves
ABLATION_ROWS = {
    ("table 5", "no tracking no switching no compensation"): "none",
    ("table 5", "tracking"): "tracking",
    ("table 5", "switching"): "switching",
    ("table 5", "tracking and switching"): "tracking_switching",
    ("table 5", "tracking switching and compensation"): "alice",
    ("5b", "full basis"): "full_basis",
    ("5b", "complement"): "tracking_switching",
    ("5b", "gaussian mix"): "gaussian_mix",
    ("5b", "gaussian"): "gaussian",
    ("5c", "no compensation"): "tracking_switching",
    ("5c", "fira"): "compensation_fira",
    ("5c", "fira plus"): "compensation_fira_plus",
    ("5c", "optimal"): "alice",
    ("5d", "galore with last layer adam"): "galore_last_layer_adam",
    ("5e", "racs without averaging"): "racs_no_ema",
}


def table_5(runs: dict[str, list[Record]], model: str = "llama_130m", scale: str = "full") -> Table:
    rows, steps = [], FIGURE_5[0].steps if scale == "full" else None
    for paper in published("table5_ablations.csv"):
        mine = of_model(runs.get(ABLATION_ROWS[paper["figure"], paper["setting"]], []), model, steps)
        found = comparison.perplexities(mine)
        rows.append(
            [paper["figure"], paper["setting"], paper["perplexity"], text(comparison.mean(found)),
             text(comparison.deviation(found)), str(len(found) or ""), *provenance(mine)]
        )  # fmt: skip
    return Table(
        "table5",
        f"Table 5 and Fig. 5{'' if scale == 'full' else f' at {scale} size'}: parts of Alice and RACS, perplexity",
        "Paper: 130M. lm_head by the method but where the row says otherwise"
        + ("." if scale == "full" else "; RACS's by Adam, as in Table 2."),
        ["where", "setting", "paper 130M", "ppl", "sd", "n", *PROVENANCE],
        rows,
        scale,
    )


def cost() -> Table:
    """Hours and money of each of Table 2's runs."""
    rows = []
    for file in sorted((ROOT / "configs" / "experiment" / "table2" / "60m").glob("*.yaml")):
        cells = [style(file.stem).label]
        for size in SIZES:
            hours = _plan(f"table2/{size}/{file.name}")["flops"] / (PEAK_FLOPS * UTILISATION) / 3600
            cells += [f"{hours:.1f}", f"{hours * DOLLARS_AN_HOUR:.0f}"]
        rows.append(cells)
    heads = [head for size in SIZES for head in (f"{size_name(size)} hours", f"{size_name(size)} $")]
    return Table(
        "cost",
        f"What a run of Table 2 costs: {GPU} hours and dollars",
        f"FLOPs of the model by `--plan`, at {100 * UTILISATION:.0f} % of {PEAK_FLOPS / 1e12:.0f} TFLOP/s and "
        f"${DOLLARS_AN_HOUR:.2f} an hour. By the FLOPs of its step an optimizer adds less than 1 %, but for Muon, "
        "whose products are 0.7 % of the model's at 60M and 6 % at 1.3B.",
        ["method", *heads],
        rows,
    )
