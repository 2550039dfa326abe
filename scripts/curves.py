"""What figures and report draw: the paper's curves and ours, under the same names, and how each is drawn.

A row is a method or a change of it, named like its file in configs/experiment/nano/study or .../ablations.
"""

import csv
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from optimizers import registry
from scripts.comparison import best_settings
from scripts.records import Record

PAPER = Path(__file__).resolve().parents[1] / "results" / "paper"
PAPER_POSITIONS = 512 * 256  # of one step, in all of the paper's runs


@dataclass(frozen=True)
class Style:
    """How a row is drawn, everywhere: dash is on, off, ... in line widths, empty for a solid line."""

    label: str
    colour: str
    dash: tuple[float, ...] = ()


ADAM_STEPS_IT, OTHER = (5.0, 1.6, 1.2, 1.6), (3.2, 1.2)  # the last layer by Adam; a second line of near colour

# Hues of Okabe and Ito where Table 2's methods meet, darkened until they show on white and on black.
METHODS = {
    "adam": Style("Adam", "#6b7280"),
    "galore": Style("GaLore", "#3d9bd6"),
    "galore_last_layer_adam": Style("GaLore + last layer Adam", "#3d9bd6", ADAM_STEPS_IT),
    "fira": Style("Fira", "#0072b2"),
    "fira_last_layer_adam": Style("Fira + last layer Adam", "#0072b2", ADAM_STEPS_IT),
    "apollo_mini": Style("APOLLO-mini", "#cc79a7"),
    "apollo_svd": Style("APOLLO-svd", "#a0508c", OTHER),
    "muon": Style("Muon", "#7b61c9"),
    "racs": Style("RACS", "#d55e00"),
    "alice_0": Style("Alice-0", "#d99200"),
    "alice_0_last_layer_adam": Style("Alice-0 + last layer Adam", "#d99200", ADAM_STEPS_IT),
    "alice": Style("Alice", "#009e73"),
    "alice_last_layer_adam": Style("Alice + last layer Adam", "#009e73", ADAM_STEPS_IT),
    "alice_two_sided": Style("Alice, two-sided compensation", "#5f9e1f", OTHER),
    "natural_galore": Style("Natural GaLore", "#00a3ad", OTHER),
    "eigen_adam": Style("Eigen-Adam", "#9c5a2d"),
    "soap": Style("SOAP", "#b03a48", OTHER),
    "apollo": Style("APOLLO", "#b4639b"),
    "adam_8bit": Style("8-bit Adam", "#8a9099", OTHER),
    "galore_8bit": Style("8-bit GaLore", "#66b2e0", OTHER),
}
ABLATIONS = {
    "none": Style("no tracking, switching, compensation", "#8a8a2b"),
    "tracking": Style("tracking", "#cc6677", OTHER),
    "switching": Style("switching", "#5b6fd6"),
    "tracking_switching": Style("tracking and switching", "#a8478f"),
    "full_basis": Style("switching over the full basis", "#4a7fc1"),
    "gaussian_mix": Style("switching to a Gaussian mix", "#c07c3e"),
    "gaussian": Style("switching to Gaussian columns", "#8b5a3c", OTHER),
    "compensation_fira": Style("Fira's compensation", "#2f86c1"),
    "compensation_fira_plus": Style("Fira's compensation, plus", "#7a6fd0", OTHER),
    "racs_no_ema": Style("RACS without averaging", "#d55e00", OTHER),
}

# (tracking, switching, compensation) of the optimizer alice -> row
ALICE = {
    (True, "complement", "optimal"): "alice",
    (True, "complement", "two_sided"): "alice_two_sided",
    (True, "complement", "none"): "tracking_switching",
    (True, "complement", "fira"): "compensation_fira",
    (True, "complement", "fira_plus"): "compensation_fira_plus",
    (True, "none", "none"): "tracking",
    (True, "full_basis", "none"): "full_basis",
    (True, "gaussian_mix", "none"): "gaussian_mix",
    (True, "gaussian", "none"): "gaussian",
    (False, "complement", "none"): "switching",
    (False, "none", "none"): "none",
}


@dataclass(frozen=True, eq=False)
class Curve:
    """Evaluation perplexity of a row over training.

    tokens: targets trained on, in the paper's curves positions; seconds: of training, empty where unknown;
    perplexity: mean over the seeds, low and high their extremes.
    """

    row: str
    label: str
    ours: bool
    seeds: int
    step: list[int]
    tokens: list[float]
    seconds: list[float]
    perplexity: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True, eq=False)
class Panel:
    """A panel of the paper's: `rows` -> their names in results/paper/curves/<file>.csv; model and steps of its runs."""

    name: str
    title: str
    file: str
    model: str
    steps: int
    rows: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """The model's in tables of results/paper."""
        return self.model.removeprefix("llama_")

    def shows(self, row: str) -> bool:
        """Whether our runs of a row belong here: beside the methods of Figs. 1 and 2, every other method."""
        return row in self.rows or (self.rows is TABLE_2 and row not in ABLATIONS)

    def label(self, row: str) -> str:
        return self.labels.get(row) or style(row).label


TABLE_2 = {
    "adam": "AdamW",
    "galore": "GaLore",
    "fira": "Fira",
    "racs": "RACS",
    "alice_0": "Alice-0",
    "alice_0_last_layer_adam": "Alice-0+lm_head",
    "alice": "Alice",
    "alice_last_layer_adam": "Alice+lm_head",
}
FIGURE_1 = (Panel("figure1", "1.3B", "fig1_1.3B", "llama_1_3b", 100_000, TABLE_2),)
FIGURE_2 = (
    Panel("figure2a", "60M", "fig2a_60M", "llama_60m", 10_000, TABLE_2),
    Panel("figure2b", "130M", "fig2b_130M", "llama_130m", 20_000, TABLE_2),
    Panel("figure2c", "350M", "fig2c_350M", "llama_350m", 60_000, TABLE_2),
)


def _ablation(name: str, title: str, file: str, rows: dict[str, str], labels: dict[str, str]) -> Panel:
    return Panel(name, title, file, "llama_130m", 20_000, rows, labels)


FIGURE_5 = (
    _ablation(
        "figure5a",
        "Tracking and switching",
        "fig5a_tracking",
        {
            "none": "no_switch_no_tracking",
            "tracking": "no_switch_tracking",
            "switching": "switch_no_tracking",
            "tracking_switching": "switch_tracking",
        },
        {"none": "neither", "tracking_switching": "both"},
    ),
    _ablation(
        "figure5b",
        "What is switched to",
        "fig5b_switching",
        {
            "tracking_switching": "complement_basis",
            "full_basis": "full_basis",
            "gaussian_mix": "gaussian_mix",
            "gaussian": "gaussian",
        },
        {
            "tracking_switching": "complement",
            "full_basis": "full basis",
            "gaussian_mix": "Gaussian mix",
            "gaussian": "Gaussian",
        },
    ),
    _ablation(
        "figure5c",
        "Compensation",
        "fig5c_compensation",
        {
            "tracking_switching": "no_compensation",
            "compensation_fira": "fira",
            "compensation_fira_plus": "fira_plus",
            "alice": "ours",
        },
        {
            "tracking_switching": "none",
            "compensation_fira": "Fira's",
            "compensation_fira_plus": "Fira's, plus",
            "alice": "optimal (Alice)",
        },
    ),
    _ablation(
        "figure5d",
        "Last layer",
        "fig5d_last_layer",
        {
            "galore": "GaLore",
            "galore_last_layer_adam": "GaLore+lm_head",
            "alice": "alice",
            "alice_last_layer_adam": "alice+lm_head",
        },
        {},
    ),
    _ablation("figure5e", "RACS's averaging", "fig5e_racs_ema", {"racs": "RACS", "racs_no_ema": "RACS_no_EMA"}, {}),
)


def style(row: str) -> Style:
    """A row's style; one of its own for an optimizer that was added since."""
    return METHODS.get(row) or ABLATIONS.get(row) or Style(row.replace("_", " "), "#a0a4ab", OTHER)


def row_of(record: Record) -> str:
    """The row that a record's settings are of."""
    section = record["settings"]["optimizer"]
    name = section["name"]
    row = name
    if name == "alice":
        parts = section["tracking"], section["switching"], section["compensation"]
        row = ALICE.get(parts) or "_".join(("alice", *map(str, parts)))
    elif name == "racs" and not section["ema"]:
        return "racs_no_ema"  # one row, whose last layer is not what it shows (configs/experiment/ablations)
    last_layer = section["last_layer"]
    usual = last_layer in (None, registry.get(name)[0].last_layer)
    return row if usual else f"{row}_last_layer_{last_layer}"


def by_row(records: Iterable[Record], panel: Panel | None = None) -> dict[str, list[Record]]:
    """The records (of a panel's model and steps) of each row, by seed; rows in the order of the styles."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        summary = record["summary"]
        if panel is None or (summary["model"], summary["steps"]) == (panel.model, panel.steps):
            rows.setdefault(row_of(record), []).append(record)
    order = [*METHODS, *ABLATIONS, *sorted(rows)]
    return {
        row: sorted(rows[row], key=lambda record: record["summary"]["seed"]) for row in sorted(rows, key=order.index)
    }


def ours(rows: dict[str, list[Record]], panel: Panel) -> list[Curve]:
    """The curve of each row that a panel shows: of its best settings, through the evaluations that all seeds have."""
    return [_mean(row, panel.label(row), best_settings(runs)) for row, runs in rows.items() if panel.shows(row)]


def _mean(row: str, label: str, seeds: list[Record]) -> Curve:
    runs = [
        {found["step"]: found for found in record["evaluations"] if found["perplexity"] is not None} for record in seeds
    ]
    steps = sorted(set.intersection(*map(set, runs)))
    rows = [[run[step] for run in runs] for step in steps]

    def means(key: str) -> list[float]:
        return [statistics.fmean(found[key] for found in row) for row in rows]

    return Curve(
        row,
        label,
        True,
        len(seeds),
        steps,
        means("tokens"),
        means("train_seconds"),
        means("perplexity"),
        [min(found["perplexity"] for found in row) for row in rows],
        [max(found["perplexity"] for found in row) for row in rows],
    )


def published(panel: Panel) -> list[Curve]:
    """The paper's curves of a panel. Their seconds follow from the throughput it prints, where it prints one."""
    rates = {row["method"]: float(row["tokens_per_second"]) for row in throughput() if row["model"] == panel.size}
    points: dict[str, list[tuple[int, float]]] = {}
    for row in read_csv(PAPER / "curves" / f"{panel.file}.csv"):
        points.setdefault(row["method"], []).append((int(row["step"]), float(row["eval_ppl"])))
    curves = []
    for row, name in panel.rows.items():
        steps, perplexities = map(list, zip(*points[name], strict=True))
        tokens = [float(step * PAPER_POSITIONS) for step in steps]
        seconds = [count / rates[row] for count in tokens] if row in rates else []
        curves.append(
            Curve(row, panel.label(row), False, 1, steps, tokens, seconds, perplexities, perplexities, perplexities)
        )
    return curves


def throughput() -> list[dict[str, str]]:
    """The rows of Table 2's throughput: method, model, tokens_per_second, effective_tokens_per_second."""
    return read_csv(PAPER / "table2_throughput.csv")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
