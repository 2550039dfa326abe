"""An arena from its spec to its records: each run as soon as it can start, until nothing is left."""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from analysis import records
from analysis.arena.entries import Entry, arguments, due, remaining, steps_of, untuned
from analysis.arena.ledger import Ledger, Line
from analysis.arena.same_settings import check_unchanged
from analysis.arena.spec import Spec, cells, config_of
from analysis.paths import ROOT
from configs.identity import config_hash, differences, to_dict
from configs.messages import one_line
from configs.schema import SettingsError, load
from configs.yaml_values import from_yaml
from experiments.jobs import Job, run_all, since_start, training
from experiments.placement import Machine
from models.llama import build_model
from training.optimizer import build_optimizer
from training.processes.logs import say
from training.run.folder import RunFolder
from training.run.provenance import changed_method

RUNS = Path("runs/arena")
# The sentence with which train.py ends when a loss, a gradient norm or an evaluation is not finite.
DIVERGED = re.compile(r"^step \d+ .*(its loss is|norm|evaluation is) (nan|inf)\b")


def job(spec: Spec, entry: Entry, launcher: Sequence[str] = ()) -> Job:
    """The run of an entry, in a folder of its own below runs/arena. One that diverges is no failure."""
    made = training(entry.name, arguments(spec, entry), RUNS / spec.name, launcher or None)
    return dataclasses.replace(made, result=DIVERGED)


def texts(spec: Spec, entry: Entry) -> dict[str, list[str]]:
    """The other texts that a run is evaluated on. Where tuning is as long as the comparison its best run is one of the
    compared ones, and which that is is not known before."""
    compared = entry.tokens == spec.tokens and entry.seed in spec.seeds(entry.row) and not entry.published
    return spec.held_out if compared else {}


def line_of(spec: Spec, entry: Entry) -> Line | None:
    """The record of an entry's run; None while it has not ended. Raises SettingsError for a run of other settings, and
    for a damaged one."""
    line: Line = {
        "name": entry.name,
        "row": entry.row,
        "size": entry.cell.size,
        "batch_size": entry.cell.batch_size,
        "steps": steps_of(spec, entry),
        "tokens": entry.tokens,
        "point": entry.point,
        "seed": entry.seed,
        "loss": None,
        "summary": {},
        "evaluations": [],
    }
    folder = ROOT / RUNS / spec.name / entry.name
    ended = (folder / "summary.json").is_file()
    # Behind the sentence a launcher may say much of its own.
    diverged = any(map(DIVERGED.search, since_start(folder.with_name(f"{entry.name}.log"))))
    if not ended and not diverged:
        return None
    config = load(arguments(spec, entry)).config
    try:
        changed = differences(from_yaml((folder / "config.yaml").read_text()), to_dict(config))
        kept = records.record(folder) if ended else None
        made_in = RunFolder(folder).read_environment()
    except records.DAMAGED as error:
        raise SettingsError(f"{folder} holds no whole run ({one_line(error)}); move it away") from error
    if changed := changed + changed_method(made_in, config.optimizer):
        raise SettingsError(f"{folder}: this run has another {changed[0]} than the spec has now; move it away")
    if kept is None:
        line["summary"] = {"seed": entry.seed, "config_hash": config_hash(config), **made_in}
        return line
    line["loss"] = kept["summary"]["final_loss"]
    line["summary"] = dict(kept["summary"])
    line["optimizer"] = kept["settings"]["optimizer"]
    line["evaluations"] = kept["evaluations"]
    if "held_out" in kept:
        line["held_out"] = kept["held_out"]
    return line


def held_out_jobs(spec: Spec, entry: Entry) -> list[Job]:
    """The evaluations on other texts that an entry's run lacks; none before it is finished."""
    folder = RUNS / spec.name / entry.name
    wanted = texts(spec, entry)
    if not wanted or not (ROOT / folder / "summary.json").is_file():
        return []
    evaluated = records.record(ROOT / folder).get("held_out", {})
    jobs = []
    for name in wanted.keys() - evaluated.keys():
        command = (sys.executable, "scripts/evaluate.py", str(folder), "--save", name, *wanted[name])
        log = RUNS / spec.name / f"{entry.name}_{name}.log"
        jobs.append(Job(f"{entry.name}_{name}", command, proof=folder / "evaluations.json", log=log, again=True))
    return sorted(jobs, key=lambda job: job.name)


def check_methods(spec: Spec, ledger: Ledger, rows: Sequence[str], stages: Sequence[str]) -> None:
    """Build the method of every row that has runs left in these stages on the meta device. Raises SettingsError for one
    that cannot be built: a missing package is told before hours of other rows' runs."""
    for row in rows:
        left = remaining(spec, ledger, [row])
        own = [stage for stage in stages if stage != "tuning" or spec.rows[row].rates_of is None]
        for cell in cells(spec) if any(left[stage][0] for stage in own) else ():
            config = config_of(spec, row, cell)
            try:
                model = build_model(config.model, dtype=getattr(torch, config.train.dtype), seed=0, device="meta")
                build_optimizer(model, config.optimizer).allocate_state()
            except (ValueError, ImportError) as error:
                raise SettingsError(f"rows.{row}: {one_line(error)}") from error


class Conductor:
    """What of an arena can start now: asked again whenever a run has ended.

    `faults`: row -> why it gets no more runs. record: what becomes of the line of a run that has ended.
    """

    def __init__(
        self,
        spec: Spec,
        ledger: Ledger,
        rows: list[str],
        stages: Sequence[str],
        launcher: Sequence[str],
        record: Callable[[Line], None],
    ):
        self.spec, self.ledger, self.rows, self.stages, self.launcher = spec, ledger, rows, stages, launcher
        self.faults: dict[str, SettingsError] = {}
        self._record = record
        self._given: set[str] = set()

    def next_jobs(self) -> list[Job]:
        """The jobs that can start now and have not been given yet; lines of ended runs are recorded first."""
        while ended := [line for entry in self._due() if (line := self._ended(entry))]:
            for line in ended:
                self._record(line)
        entries = self._due()
        found = [each for entry in entries for each in held_out_jobs(self.spec, entry)]
        found += [job(self.spec, entry, self.launcher) for entry in entries]
        new = [each for each in found if each.name not in self._given]
        self._given.update(each.name for each in new)
        return new

    def _due(self) -> list[Entry]:
        """The runs without a record that can start, of rows without a fault."""
        entries = list(
            {
                entry.name: entry
                for stage in self.stages
                for entry in due(self.spec, self.ledger, self.rows, stage)
                if entry.row not in self.faults
            }.values()
        )
        for row, cell in dict.fromkeys((entry.row, entry.cell) for entry in entries):
            try:
                check_unchanged(self.spec, self.ledger, row, cell)
            except SettingsError as error:
                self._notice(row, error)
        return [entry for entry in entries if entry.row not in self.faults]

    def _ended(self, entry: Entry) -> Line | None:
        """The line of a run, if it has ended. A line is never changed, so a finished run of the comparison waits until
        it is evaluated on every other text."""
        try:
            line = line_of(self.spec, entry)
        except SettingsError as error:
            self._notice(entry.row, error)
            return None
        if line is None or line["loss"] is None or texts(self.spec, entry).keys() <= line.get("held_out", {}).keys():
            return line
        return None

    def _notice(self, row: str, error: SettingsError) -> None:
        if row not in self.faults:
            self.faults[row] = error
            say(f"{error}\nthe row {row} gets no more runs, the others go on")


def run_stages(spec: Spec, ledger: Ledger, rows: list[str], stages: Sequence[str], machine: Machine) -> int:
    """Run what these stages need until nothing is left that can start; returns an exit code.

    A run starts as soon as those that it depends on have a record: no row waits for another, nor for the end of a
    stage. A run that diverged is a result. One that failed for another reason is tried once, and its walk ends there.
    Raises SettingsError when the runs have ended: where records or folders of a row have other settings than the spec
    has now, where a folder is damaged, and where another arena has not tuned a row yet.
    """
    conductor = Conductor(spec, ledger, rows, stages, machine.launcher, ledger.append)

    def after_each() -> list[Job]:
        with contextlib.suppress(SettingsError, OSError):  # raised again when all have ended
            return conductor.next_jobs()
        return []

    code = run_all(conductor.next_jobs(), at_once=machine.at_once, devices=machine.devices, after_each=after_each)
    conductor.next_jobs()
    if code > 1:  # interrupted
        return code
    for error in conductor.faults.values():
        raise error
    if [*stages] != ["tuning"] and (row := untuned(spec, ledger, rows)):
        raise SettingsError(f"rows.{row} has no tuned values yet: run the arena {spec.tuned_in} first")
    return int(any(due(spec, ledger, rows, stage) for stage in stages))


def print_startable(spec: Spec, ledger: Ledger, rows: list[str], stages: Sequence[str], machine: Machine) -> int:
    """Print the commands that `run_stages` would start first, and write nothing; returns an exit code. Raises as it."""
    conductor = Conductor(spec, ledger, rows, stages, machine.launcher, ledger.take)
    run_all(conductor.next_jobs(), devices=machine.devices, dry=True)
    for error in conductor.faults.values():
        raise error
    return 0


def budget(spec: Spec, ledger: Ledger, rows: list[str], at_once: int) -> str:
    """Lines that say what is left to run: runs, positions, hours, money."""
    pace = positions_per_second(ledger) or spec.budget.positions_per_second
    lines, total = [f"{spec.name}: {len(ledger.lines)} runs recorded; left, at {pace:,.0f} positions/s a run:"], 0
    for stage, (runs, tokens) in remaining(spec, ledger, rows).items():
        total += tokens
        lines.append(f"  {stage:<10}{runs:>5} runs {tokens / 1e6:>9,.0f}M positions {tokens / pace / 3600:>8,.1f} h")
    hours = total / pace / 3600
    price = f", {hours * spec.budget.hourly_rate:,.2f} {spec.budget.currency}" if spec.budget.hourly_rate else ""
    lines.append(
        f"  in all {hours:,.1f} hours of one run{price}; with {at_once} at a time {hours / at_once:,.1f} hours"
    )
    return "\n".join(lines)


def positions_per_second(ledger: Ledger) -> float | None:
    """Of one run, over all recorded runs; None without any."""
    kept = [line for line in ledger.lines.values() if line["loss"] is not None]
    seconds = sum(line["summary"]["train_seconds"] for line in kept)
    return sum(line["tokens"] for line in kept) / seconds if seconds else None
