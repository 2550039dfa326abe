#!/usr/bin/env bash
# Adam, RACS and Alice on the builtin text, each at three learning rates, and the table in results/builtin_tuned.
#
#   scripts/tune.sh [JOBS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
jobs=${1:-1} folder=configs/experiment/nano/builtin
scripts/sweep.sh -j "$jobs" runs/builtin_tuned $folder/adam.yaml optimizer.lr=0.00075,0.0015,0.003
scripts/sweep.sh -j "$jobs" runs/builtin_tuned $folder/racs.yaml optimizer.lr=0.01,0.02,0.04
scripts/sweep.sh -j "$jobs" runs/builtin_tuned $folder/alice.yaml optimizer.lr=0.01,0.02,0.04
"$python" scripts/collect_results.py results/builtin_tuned --runs runs/builtin_tuned --title \
    "Adam, RACS and Alice at their best of three learning rates: llama_nano, 300 steps of 1,024 tokens of the builtin text (scripts/tune.sh)"
