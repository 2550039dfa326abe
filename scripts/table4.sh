#!/usr/bin/env bash
# Train the 1B rows of Table 4, each into runs/table4/<its file's name>; the 7B rows are cited there.
#
#   scripts/table4.sh [options and key=value lists of scripts/sweep.sh]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
files=$(ls configs/experiment/table4/*.yaml | paste -sd, -)
exec scripts/sweep.sh runs/table4 "$files" "$@"
