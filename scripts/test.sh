#!/usr/bin/env bash
# All checks, in the .venv that this makes if need be: lint, format, types, tests.
#
#   scripts/test.sh [ARGUMENTS of pytest]         every test
#   scripts/test.sh fast [ARGUMENTS of pytest]    leaves out tests marked distributed, faults, slow or gpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh requirements-test.txt

lane=()
if [ "${1:-}" = fast ]; then
    shift
    # One test a core, each on one thread.
    export OMP_NUM_THREADS=1
    lane=(-n "$(getconf _NPROCESSORS_ONLN)" --maxprocesses 8 -m "not (distributed or faults or slow or gpu)")
fi

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest ${lane[@]+"${lane[@]}"} "$@"
