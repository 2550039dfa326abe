#!/usr/bin/env bash
# Train every combination of lists of settings: scripts/sweep.sh --help says how.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] && PATH=$PWD/.venv/bin:$PATH # for -l 'accelerate launch ...' too
exec "${PYTHON:-python}" scripts/sweep.py "$@"
