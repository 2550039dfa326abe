#!/usr/bin/env bash
# Train every optimizer on the builtin text with the same 300 steps, one after the other or several at a time, and
# write the table to results/builtin.
#
#   scripts/compare.sh [JOBS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/python.sh
"$python" scripts/compare.py -j "${1:-1}"
"$python" scripts/collect_results.py results/builtin --runs runs/builtin --title \
    "Every optimizer at one learning rate: llama_nano, 300 steps of 1,024 tokens of the builtin text (scripts/compare.sh)"
