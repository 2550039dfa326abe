#!/usr/bin/env bash
# Make every table, figure and the report page of results/ again from the committed records: the same bytes.
#
#   scripts/results.sh [RUNS ...]     RUNS: folders of run folders, as runs/table2, to take new records from first
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/python.sh
"$python" scripts/collect_results.py ${1:+--runs "$@"}
"$python" scripts/plot_results.py
