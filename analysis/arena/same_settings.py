"""Do an arena's records have the settings that its spec has now?"""

from collections.abc import Iterable

from analysis.arena.entries import Entry, arguments, recipe
from analysis.arena.ledger import Ledger, Line
from analysis.arena.spec import Cell, Spec, file_of
from configs.identity import config_hash
from configs.schema import SettingsError, load
from training.run.provenance import changed_method


def changed(spec: Spec, lines: Iterable[Line]) -> bool:
    """Whether the first of a row's records has another config hash than its run would have now, or any is of another
    content of `optimizer.file`. One hash is looked at: the others differ from it in their points and seeds."""
    recorded = [line for line in lines if line["summary"].get("config_hash")]
    if not recorded:
        return False
    line = recorded[0]
    cell = Cell(line["size"], line["batch_size"])
    entry = Entry(line["row"], cell, line["tokens"], line["point"], line["seed"])
    try:
        config = load(arguments(spec, entry)).config
    except SettingsError:  # the method has lost an option, or a bound of one has moved
        return True
    edited = any(changed_method(each["summary"], config.optimizer) for each in recorded)
    return edited or config_hash(config) != line["summary"]["config_hash"]


def check_unchanged(spec: Spec, ledger: Ledger, row: str, cell: Cell) -> None:
    """Raises SettingsError if the records of a row in a cell were made with other settings."""
    by_its_file = recipe(spec, row, cell).name
    if changed(spec, (line for line in ledger.of(row, cell) if line["name"] != by_its_file)):
        raise SettingsError(
            f"rows.{row}: its records were made with other settings than {file_of(spec, row)} and the spec have "
            "now; give the row another name, so that its runs are not mixed"
        )
