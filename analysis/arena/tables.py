"""The tables of an arena, from its ledger alone."""

import math
from collections.abc import Sequence

from analysis.arena import shown
from analysis.arena.entries import Entry, source_of_values, tuning
from analysis.arena.ledger import Ledger, Line, ledger_of
from analysis.arena.notes import where_tuned
from analysis.arena.outcomes import (
    finished,
    loss_of,
    recorded,
    reference_curve,
    title_among_arenas,
    title_of,
    tuning_runs,
)
from analysis.arena.ranks import ranks
from analysis.arena.spec import Cell, Spec, all_specs, cells
from analysis.arena.standings import SCALE, others, standings
from analysis.rows import ABLATION
from analysis.tables.cells import text
from analysis.tables.claims import Study, claims
from analysis.tables.nano_size import nano_study
from analysis.tables.table import Table


def arena_tables() -> list[Table]:
    """Every table of results/arena: of the arenas whose ledgers hold runs."""
    tables = []
    begun = {spec.name: (spec, ledger) for spec in all_specs() if (ledger := ledger_of(spec.name)).lines}
    for spec, ledger in begun.values():
        tables += [standings(spec, ledger, cell) for cell in cells(spec)]
        tables += [others(spec, ledger, cell) for cell in cells(spec)]
        tables += [ratios(spec, ledger, cell) for cell in cells(spec) if spec.ladder]
        tables += [tried(spec, ledger)] if spec.tuned_in is None else []
    side_by_side = tuned_at_their_length(list(begun.values()))
    studies = [study_of(spec, ledger, cell) for spec, ledger in side_by_side for cell in cells(spec)]
    tables += [claims([nano_study(), *studies]), ranks(side_by_side)]
    return [table for table in tables if table.rows]


def tuned_at_their_length(arenas: Sequence[tuple[Spec, Ledger]]) -> list[tuple[Spec, Ledger]]:
    """The arenas that tune at the length which they compare. Values of another length may leave a row far from its
    best, and then a rank or a claim against it holds for that alone."""
    return [(spec, ledger) for spec, ledger in arenas if source_of_values(spec, ledger)[0].tuning.tokens == spec.tokens]


def study_of(spec: Spec, ledger: Ledger, cell: Cell) -> Study:
    """The compared runs of a cell, under the names that the paper's claims have, of rows none of whose seeds
    diverged."""
    found = recorded(spec, ledger, cell)
    whole = {row: lines for row, lines in found.items() if finished(lines) == lines}
    named = {spec.style_of(row).removeprefix(ABLATION): lines for row, lines in whole.items()}
    return Study(title_among_arenas(spec, cell), named)


def ratios(spec: Spec, ledger: Ledger, cell: Cell) -> Table:
    """Perplexity and rank at each data ratio, on the first seed, of the rows that were trained at all of them."""
    by_tokens = {
        tokens: {
            row: loss_of(lines[0])
            for row, lines in recorded(spec, ledger, cell, tokens).items()
            if lines[0]["seed"] == spec.first_seed
        }
        for tokens in spec.ladder
    }
    shared = [row for row in spec.rows if all(row in found for found in by_tokens.values())]
    places = {
        tokens: {row: place for place, row in enumerate(sorted(shared, key=found.__getitem__), start=1)}
        for tokens, found in by_tokens.items()
    }
    rows = []
    for row in sorted(shared, key=places[max(spec.ladder)].__getitem__):
        losses = [by_tokens[tokens][row] for tokens in spec.ladder]
        values = [text(math.exp(loss)) if math.isfinite(loss) else "diverged" for loss in losses]
        ranked = [f"{value} ({places[tokens][row]})" for value, tokens in zip(values, spec.ladder, strict=True)]
        rows.append([spec.label(row), *ranked])
    curve = reference_curve(spec, ledger, cell)
    reference = spec.label(spec.against[0])
    fitted = ""
    if curve:
        fitted = f" {reference}: L = {curve.a:.4f} (D / {curve.most:,.0f})^-{curve.b:.3f} {_signed(curve.c)}."
    return Table(
        f"{spec.name}_{cell.size}_{cell.batch_size}_ratios",
        f"Data ratios: {title_of(spec, cell)}",
        "Perplexity at the end of a schedule of so many positions, one seed; in brackets the rank. All have the values "
        f"tuned {where_tuned(spec)}.{_of_tuning(spec)}{fitted}",
        ["method", *(f"{tokens / 1e6:.3g}M" for tokens in spec.ladder)],
        rows,
        SCALE,
    )


def _signed(number: float) -> str:
    """A term of a sum, with its sign before it."""
    return f"{'-' if number < 0 else '+'} {abs(number):.4f}"


def _of_tuning(spec: Spec) -> str:
    if spec.tuned_in is not None or spec.tuning.tokens not in spec.ladder or spec.first_seed > 0:
        return ""
    return f" At {spec.tuning.tokens / 1e6:.3g}M it is the best of the tuning runs, which favours rows that gain by it."


def tried(spec: Spec, ledger: Ledger) -> Table:
    """Every tuning run of every row."""
    rows = []
    for cell in cells(spec):
        for row, entrant in spec.rows.items():
            if entrant.rates_of is not None:
                continue
            found = tuning(spec, row, cell, ledger)
            open_settings = [setting for setting in found.best if setting not in found.bracketed]
            losses = {line["name"]: _run(list(found.best), line) for line in tuning_runs(spec, ledger, row, cell)}
            walked = [losses.pop(Entry(row, cell, spec.tuning.tokens, point, 0).name) for point in found.points]
            if walked or losses:
                rows.append(
                    [spec.label(row), f"{cell.size} x {cell.batch_size}", str(len(walked)), shown.point(found.best),
                     " ".join(open_settings), " · ".join(walked), " · ".join(losses.values())]
                )  # fmt: skip
    tokens = spec.tuning.tokens
    return Table(
        f"{spec.name}_tuning",
        f"Tuning, {spec.tuning.runs} runs a row, {tokens:,} positions, seed 0",
        "Tried: values in the order of `best`, and the final loss in nats. A neighbour is better if its loss is lower "
        f"by {spec.tuning.noise:g}. Not bracketed: a neighbour of the best value was not tried, is better, or "
        "there is none. Not of the walk: runs from other starts, which may have led to this one.",
        ["method", "cell", "runs", "best", "not bracketed", "tried", "not of the walk"],
        rows,
        SCALE,
    )


def _run(settings: list[str], line: Line) -> str:
    """A tuning run's values, in the order of these settings, and its final loss. A record sorts settings by name."""
    point = line["point"]
    values = " / ".join(shown.value(point[name]) for name in settings) if point.keys() == set(settings) else None
    return f"{values or shown.point(point)}: {'diverged' if line['loss'] is None else text(line['loss'], 4)}"
