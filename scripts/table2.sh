#!/usr/bin/env bash
# Train the methods of Table 2 at one size, each into runs/table2/SIZE/<its file's name>.
#
#   scripts/table2.sh 60m|130m|350m|1_3b [options and key=value lists of scripts/sweep.sh]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in
60m | 130m | 350m | 1_3b) ;;
*)
    echo "table2.sh: error: the size must be one of 60m, 130m, 350m, 1_3b, got '${1:-}'" >&2
    exit 2
    ;;
esac
files=$(ls configs/experiment/table2/"$1"/*.yaml | paste -sd, -)
exec scripts/sweep.sh "runs/table2/$1" "$files" "${@:2}"
