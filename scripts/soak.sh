#!/usr/bin/env bash
# Kill a nano run at random moments, start it again by the same command, and compare its results with those of an
# undisturbed run: every row of metrics except its clocks, and every byte of the final weights. Over and over.
#
#   scripts/soak.sh [MINUTES] [FOLDER]        default: 60 minutes in runs/soak
#
# Ends with the number of runs and kills, and exit code 1 at the first difference (its run folder is kept).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
minutes=${1:-60} folder=${2:-runs/soak}
. scripts/python.sh
settings=(configs/experiment/nano/alice.yaml data=builtin train.steps=150 train.eval_every=30 train.checkpoint_every=7
    train.log_every=1 data.sequence_length=64 data.eval_tokens=5000 optimizer.adam_lr=0.006 optimizer.update_interval=10)

digest() { # of a finished run, without the numbers of its clocks
    "$python" - "$1" <<'PYTHON'
import hashlib, json, sys
from pathlib import Path

run, clocks = Path(sys.argv[1]), ("tokens_per_second", "optimizer_seconds", "data_seconds", "train_seconds")
rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
rows = [{key: value for key, value in row.items() if key not in clocks} for row in rows]
print(len(rows), hashlib.sha256(json.dumps(rows).encode() + (run / "model/model.safetensors").read_bytes()).hexdigest())
PYTHON
}

mkdir -p "$folder"
"$python" train.py "${settings[@]}" run.dir="$folder/undisturbed" > "$folder/undisturbed.log" 2>&1
expected=$(digest "$folder/undisturbed")
echo "undisturbed: $expected"

end=$((SECONDS + minutes * 60)) runs=0 kills=0
while [ "$SECONDS" -lt "$end" ]; do
    rm -rf "$folder/killed"
    here=0
    while [ ! -f "$folder/killed/summary.json" ]; do
        "$python" train.py "${settings[@]}" run.dir="$folder/killed" >> "$folder/killed.log" 2>&1 &
        process=$!
        # From the first imports to well past several checkpoints.
        sleep "$((RANDOM % 25)).$((RANDOM % 10))"
        if kill -9 "$process" 2>/dev/null; then here=$((here + 1)); fi
        code=0
        wait "$process" 2>/dev/null || code=$?
        if [ "$code" != 0 ] && [ "$code" != 137 ]; then
            echo "a run ended by itself with exit code $code, see $folder/killed.log" >&2
            exit 1
        fi
    done
    runs=$((runs + 1)) kills=$((kills + here))
    found=$(digest "$folder/killed")
    echo "run $runs: $here kills, $((SECONDS / 60)) minutes: $found"
    if [ "$found" != "$expected" ]; then
        echo "run $runs differs from the undisturbed one; it is kept in $folder/killed" >&2
        exit 1
    fi
done
echo "$runs runs, $kills kills, no difference"
