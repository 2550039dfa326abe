#!/usr/bin/env bash
# Train the ablations of Table 5, Fig. 5 and Fig. 6 at 130M, each into runs/ablations/<its file's name>. Whole Alice,
# RACS and the last layer's ablation are runs of scripts/table2.sh 130m.
#
#   scripts/ablations.sh [options and key=value lists of scripts/sweep.sh]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
files=$(ls configs/experiment/ablations/*.yaml | paste -sd, -)
exec scripts/sweep.sh runs/ablations "$files" "$@"
