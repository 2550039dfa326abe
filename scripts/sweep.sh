#!/usr/bin/env bash
# Train every combination of lists of settings, several at a time; finished runs are skipped, cut ones go on.
#
#   scripts/sweep.sh [-j JOBS] [-g DEVICES] [-n] OUT FILE.yaml[,FILE.yaml...] [key=value[,value...] ...]
#
#   -j JOBS     runs at a time (default: one for each device of -g, else 1)
#   -g DEVICES  CUDA devices to deal the runs to, as 0,1,2
#   -n          print the commands instead of running them
#
# The run of a combination is in OUT/<file's name>[_<key>=<value>...], its output beside it in <the same>.log. A value
# in brackets is one value: optimizer.betas=[0.9,0.99]. PYTHON names the interpreter (default: .venv's, else python).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
usage() { sed -n '4,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }

jobs= devices= dry=
while getopts "j:g:n" option; do
    case $option in
        j) jobs=$OPTARG ;;
        g) devices=$OPTARG ;;
        n) dry=1 ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || usage
out=$1
IFS=, read -ra files <<< "$2"
shift 2
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}

# Each combination is a line: the run's name, a tab, and its arguments.
combinations=()
for file in "${files[@]}"; do
    [ -f "$file" ] || { echo "sweep.sh: settings file $file does not exist" >&2; exit 2; }
    combinations+=("$(basename "$file" .yaml)"$'\t'"$file")
done
for setting in "$@"; do
    [[ $setting == *=* ]] || { echo "sweep.sh: argument '$setting' is not of the form key=value" >&2; exit 2; }
    key=${setting%%=*} list=${setting#*=}
    values=("$list")
    [[ $list == \[* ]] || IFS=, read -ra values <<< "$list"
    grown=()
    for combination in "${combinations[@]}"; do
        for value in "${values[@]}"; do
            name=${combination%%$'\t'*}
            # A setting that does not vary stays out of the names.
            [ ${#values[@]} -eq 1 ] || name+="_${key#optimizer.}=${value//\//-}"
            grown+=("$name"$'\t'"${combination#*$'\t'} $key=$value")
        done
    done
    combinations=("${grown[@]}")
done

IFS=, read -ra device_list <<< "$devices"
jobs=${jobs:-$((${#device_list[@]} > 0 ? ${#device_list[@]} : 1))}
[ -n "$dry" ] || mkdir -p "$out"

# Job k of the list runs on device k mod the number of devices, so at most JOBS / devices share one.
train() {
    trap '' INT TERM
    local index=$1 name=$2 arguments=$3
    local command="$python train.py $arguments run.dir=$out/$name"
    [ ${#device_list[@]} -eq 0 ] || command="CUDA_VISIBLE_DEVICES=${device_list[index % ${#device_list[@]}]} $command"
    if [ -n "$dry" ]; then
        echo "$command"
    elif eval "$command" > "$out/$name.log" 2>&1 < /dev/null; then
        echo "$name: $(tail -n 1 "$out/$name.log")"
    else
        echo "$name: FAILED, exit code $?: $(tail -n 1 "$out/$name.log")"
        return 1
    fi
}

failed=0 index=0
# Interrupted, the runs save and end; the shells around them wait for that.
trap 'trap "" TERM; kill -TERM 0; wait; exit 130' INT TERM
for combination in "${combinations[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || failed=1; done
    train "$index" "${combination%%$'\t'*}" "${combination#*$'\t'}" &
    index=$((index + 1))
done
while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n || failed=1; done
exit "$failed"
