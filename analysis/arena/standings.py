"""The table of an arena's comparison: the rows of a cell by perplexity, tested against the reference rows."""

import math
from collections.abc import Container, Mapping

from analysis.arena import shown
from analysis.arena.entries import recipe, tuning
from analysis.arena.ledger import Ledger, Line
from analysis.arena.loss_curve import LossCurve
from analysis.arena.notes import note
from analysis.arena.outcomes import (
    finished,
    loss_of,
    mean_loss,
    mean_perplexity,
    other_points,
    recorded,
    reference_curve,
    reference_runs,
    title_of,
    tuning_runs,
)
from analysis.arena.significance import Pooled, Verdict, is_lower, pooled, significant
from analysis.arena.spec import Cell, Spec
from analysis.comparison import crossing
from analysis.records import Clock
from analysis.tables.cells import mean_of_reached, text
from analysis.tables.table import Table

SCALE = "arena"
CLOCKS: tuple[Clock, ...] = ("step", "train_seconds")


def standings(spec: Spec, ledger: Ledger, cell: Cell) -> Table:
    """The rows at the data ratio of the comparison, by perplexity; those whose seeds all diverged are last."""
    found = recorded(spec, ledger, cell)
    losses = {row: [loss_of(line) for line in finished(lines)] for row, lines in found.items()}
    within = pooled(losses.values())
    whole = {row: losses[row] for row, lines in found.items() if len(losses[row]) == len(lines)}
    tests = {other: _tests(other, whole, within) for other in spec.against}
    made = {row for row, lines in found.items() if len(lines) == spec.rows[row].seeds}
    declared = {other: _declared(column, made) if other in made else {} for other, column in tests.items()}
    clear = {other: significant(column, spec.significance, len(spec.rows) - 1) for other, column in declared.items()}
    longest, curve = reference_runs(spec, ledger, cell), reference_curve(spec, ledger, cell)
    rows = []
    for row in sorted(found, key=lambda row: mean_perplexity(found[row])):
        lines = found[row]
        summary = (finished(lines) or lines)[0]["summary"]
        rows.append(
            [spec.label(row), *shown.perplexity(lines, spec.rows[row].seeds),
             *(shown.held_out(lines, name) for name in spec.held_out),
             *(shown.p_value(tests[other][row], bold=row in clear[other]) if row in tests[other] else ""
               for other in spec.against),
             *([""] * 3 if row == spec.against[0] else
               [_in_tokens(lines, longest, curve),
                *(_sooner(lines, found.get(spec.against[0], []), clock) for clock in CLOCKS)]),
             str(summary.get("optimizer_state_bytes", "")), shown.point(tuning(spec, row, cell, ledger).best),
             *_tuning(spec, ledger, row, cell), _recipe(spec, ledger, row, cell), _hashes(lines)]
        )  # fmt: skip
    against = [f"p against {spec.label(row)}" for row in spec.against]
    return Table(
        f"{spec.name}_{cell.size}_{cell.batch_size}",
        f"{spec.title}: {title_of(spec, cell)}",
        note(spec, within, [test for column in tests.values() for test in column.values()], found),
        ["method", "ppl", "sd", "n", *spec.held_out, *against, "in tokens", "in steps", "in seconds", "state bytes",
         "tuned", "tuning runs", "not bracketed", "as published", "config hash"],
        rows,
        SCALE,
        picture=spec.name,
    )  # fmt: skip


def others(spec: Spec, ledger: Ledger, cell: Cell) -> Table:
    """Compared runs that the standings leave out, by perplexity: what could be said before tuning went on."""
    kept = {row: other_points(spec, ledger, row, cell) for row in spec.rows}
    found = [(row, lines) for row, points in kept.items() for lines in points]
    rows = []
    for row, lines in sorted(found, key=lambda pair: mean_perplexity(pair[1])):
        point = {key: lines[0]["point"][key] for key in ("lr", "adam_lr") if key in lines[0]["point"]}
        rows.append(
            [spec.label(row), shown.point(point | lines[0]["point"]), *shown.perplexity(lines),
             *(shown.held_out(lines, name) for name in spec.held_out)]
        )  # fmt: skip
    return Table(
        f"{spec.name}_{cell.size}_{cell.batch_size}_other_points",
        f"At other points: {title_of(spec, cell)}",
        f"Runs over {spec.tokens:,} positions at points that tuning has left since, or has not ended at yet. They are "
        "no part of the comparison.",
        ["method", "point", "ppl", "sd", "n", *spec.held_out],
        rows,
        SCALE,
    )


def _tests(other: str, losses: Mapping[str, list[float]], within: Pooled | None) -> dict[str, Verdict]:
    """The test of each row against another."""
    found: dict[str, Verdict] = {}
    for row, values in losses.items():
        if row != other and values and losses.get(other):
            test = is_lower(values, losses[other], within)
            found |= {} if test is None else {row: test}
    return found


def _declared(column: Mapping[str, Verdict], made: Container[str]) -> dict[str, Verdict]:
    """The tests that may be called significant: of rows with all their seeds, each by its own deviation. The pooled one
    is another's where rows differ in theirs."""
    return {row: test for row, test in column.items() if test.welch and row in made}


def _tuning(spec: Spec, ledger: Ledger, row: str, cell: Cell) -> list[str]:
    """The number of tuning runs, and the settings whose best value is not bracketed."""
    if (source := spec.rows[row].rates_of) is not None:
        return [f"those of {spec.label(source)}", ""]
    walked = tuning(spec, row, cell, ledger)
    return [
        str(len(tuning_runs(spec, ledger, row, cell))),
        " ".join(setting for setting in walked.best if setting not in walked.bracketed),
    ]


def _recipe(spec: Spec, ledger: Ledger, row: str, cell: Cell) -> str:
    """The perplexity of a row's published recipe."""
    if spec.rows[row].rates_of is not None:
        return ""
    line = ledger.lines.get(recipe(spec, row, cell).name)
    return "" if line is None else "diverged" if line["loss"] is None else text(math.exp(line["loss"]))


def _hashes(lines: list[Line]) -> str:
    """The config hashes of a row's runs: one, unless its method or its file has changed between them."""
    return " ".join(dict.fromkeys(line["summary"].get("config_hash", "") for line in lines)).strip()


def _in_tokens(lines: list[Line], references: list[Line], curve: LossCurve | None) -> str:
    """How many times fewer tokens than the reference, whose runs of all lengths are given. Empty where a seed of the
    row diverged: the others are the lucky ones."""
    if len(finished(lines)) < len(lines):
        return ""
    loss, tokens = mean_loss(lines), lines[0]["tokens"]
    most = max((line["tokens"] for line in references), default=0)
    end = curve.loss(most) if curve else mean_loss([line for line in references if line["tokens"] == most])
    if references and loss < end:
        return f"> {text(most / tokens)}"
    saved = curve.tokens(loss) if curve else None
    return text(saved / tokens if saved else None)


def _device(line: Line) -> str | None:
    return line["summary"].get("device")


def _sooner(lines: list[Line], references: list[Line], clock: Clock) -> str:
    """How many times sooner the runs meet the final loss of the reference's run of their seed."""
    targets = {line["seed"]: line for line in finished(references)}
    ratios = []
    for line in lines:
        target = targets.get(line["seed"])
        if target is not None and (clock != "train_seconds" or _device(line) == _device(target)):
            met = crossing(line["evaluations"], loss_of(target), clock)
            ratios.append(target["evaluations"][-1][clock] / met if met else 0.0)
    return mean_of_reached(ratios, of=len(lines))
