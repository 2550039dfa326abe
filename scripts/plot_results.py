"""Figures and report from the paper's numbers and the records of our runs.

    python scripts/plot_results.py

Writes results/figures/*.svg, results/nano/figures/*.svg, results/arena/figures/*.svg and results/report.html; equal
records give equal bytes.
Where a panel shows both, the paper's curves are thin, light and broken, ours strong: the mean over seeds, in a band
from the lowest to the highest. A figure of ours alone is not drawn without records.
"""

import argparse
import sys

from analysis import records
from analysis.arena.final_curves import arena_curves
from analysis.figures.all_figures import arena_figures, full_size_figures, nano_figures
from analysis.figures.canvas import write_svgs
from analysis.paths import ARENA_RESULTS, FULL, NANO, RESULTS
from analysis.report.page import page
from analysis.tables.all_tables import all_tables
from analysis.tables.nano_size import step_seconds
from configs.schema import SettingsError
from training.processes.failures import report


def draw() -> None:
    """Draw every figure and write the page. Raises SettingsError for a damaged record."""
    full, nano = (list(records.read(folder / "runs").values()) for folder in (FULL, NANO))
    write_svgs(full_size_figures(full), RESULTS / "figures")
    write_svgs(nano_figures(nano, step_seconds()), NANO / "figures")
    fronts = write_svgs(arena_figures(), ARENA_RESULTS / "figures")
    for ledger in ARENA_RESULTS.glob("*.jsonl"):  # of an arena that has no runs any more
        front = ARENA_RESULTS / "figures" / f"{ledger.stem}.svg"
        if front not in fronts:
            front.unlink(missing_ok=True)
    pictures = {front.stem: front.read_text() for front in fronts}
    findings = (RESULTS / "findings.md").read_text()
    (RESULTS / "report.html").write_text(page(full, nano, all_tables(), arena_curves(), pictures, findings))


def main() -> int:
    """Draw; returns the exit code."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        draw()
    except (SettingsError, OSError) as error:
        return report(error, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
