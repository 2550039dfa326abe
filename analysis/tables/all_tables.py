"""Every table of results/full, results/nano and results/arena."""

from analysis import records
from analysis.arena.tables import arena_tables
from analysis.paths import FULL
from analysis.rows import by_row
from analysis.tables.cost import cost
from analysis.tables.full_size import table_2, table_3, table_4
from analysis.tables.nano_size import nano_tables
from analysis.tables.table import Table
from analysis.tables.table_5 import table_5


def all_tables() -> list[Table]:
    """Every table, from the committed records and the published numbers."""
    runs = by_row(records.read(FULL / "runs").values())
    return [table_2(runs), table_3(), table_4(runs), table_5(runs), cost(), *nano_tables(), *arena_tables()]
