"""Do an arena's records have the settings that its spec has now?"""

from collections.abc import Iterable

from analysis.arena.entries import Entry, arguments
from analysis.arena.ledger import Ledger, Line
from analysis.arena.spec import Cell, Spec, file_of
from configs.identity import config_hash
from configs.schema import SettingsError, load


def changed(spec: Spec, lines: Iterable[Line]) -> bool:
    """Whether the first of a row's records has another config hash than its run would have now. One is looked at: the
    others differ from it in their points and seeds."""
    line = next((line for line in lines if line["summary"].get("config_hash")), None)
    if line is None:
        return False
    cell = Cell(line["size"], line["batch_size"])
    entry = Entry(line["row"], cell, line["tokens"], line["point"], line["seed"])
    now = config_hash(load(arguments(spec, entry)).config)
    return bool(now != line["summary"]["config_hash"])


def check_unchanged(spec: Spec, ledger: Ledger, entries: Iterable[Entry]) -> None:
    """Raises SettingsError where runs are due of a row whose records were made with other settings."""
    for row, cell in dict.fromkeys((entry.row, entry.cell) for entry in entries):
        place = row, cell.size, cell.batch_size
        lines = [line for line in ledger.lines.values() if (line["row"], line["size"], line["batch_size"]) == place]
        if changed(spec, (line for line in lines if not line["name"].endswith("_published"))):
            raise SettingsError(
                f"rows.{row}: its records were made with other settings than {file_of(spec, row)} and the spec have "
                "now; give the row another name, so that its runs are not mixed"
            )
