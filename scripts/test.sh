#!/usr/bin/env bash
# All checks, in the .venv that this makes if need be: lint, format, types, tests.
#
#   scripts/test.sh                               every test: first the fast ones, then the others one by one
#   scripts/test.sh fast [ARGUMENTS of pytest]    leaves out tests marked distributed, faults, slow or gpu
#   scripts/test.sh ARGUMENTS of pytest           every test that these choose
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh requirements-test.txt
unset PYTHONDONTWRITEBYTECODE # tests start hundreds of processes: compile for all of them once

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy

marked="distributed or faults or slow or gpu"
fast() { # one test a core, each on one thread
    OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n "$(getconf _NPROCESSORS_ONLN)" --maxprocesses 8 -m "not ($marked)" "$@"
}

case "${1:-}" in
    fast)
        shift
        fast "$@"
        ;;
    "")
        failed=0
        fast || failed=$?
        .venv/bin/python -m pytest -m "$marked" || failed=$?
        exit $failed
        ;;
    *) exec .venv/bin/python -m pytest "$@" ;;
esac
