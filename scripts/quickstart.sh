#!/usr/bin/env bash
# A first run on a machine with Python 3.11 or newer: makes .venv, then trains configs/quickstart.yaml. Arguments go to
# train.py (scripts/quickstart.sh optimizer=adam). The same command again resumes an interrupted run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh requirements.txt

# With one process accelerate's launcher ends at ctrl-C or SIGTERM before its child has saved. So both run in a process
# group of their own (set -m), are signalled together, and are waited for until both are gone.
set -m
group=
interrupted=
stop() { # SIGTERM in both cases: the launcher answers SIGINT with a traceback
    interrupted=$1
    [ -z "$group" ] || kill -TERM -- "-$group"
}
trap 'stop 130' INT
trap 'stop 143' TERM HUP QUIT USR1 USR2 XCPU
.venv/bin/accelerate launch --quiet --num_processes 1 --num_machines 1 --num_cpu_threads_per_process "$(getconf _NPROCESSORS_ONLN)" --mixed_precision no \
    --dynamo_backend no train.py "$@" < /dev/null &
group=$!
[ -z "$interrupted" ] || stop "$interrupted" # the signal came while it started
code=
while kill -0 -- "-$group"; do
    if [ -z "$code" ] && wait "$group"; then code=0; else code=${code:-$?}; fi
    sleep 0.2
done 2> /dev/null
exit "${interrupted:-$code}"
