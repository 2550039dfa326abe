"""The tables of an arena, from its ledger alone."""

import math
import statistics

from analysis.arena.entries import Entry, finished, published, tuning
from analysis.arena.ledger import Ledger, Line, Point, ledger_of
from analysis.arena.loss_curve import LossCurve, fit
from analysis.arena.significance import p_value, pooled_deviation
from analysis.arena.spec import Cell, Spec, all_specs, cells, positions_per_step
from analysis.arena.walk import Walk
from analysis.comparison import crossing, deviation, mean
from analysis.records import Clock
from analysis.rows import style
from analysis.tables.cells import text
from analysis.tables.table import Table

SCALE = "arena"
CLOCKS: tuple[Clock, ...] = ("step", "train_seconds")


def arena_tables() -> list[Table]:
    """Every table of results/arena: of the arenas whose ledgers hold runs."""
    tables = []
    for spec in all_specs():
        ledger = ledger_of(spec.name)
        if ledger.lines:
            tables += [standings(spec, ledger, cell) for cell in cells(spec)]
            tables += [ratios(spec, ledger, cell) for cell in cells(spec) if spec.ladder]
            tables += [tried(spec, ledger)]
    return [table for table in tables if table.rows]


def finals(spec: Spec, ledger: Ledger, cell: Cell, tokens: int | None = None) -> dict[str, list[Line]]:
    """The finished runs of each row at its tuned point, by seed; rows without any are left out."""
    found = {}
    for row, entrant in spec.rows.items():
        tuned = tuning(spec, row, cell, ledger)
        if tuned.pending is None:
            entries = [Entry(row, cell, tokens or spec.tokens, tuned.best, seed) for seed in range(entrant.seeds)]
            if lines := [line for entry in entries if (line := finished(ledger, entry)) is not None]:
                found[row] = lines
    return found


def reference_curve(spec: Spec, ledger: Ledger, cell: Cell) -> LossCurve | None:
    """The loss curve of the first row of `against`, through its runs at all data ratios on the first seed."""
    points = []
    for tokens in spec.ladder:
        lines = finals(spec, ledger, cell, tokens).get(spec.against[0], [])
        points += [(line["tokens"], _loss(line)) for line in lines if line["seed"] == 0]
    return fit([tokens for tokens, _ in points], [loss for _, loss in points])


def standings(spec: Spec, ledger: Ledger, cell: Cell) -> Table:
    """The rows at the data ratio of the comparison, by perplexity."""
    found = finals(spec, ledger, cell)
    losses = {row: [_loss(line) for line in lines] for row, lines in found.items()}
    spread = pooled_deviation(losses.values())
    curve = reference_curve(spec, ledger, cell)
    rows = []
    for row in sorted(found, key=lambda row: statistics.fmean(losses[row])):
        lines = found[row]
        perplexities = [math.exp(loss) for loss in losses[row]]
        rows.append(
            [style(row).label, text(statistics.fmean(perplexities)), text(deviation(perplexities)), str(len(lines)),
             *(text(_held_out(lines, name)) for name in spec.held_out),
             *(_p(row, other, losses, spread) for other in spec.against),
             *_speed_ups(row, found, curve, spec.against[0]),
             str(lines[0]["summary"]["optimizer_state_bytes"]), shown(lines[0]["point"]),
             _recipe(spec, ledger, row, cell), lines[0]["summary"]["config_hash"]]
        )  # fmt: skip
    against = [f"p against {style(row).label}" for row in spec.against]
    reference = style(spec.against[0]).label
    return Table(
        f"{spec.name}_{cell.size}_{cell.batch_size}",
        f"{spec.title}: {cell.size}, {positions_per_step(spec, cell):,} positions a step".replace("llama_", ""),
        f"Perplexity on the validation text after {spec.tokens:,} positions, at the end of the schedule, mean over n "
        f"seeds. p: one-sided test that a row is no better, on losses, with one standard deviation for all rows "
        f"({f'{spread:.4f} nats' if spread else 'none before a row has two seeds'}); significant below "
        f"{spec.significance:g}. Speed-up in tokens: those "
        f"that tuned {reference} needs for the same loss, on its fitted curve, over the row's; none where the curve "
        f"would be extrapolated. In steps and seconds: where {reference}'s final loss is first met. As published: "
        "perplexity of the row's file as it stands, one seed.",
        ["method", "ppl", "sd", "n", *spec.held_out, *against, "in tokens", "in steps", "in seconds", "state bytes",
         "tuned", "as published", "config hash"],
        rows,
        SCALE,
    )  # fmt: skip


def ratios(spec: Spec, ledger: Ledger, cell: Cell) -> Table:
    """Perplexity and rank at each data ratio, on the first seed, of the rows that were trained at all of them."""
    by_tokens = {
        tokens: {row: math.exp(_loss(lines[0])) for row, lines in finals(spec, ledger, cell, tokens).items()}
        for tokens in spec.ladder
    }
    shared = [row for row in spec.rows if all(row in found for found in by_tokens.values())]
    ranks = {
        tokens: {row: place for place, row in enumerate(sorted(shared, key=found.__getitem__), start=1)}
        for tokens, found in by_tokens.items()
    }
    rows = []
    for row in sorted(shared, key=ranks[max(spec.ladder)].__getitem__):
        places = [f"{by_tokens[tokens][row]:.2f} ({ranks[tokens][row]})" for tokens in spec.ladder]
        rows.append([style(row).label, *places])
    curve = reference_curve(spec, ledger, cell)
    reference = style(spec.against[0]).label
    fitted = f"{reference}: L = {curve.a:.4f} (D / {curve.most:,.0f})^-{curve.b:.3f} + {curve.c:.4f}." if curve else ""
    return Table(
        f"{spec.name}_{cell.size}_{cell.batch_size}_ratios",
        f"Data ratios: {cell.size}, {positions_per_step(spec, cell):,} positions a step".replace("llama_", ""),
        f"Perplexity at the end of a schedule of so many positions, seed 0; in brackets the rank. {fitted}".strip(),
        ["method", *(f"{tokens / 1e6:.3g}M" for tokens in spec.ladder)],
        rows,
        SCALE,
    )


def tried(spec: Spec, ledger: Ledger) -> Table:
    """Every tuning run of every row."""
    rows = []
    for cell in cells(spec):
        for row, entrant in spec.rows.items():
            if entrant.rates_of is not None:
                continue
            found = tuning(spec, row, cell, ledger)
            open_settings = [setting for setting in found.best if setting not in found.bracketed]
            lists = [
                [f"{' / '.join(map(_value, point.values()))}: {_tuned_loss(spec, ledger, row, cell, point)}"
                 for point in points]
                for points in (found.points, _outside(spec, ledger, row, cell, found))
            ]  # fmt: skip
            if any(lists):
                rows.append(
                    [style(row).label, f"{cell.size} x {cell.batch_size}", str(len(found.points)), shown(found.best),
                     " ".join(open_settings), *(" · ".join(points) for points in lists)]
                )  # fmt: skip
    tokens = spec.tuning.tokens
    return Table(
        f"{spec.name}_tuning",
        f"Tuning, {spec.tuning.runs} runs a row, {tokens:,} positions, seed 0",
        "Tried: values in the order of `best`, and the final loss in nats. A neighbour is better if its loss is lower "
        f"by {spec.tuning.noise:g}. Not bracketed: a neighbour of the best value was not tried. Not of the walk: runs "
        "from other starts, which may have led to this one.",
        ["method", "cell", "runs", "best", "not bracketed", "tried", "not of the walk"],
        rows,
        SCALE,
    )


def _outside(spec: Spec, ledger: Ledger, row: str, cell: Cell, walked: Walk) -> list[Point]:
    """The points of a row's recorded tuning runs that are not of its walk. A record sorts its settings by name."""
    place = row, cell.size, cell.batch_size, spec.tuning.tokens, 0
    recorded = [
        line["point"]
        for line in ledger.lines.values()
        if (line["row"], line["size"], line["batch_size"], line["tokens"], line["seed"]) == place
    ]
    settings = walked.best
    points = [{key: point[key] for key in settings} for point in recorded if point.keys() == settings.keys()]
    return [point for point in points if point not in walked.points]


def shown(point: Point) -> str:
    """A point in words: lr=0.02 adam_lr=0.03."""
    return " ".join(f"{setting}={_value(value)}" for setting, value in point.items())


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_value, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tuned_loss(spec: Spec, ledger: Ledger, row: str, cell: Cell, point: Point) -> str:
    line = ledger.lines[Entry(row, cell, spec.tuning.tokens, point, 0).name]
    return "diverged" if line["loss"] is None else text(line["loss"], 4)


def _loss(line: Line) -> float:
    assert line["loss"] is not None
    return line["loss"]


def _held_out(lines: list[Line], name: str) -> float | None:
    """The mean perplexity on another text, over the seeds that were evaluated on it."""
    return mean([line["held_out"][name]["perplexity"] for line in lines if name in line.get("held_out", {})])


def _p(row: str, other: str, losses: dict[str, list[float]], spread: float | None) -> str:
    if row == other or other not in losses or not spread:
        return ""
    return f"{p_value(losses[row], losses[other], spread):.2g}"


def _recipe(spec: Spec, ledger: Ledger, row: str, cell: Cell) -> str:
    """The perplexity of a row's published recipe."""
    if spec.rows[row].rates_of is not None:
        return ""
    line = ledger.lines.get(published(spec, row, cell).name)
    return "" if line is None else "diverged" if line["loss"] is None else text(math.exp(line["loss"]))


def _speed_ups(row: str, found: dict[str, list[Line]], curve: LossCurve | None, reference: str) -> list[str]:
    """How many times fewer tokens, steps and seconds than the reference."""
    if row == reference:
        return ["", "", ""]
    loss = statistics.fmean(map(_loss, found[row]))
    saved = curve.tokens(loss) if curve else None
    targets = {line["seed"]: line for line in found.get(reference, [])}
    pairs = [(line, targets[line["seed"]]) for line in found[row] if line["seed"] in targets]
    ratios = []
    for clock in CLOCKS:
        times = [(target["evaluations"][-1][clock], _met(line, target, clock)) for line, target in pairs]
        ratios.append(mean([whole / met for whole, met in times if met]))
    return [text(saved / found[row][0]["tokens"] if saved else None), *map(text, ratios)]


def _met(line: Line, target: Line, clock: Clock) -> float | None:
    """Where a run first meets the final loss of another."""
    return crossing(line["evaluations"], _loss(target), clock)
