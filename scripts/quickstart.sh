#!/usr/bin/env bash
# A first run on a machine with Python 3.11 or newer: makes .venv, then trains configs/quickstart.yaml in about two
# minutes. Arguments go to train.py (scripts/quickstart.sh optimizer=adam). The same command again resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh requirements.txt

# accelerate's launcher dies at ctrl-C and at SIGTERM before its child has saved. In a process group of their own
# (set -m) both are signalled together, and waited for until both are gone.
set -m
.venv/bin/accelerate launch --quiet --num_processes 1 --num_machines 1 --num_cpu_threads_per_process "$(getconf _NPROCESSORS_ONLN)" --mixed_precision no \
    --dynamo_backend no train.py "$@" < /dev/null &
group=$!
interrupted=
# The launcher would answer SIGINT with a traceback.
trap 'interrupted=130; kill -TERM -- "-$group"' INT
trap 'interrupted=143; kill -TERM -- "-$group"' TERM HUP
code=
while kill -0 -- "-$group"; do
    if [ -z "$code" ] && wait "$group"; then code=0; else code=${code:-$?}; fi
    sleep 0.2
done 2> /dev/null
exit "${interrupted:-$code}"
