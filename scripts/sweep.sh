#!/usr/bin/env bash
# Train every combination of lists of settings: scripts/sweep.sh --help says how.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}" scripts/sweep.py "$@"
