"""The runs that an arena needs, given the records of those that are finished."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from analysis.arena.ledger import Ledger, Point, ledger_of
from analysis.arena.spec import Cell, Spec, cells, config_of, file_of, positions_per_step, shared_settings, spec_named
from analysis.arena.walk import Walk, start_and_axes, walk


@dataclass(frozen=True)
class Entry:
    """A run: a row in a cell over `tokens` positions, at a point, with a seed. published: as the row's file stands."""

    row: str
    cell: Cell
    tokens: int
    point: Point
    seed: int
    published: bool = False

    @property
    def name(self) -> str:
        """A name that says all that tells the runs of an arena apart."""
        values = "_".join(f"{setting}={_shown(value)}" for setting, value in self.point.items())
        place = f"{self.cell.size}_{self.cell.batch_size}x{self.tokens}"
        kind = "_published" if self.published else ""
        return f"{self.row}_{place}_{values}_s{self.seed}{kind}".replace("/", "-").replace(" ", "")


def _shown(value: object) -> str:
    """64 for 64.0; as many digits as tell a number from others."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def steps_of(spec: Spec, entry: Entry) -> int:
    """Steps of a run."""
    return entry.tokens // positions_per_step(spec, entry.cell)


def arguments(spec: Spec, entry: Entry) -> list[str]:
    """Arguments of train.py for a run, but for its folder. A low-rank basis is renewed `refreshes` times in a run. A
    published recipe keeps its file's interval."""
    steps = steps_of(spec, entry)
    settings = [*shared_settings(spec, entry.cell), f"train.steps={steps}"]
    renewed = {"rank", "update_interval"} <= vars(config_of(spec, entry.row, entry.cell).optimizer).keys()
    if renewed and not entry.published:
        settings.append(f"optimizer.update_interval={max(1, steps // spec.refreshes)}")
    settings += [f"optimizer.{setting}={value}" for setting, value in entry.point.items()]
    return [str(file_of(spec, entry.row)), *settings, f"run.seed={entry.seed}"]


# ---- tuning


def source_of_values(spec: Spec, ledger: Ledger) -> tuple[Spec, Ledger]:
    """The arena that tunes the rows of this one, with its records: itself, or `tuned_in`."""
    if spec.tuned_in is None:
        return spec, ledger
    source, kept = _other(spec.tuned_in)
    kept.read()  # its tuning may go on beside this arena
    return source, kept


def tuned_row(spec: Spec, row: str) -> str:
    """The row whose values a row has: itself, or that of `rates_of`."""
    return spec.rows[row].rates_of or row


@cache
def _other(name: str) -> tuple[Spec, Ledger]:
    return spec_named(name), ledger_of(name)


def tuning(spec: Spec, row: str, cell: Cell, ledger: Ledger) -> Walk:
    """The walk of a row in a cell, as far as it has come. A row with `rates_of` has that row's."""
    source, kept = source_of_values(spec, ledger)
    tuned = tuned_row(source, tuned_row(spec, row))
    section = config_of(source, tuned, cell).optimizer
    assert section.adam_lr is not None  # `configs.schema.build` sets it
    start, axes = start_and_axes(source.rows[tuned], section.lr, section.adam_lr, source.tuning)

    def loss(point: Point) -> float | None:
        line = kept.lines.get(Entry(tuned, cell, source.tuning.tokens, point, 0).name)
        return None if line is None else float("inf") if line["loss"] is None else line["loss"]

    return walk(start, axes, source.tuning, loss)


def untuned(spec: Spec, ledger: Ledger, rows: list[str]) -> str | None:
    """The first of these rows whose values another arena has yet to find."""
    if spec.tuned_in is None:
        return None
    waiting = (row for row in rows for cell in cells(spec) if tuning(spec, row, cell, ledger).pending is not None)
    return next(waiting, None)


def tuning_entries(spec: Spec, ledger: Ledger, rows: list[str]) -> Iterator[Entry]:
    """The next run of every walk: the one that it waits for. None in an arena whose rows another one tunes."""
    for cell in cells(spec) if spec.tuned_in is None else ():
        for row in dict.fromkeys(tuned_row(spec, row) for row in rows):
            pending = tuning(spec, row, cell, ledger).pending
            if pending is not None:
                yield Entry(row, cell, spec.tuning.tokens, pending, 0)


# ---- what follows tuning


def final_entries(spec: Spec, ledger: Ledger, rows: list[str]) -> Iterator[Entry]:
    """Every row at its best point with all its seeds, the first seed of all rows first."""
    for seed in sorted({seed for row in spec.rows for seed in spec.seeds(row)}):
        for cell, row, best in _tuned(spec, ledger, rows):
            if seed in spec.seeds(row):
                yield Entry(row, cell, spec.tokens, best, seed)


def ladder_entries(spec: Spec, ledger: Ledger, rows: list[str]) -> Iterator[Entry]:
    """The rows of the ladder at every data ratio, on the first seed."""
    for tokens in sorted(spec.ladder):
        for cell, row, best in _tuned(spec, ledger, rows):
            if spec.rows[row].ladder:
                yield Entry(row, cell, tokens, best, spec.first_seed)


def recipe_entries(spec: Spec, ledger: Ledger, rows: list[str]) -> Iterator[Entry]:
    """Every tuned row once as its file says: the published recipe."""
    for cell in cells(spec) if spec.published else ():
        for row in rows:
            if spec.rows[row].rates_of is None:
                yield recipe(spec, row, cell)


def recipe(spec: Spec, row: str, cell: Cell) -> Entry:
    """The run of a row's published recipe."""
    section = config_of(spec, row, cell).optimizer
    return Entry(row, cell, spec.tokens, {"lr": section.lr, "adam_lr": section.adam_lr}, 0, published=True)


def _tuned(spec: Spec, ledger: Ledger, rows: list[str]) -> Iterator[tuple[Cell, str, Point]]:
    for cell in cells(spec):
        for row in rows:
            found = tuning(spec, row, cell, ledger)
            if found.pending is None:
                yield cell, row, found.best


STAGES = {
    "tuning": tuning_entries,
    "final": final_entries,
    "ladder": ladder_entries,
    "published": recipe_entries,
}


def due(spec: Spec, ledger: Ledger, rows: list[str], stage: str) -> list[Entry]:
    """The runs of a stage that can start now and have no record."""
    entries = {entry.name: entry for entry in STAGES[stage](spec, ledger, rows)}
    return [entry for name, entry in entries.items() if name not in ledger.lines]


def remaining(spec: Spec, ledger: Ledger, rows: list[str]) -> dict[str, tuple[int, int]]:
    """Stage -> (runs, positions) that have no record yet. For walks that go on their whole number is counted."""
    walks = dict.fromkeys(tuned_row(spec, row) for row in rows) if spec.tuned_in is None else {}
    left = sum(
        spec.tuning.runs - len(found.points)
        for cell in cells(spec)
        for row in walks
        if (found := tuning(spec, row, cell, ledger)).pending is not None
    )
    counts = {"tuning": (left, left * spec.tuning.tokens)}
    for stage, runs in _wanted(spec, rows).items():
        wanted = [tokens for _, tokens, _ in runs] * len(cells(spec))
        made = [
            entry.tokens
            for entry in STAGES[stage](spec, ledger, rows)
            if entry.name in ledger.lines and (entry.row, entry.tokens, entry.seed) in runs
        ]
        counts[stage] = len(wanted) - len(made), sum(wanted) - sum(made)
    return counts


def _wanted(spec: Spec, rows: list[str]) -> dict[str, set[tuple[str, int, int]]]:
    """Stage after tuning -> the runs of a cell, as (row, positions, seed), that no stage before it makes."""
    walks = [row for row in rows if spec.rows[row].rates_of is None]
    tuned = {(row, spec.tuning.tokens, 0) for row in walks if spec.tuned_in is None}
    finals = {(row, spec.tokens, seed) for row in rows for seed in spec.seeds(row)}
    ladders = {(row, tokens, spec.first_seed) for row in rows if spec.rows[row].ladder for tokens in spec.ladder}
    recipes = {(row, spec.tokens, 0) for row in walks if spec.published}
    return {"final": finals - tuned, "ladder": ladders - finals - tuned, "published": recipes}
