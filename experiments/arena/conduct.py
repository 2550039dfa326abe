"""An arena from its spec to its records: stage after stage, until nothing is left to run."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis import records
from analysis.arena.entries import Entry, arguments, due, remaining, steps_of
from analysis.arena.ledger import Ledger, Line
from analysis.arena.spec import Spec
from analysis.paths import ROOT
from experiments.jobs import Job, run_all, training

RUNS = Path("runs/arena")
# The sentence with which train.py ends when a loss, a gradient norm or an evaluation is not finite.
DIVERGED = re.compile(r"^step \d+ .*(its loss is|norm|evaluation is) (nan|inf)\b")


@dataclass(frozen=True)
class Machine:
    """Where runs are made: so many at a time, on these CUDA devices, by a launcher in place of this Python."""

    at_once: int = 1
    devices: Sequence[str] = field(default_factory=tuple)
    launcher: Sequence[str] = field(default_factory=tuple)


def job(spec: Spec, entry: Entry, launcher: Sequence[str] = ()) -> Job:
    """The run of an entry, in a folder of its own below runs/arena."""
    return training(entry.name, arguments(spec, entry), RUNS / spec.name, launcher or None)


def keep(spec: Spec, ledger: Ledger, entries: Sequence[Entry]) -> int:
    """Append the records of those entries that have ended; returns how many."""
    lines = [line for entry in entries if (line := line_of(spec, entry)) is not None]
    for line in lines:
        ledger.append(line)
    return len(lines)


def line_of(spec: Spec, entry: Entry) -> Line | None:
    """The record of an entry's run; None while it has not ended."""
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
    folder, log = ROOT / RUNS / spec.name / entry.name, ROOT / RUNS / spec.name / f"{entry.name}.log"
    if (folder / "summary.json").is_file():
        kept = records.record(folder)
        line["loss"] = kept["summary"]["final_loss"]
        line["summary"] = dict(kept["summary"])
        line["optimizer"] = kept["settings"]["optimizer"]
        line["evaluations"] = kept["evaluations"]
        if "held_out" in kept:
            line["held_out"] = kept["held_out"]
        return line
    ended = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return line if ended and DIVERGED.search(ended[-1]) else None


def held_out_jobs(spec: Spec, entries: Sequence[Entry]) -> list[Job]:
    """Evaluations of the finished runs of these entries on other texts."""
    jobs = []
    for entry in entries:
        folder = RUNS / spec.name / entry.name
        if (ROOT / folder / "summary.json").is_file():
            evaluated = records.record(ROOT / folder).get("held_out", {})
            for name, settings in spec.held_out.items():
                command = (sys.executable, "scripts/evaluate.py", str(folder), "--save", name, *settings)
                log = RUNS / spec.name / f"{entry.name}_{name}.log"
                done = Job(f"{entry.name}_{name}", command, proof=folder / "evaluations.json", log=log, again=True)
                jobs += [] if name in evaluated else [done]
    return jobs


def run_stage(spec: Spec, ledger: Ledger, rows: list[str], stage: str, machine: Machine) -> int:
    """Run what a stage needs, and again what it then needs; returns an exit code.

    A run that diverged is a result. One that failed for another reason ends the stage.
    """
    while entries := due(spec, ledger, rows, stage):
        keep(spec, ledger, entries)
        entries = [entry for entry in entries if entry.name not in ledger.lines]
        jobs = [job(spec, entry, machine.launcher) for entry in entries]
        code = run_all(jobs, at_once=machine.at_once, devices=machine.devices)
        if stage == "final" and code <= 1:
            code = max(code, run_all(held_out_jobs(spec, entries), at_once=machine.at_once, devices=machine.devices))
        ended = keep(spec, ledger, entries)
        if code > 1 or ended < len(entries):
            return code or 1
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
    kept = [line for line in ledger.lines.values() if line["summary"]]
    seconds = sum(line["summary"]["train_seconds"] for line in kept)
    return sum(line["tokens"] for line in kept) / seconds if seconds else None
