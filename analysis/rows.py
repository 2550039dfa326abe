"""Rows of tables and figures: a method or a change to it, recognised by a record's settings, with one style everywhere.

A row is named like its file in configs/experiment/nano, or in its folders ablations and eight_bit.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from analysis.records import Record
from optimizers import registry


@dataclass(frozen=True)
class Style:
    """How a row is drawn, everywhere. `dash`: lengths of lines and gaps in turn, in line widths; empty: solid."""

    label: str
    colour: str
    dash: tuple[float, ...] = ()


LAST_LAYER_BY_ADAM = (5.0, 1.6, 1.2, 1.6)
DASHED = (3.2, 1.2)  # a second line of a similar colour

# Hues of Okabe and Ito where Table 2's methods meet, darkened until they show on white and on black.
METHODS = {
    "adam": Style("Adam", "#6b7280"),
    "galore": Style("GaLore", "#3d9bd6"),
    "galore_last_layer_adam": Style("GaLore + last layer Adam", "#3d9bd6", LAST_LAYER_BY_ADAM),
    "fira": Style("Fira", "#0072b2"),
    "fira_last_layer_adam": Style("Fira + last layer Adam", "#0072b2", LAST_LAYER_BY_ADAM),
    "apollo_mini": Style("APOLLO-mini", "#cc79a7"),
    "apollo_svd": Style("APOLLO-svd", "#a0508c", DASHED),
    "muon": Style("Muon", "#7b61c9"),
    "racs": Style("RACS", "#d55e00"),
    "alice_0": Style("Alice-0", "#c88600"),
    "alice_0_last_layer_adam": Style("Alice-0 + last layer Adam", "#c88600", LAST_LAYER_BY_ADAM),
    "alice": Style("Alice", "#009e73"),
    "alice_last_layer_adam": Style("Alice + last layer Adam", "#009e73", LAST_LAYER_BY_ADAM),
    "alice_two_sided": Style("Alice, two-sided compensation", "#5f9e1f", DASHED),
    "natural_galore": Style("Natural GaLore", "#00a3ad", DASHED),
    "eigen_adam": Style("Eigen-Adam", "#9c5a2d"),
    "soap": Style("SOAP", "#b03a48", DASHED),
    "apollo": Style("APOLLO", "#b4639b"),
    "normuon": Style("NorMuon", "#b24cb8", DASHED),
    "octave": Style("Octave", "#1b7f93"),
    "flip_flop": Style("FlipFlop", "#c2185b"),
    "racs_muon": Style("RACS-Muon", "#a74900", DASHED),
    "sinkgd": Style("SinkGD", "#dc722c"),
    "scale": Style("SCALE", "#b8860b", DASHED),
    "alice_soap": Style("AliceSOAP", "#1b7f4b", DASHED),
    "dion": Style("Dion", "#5d7fa3", DASHED),
    "ldadam": Style("LDAdam", "#2a8c8c"),
    "adam_mini": Style("Adam-mini", "#7f8ea3", DASHED),
    "adafactor": Style("Adafactor", "#a3785a", DASHED),
    "lion": Style("Lion", "#c2557a"),
    "swan": Style("SWAN", "#8c6d31", DASHED),
    "shampoo": Style("Shampoo", "#8a5758"),
    "adam_8bit": Style("8-bit Adam", "#8a9099", DASHED),
    "galore_8bit": Style("8-bit GaLore", "#399bd7", DASHED),
    # rows of arenas that are no names of the package
    "adam_second_point": Style("Adam at its second best point", "#6b7280", DASHED),
    "racs_muon_wide": Style("RACS-Muon in 32 bits, lm_head by Adam", "#a74900"),
    "alice_adaptive_rank": Style("Alice of adaptive rank", "#009e73", DASHED),
}
ABLATIONS = {
    "none": Style("no tracking, switching, compensation", "#8a8a2b"),
    "tracking": Style("tracking", "#cc6677", DASHED),
    "switching": Style("switching", "#5b6fd6"),
    "tracking_switching": Style("tracking and switching", "#a8478f"),
    "full_basis": Style("switching over the full basis", "#4a7fc1"),
    "gaussian_mix": Style("switching to a Gaussian mix", "#c07c3e"),
    "gaussian": Style("switching to Gaussian columns", "#8b5a3c", DASHED),
    "compensation_fira": Style("Fira's compensation", "#2f86c1"),
    "compensation_fira_plus": Style("Fira's compensation, plus", "#7a6fd0", DASHED),
    "racs_no_ema": Style("RACS without averaging", "#d55e00", DASHED),
}
ABLATION = "ablation_"  # begins the names of their rows in an arena

EIGHT_BITS = {
    "muon_8bit": Style("8-bit Muon", "#9a87d9", DASHED),
    "normuon_8bit": Style("8-bit NorMuon", "#8f7f9f", DASHED),
    "alice_8bit": Style("8-bit Alice", "#3c9f84", DASHED),
}

ByRow = dict[str, list[Record]]  # the runs of each row

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


def style(row: str) -> Style:
    """A row's style; grey and dashed for a row that has none above, such as a new optimizer's. An arena's rows
    `ablation_x` are drawn as x."""
    known = METHODS | EIGHT_BITS | ABLATIONS | {f"{ABLATION}{row}": look for row, look in ABLATIONS.items()}
    return known.get(row) or Style(row.replace("_", " "), "#a0a4ab", DASHED)


def row_of(record: Record) -> str:
    """The row that a record belongs to, by its settings."""
    section = record["settings"]["optimizer"]
    name = section["name"]
    if section.get("file") is not None:  # a method outside the package: nothing else is known of it
        return name
    row = name
    if name == "alice":
        parts = section["tracking"], section["switching"], section["compensation"]
        row = ALICE.get(parts) or "_".join(("alice", *map(str, parts)))
    elif name == "racs" and not section["ema"]:
        return "racs_no_ema"  # with either last layer: the row is about averaging
    usual_bits = registry.get(name)[0].traits.state_bits
    if section.get("state_bits", usual_bits) != usual_bits:
        row = f"{row}_{section['state_bits']}bit"
    last_layer = section["last_layer"]
    return row if last_layer in (None, usual_last_layer(name)) else f"{row}_last_layer_{last_layer}"


def published_row(method: str, last_layer: str) -> str:
    """The row of a method and last layer, named as in results/paper."""
    usual = method == "adam" or last_layer == usual_last_layer(method)
    return method if usual else f"{method}_last_layer_{last_layer}"


def usual_last_layer(method: str) -> str:
    """Who steps lm_head by default: "method" or "adam"."""
    return registry.get(method)[0].traits.last_layer


def by_row(records: Iterable[Record]) -> ByRow:
    """The records of each row, by seed; rows in the order of the styles."""
    rows: ByRow = {}
    for record in records:
        rows.setdefault(row_of(record), []).append(record)
    order = [*METHODS, *ABLATIONS, *EIGHT_BITS, *sorted(rows)]
    return {
        row: sorted(rows[row], key=lambda record: record["summary"]["seed"]) for row in sorted(rows, key=order.index)
    }
