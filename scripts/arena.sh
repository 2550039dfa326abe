#!/usr/bin/env bash
# Make the runs of an arena: scripts/arena.sh --help says how.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] && PATH=$PWD/.venv/bin:$PATH # for -l 'accelerate launch ...' too
exec "${PYTHON:-python}" scripts/arena.py "$@"
