"""Records of an arena's runs: lines of JSON in results/arena/NAME.jsonl that are only ever appended."""

import json
import os
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from analysis.arena.spec import Cell
from analysis.paths import ARENA_RESULTS
from analysis.records import Evaluation
from configs.schema import SettingsError
from data.file_lock import lock_file

Point = dict[str, Any]  # setting of the optimizer -> value


class Line(TypedDict):
    """A run that ended at the end of its schedule, or whose loss was not finite: then `loss` is None, `evaluations` are
    empty, and `summary` says where it was made (of the first lines of that kind it is empty).

    name: of the run, made of what follows; steps, tokens: of the whole schedule, tokens as positions; point: the tuned
    settings; held_out: evaluations on other texts.
    """

    name: str
    row: str
    size: str
    batch_size: int
    steps: int
    tokens: int
    point: Point
    seed: int
    loss: float | None
    summary: dict[str, Any]
    evaluations: list[Evaluation]
    optimizer: NotRequired[dict[str, Any]]
    held_out: NotRequired[dict[str, dict[str, float]]]


class Ledger:
    """The lines of one file, by name. Several processes may append to it.

    Raises SettingsError for a line that is no record.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lines: dict[str, Line] = {}
        self._bytes_read = 0
        self.read()

    def read(self) -> None:
        """Take the lines that other processes have appended since."""
        if self.path.is_file() and (size := self.path.stat().st_size) != self._bytes_read:
            self._take(self.path.read_text(errors="replace"))
            self._bytes_read = size

    def _take(self, text: str) -> None:
        """Take the records of the file's text that are not here yet."""
        whole, _, rest = text.rpartition("\n")
        # An interrupted write leaves a part of a line, an editor a whole one without its end.
        for number, found in enumerate([*whole.splitlines(), *([rest] if _line(rest) else [])], start=1):
            line = _line(found)
            if line is None:
                raise SettingsError(f"{self.path}: line {number} is no record of a run; delete it to run that again")
            self.take(line)

    def take(self, line: Line) -> None:
        """Have a line that is not written, unless there is one of its name."""
        self.lines.setdefault(line["name"], line)

    def of(self, row: str, cell: Cell) -> list[Line]:
        """The lines of a row in a cell."""
        place = row, cell.size, cell.batch_size
        return [line for line in self.lines.values() if (line["row"], line["size"], line["batch_size"]) == place]

    def append(self, line: Line) -> None:
        """Write a line at the end of the file, unless it has one of that name, which counts then.

        Behind the last end of a line a part of a record is cut off, and a whole one gets its end.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            lock_file(file.fileno(), self.path, wait=True)
            file.seek(0)
            found = file.read()
            self._take(found.decode(errors="replace"))  # what other processes have appended since
            if line["name"] in self.lines:
                return
            whole, newline, rest = found.rpartition(b"\n")
            if _line(rest.decode(errors="replace")):
                file.write(b"\n")
            else:
                file.truncate(len(whole + newline))
            file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines[line["name"]] = line


def _line(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and line.keys() >= Line.__required_keys__ else None  # type: ignore[return-value]


def ledger_of(name: str) -> Ledger:
    """The ledger of an arena."""
    return Ledger(ARENA_RESULTS / f"{name}.jsonl")
