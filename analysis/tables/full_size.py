"""Tables 2, 3 and 4 at the paper's sizes, its numbers and those of our runs."""

import math
from collections.abc import Iterator, Sequence

from analysis import comparison
from analysis.comparison import crossed, reached
from analysis.panels import FIGURE_1, FIGURE_2
from analysis.paper import paper_table
from analysis.paths import EXPERIMENTS
from analysis.plans import plan
from analysis.records import Record
from analysis.rows import ByRow, published_row, style
from analysis.tables.cells import PROVENANCE, mean_of_reached, of_model, provenance, size_name, text, whole
from analysis.tables.table import Table

SIZES = ("60m", "130m", "350m", "1_3b")
STEPS = {panel.size: panel.steps for panel in (*FIGURE_2, *FIGURE_1)}  # of a run of Table 2
GIB = 2**30


def table_2(runs: ByRow) -> Table:
    """Table 2: perplexity and speed of every method at every size, the paper's and ours."""
    rows = [row for size in SIZES for row in _rows_of_size(size, runs)]
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


def _rows_of_size(size: str, runs: ByRow) -> Iterator[list[str]]:
    papers = paper_table("table2_perplexity.csv")
    adam = of_model(runs.get("adam", []), f"llama_{size}", STEPS[size])
    cited_loss = next(math.log(float(paper[size])) for paper in papers if paper["method"] == "adam_cited")
    for paper in papers:
        cited = paper["method"] == "adam_cited"
        name = published_row("adam" if cited else paper["method"], paper["last_layer"])
        mine = [] if cited else of_model(runs.get(name, []), f"llama_{size}", STEPS[size])
        label = style(name).label + (", cited from APOLLO" if cited else "")
        cells = [size_name(size), label, paper["last_layer"], paper[size], *_perplexity_cells(mine)]
        speed = _speed_cells("" if cited else name, size, mine, adam, cited_loss)
        yield [*cells, *speed, *provenance(mine)]


def _perplexity_cells(runs: Sequence[Record]) -> list[str]:
    """Mean, standard deviation and number of the final perplexities, and the mean of GaLore's perplexity."""
    found = comparison.perplexities(runs)
    galore = [run["evaluations"][-1]["galore_perplexity"] for run in runs]
    printed = comparison.mean([value for value in galore if value is not None])
    return [text(comparison.mean(found)), text(comparison.deviation(found)), str(len(found) or ""), text(printed)]


def _speed_cells(name: str, size: str, runs: Sequence[Record], adam: Sequence[Record], cited_loss: float) -> list[str]:
    """Speed-up over Adam and over the cited Adam, throughput and effective throughput, each the paper's, then ours.

    Speed-up over Adam and effective throughput have two cells of ours: at an evaluation, and between two.
    """
    printed = _published_of("table2_throughput.csv", name, size)
    faster = _published_of("table2_speed_up.csv", name, size)
    others = [] if name == "adam" else runs
    steps = [comparison.speed_ups(others, adam, when) for when in (reached, crossed)]
    over_cited = [run["summary"]["steps"] / at if (at := reached(run, cited_loss)) else 0.0 for run in others]
    effective = [comparison.effective_throughput(others, adam, when) for when in (reached, crossed)]
    rate = comparison.mean([run["summary"]["tokens_per_second"] for run in runs])
    return [
        faster.get("over_adam", ""),
        *(mean_of_reached(found, of=len(others)) for found in steps),
        faster.get("over_cited_adam", ""),
        mean_of_reached(over_cited),
        printed.get("tokens_per_second", ""),
        whole(rate),
        printed.get("effective_tokens_per_second", ""),
        *(mean_of_reached(found, 0, of=len(runs)) for found in effective),
    ]


def _published_of(file: str, method: str, size: str) -> dict[str, str]:
    """The row of a method and size in a table of results/paper; empty where it has none."""
    found = (row for row in paper_table(file) if (row["method"], row["model"]) == (method, size))
    return next(found, {})


def table_3() -> Table:
    """Table 3: memory of weights and optimizer states, the paper's and the plan's."""
    rows = []
    for paper in paper_table("table3_memory.csv"):
        method, last_layer = paper["method"], paper["last_layer"]
        cells = [style(method).label, last_layer]
        for size in SIZES:
            counted = plan(str(EXPERIMENTS / f"table2/{size}/{method}.yaml"), f"optimizer.last_layer={last_layer}")
            cells += [paper[size], f"{(counted['weight_bytes'] + counted['optimizer_state_bytes']) / GIB:.3f}"]
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


def table_4(runs: ByRow) -> Table:
    """Table 4: perplexities of the 1B models, and the 7B models that the paper cites, by step."""
    steps = {"40k": 40_000, "80k": 80_000, "120k": 120_000, "150k": 150_000}
    ours = {"racs": "racs", "alice": "alice_last_layer_adam"}
    rows = []
    for paper in paper_table("table4_1b_against_7b.csv"):
        small = paper["model"] == "1_3b"
        name = ours.get(paper["method"], "") if small else ""
        mine = of_model(runs.get(name, []), "llama_1_3b", max(steps.values()))
        cells = [style(paper["method"]).label, size_name(paper["model"]), paper["memory"]]
        for key, step in steps.items():
            at_step = (row["perplexity"] for run in mine for row in run["evaluations"] if row["step"] == step)
            cells += [paper[key], text(comparison.mean([found for found in at_step if found is not None]))]
        rows.append([*cells, str(len(mine) or ""), *provenance(mine)])
    heads = [head for key in steps for head in (f"paper {key.upper()}", key.upper())]
    return Table(
        "table4",
        "Table 4: 1B models by RACS and Alice against 7B models, evaluation perplexity by step",
        "The 7B rows are cited by the paper and not run.",
        ["method", "model", "paper memory", *heads, "n", *PROVENANCE],
        rows,
    )
