"""An arena of three rows whose runs are made on paper."""

import math

from analysis.arena.entries import due
from analysis.arena.spec import Cell
from analysis.arena.standings import standings

CELL = Cell("llama_nano", 8)
SPEC = """
title: small
batch_sizes: [8]
tokens: 40960
ladder: [20480, 40960, 81920]
tuning: {tokens: 20480, runs: 4, noise: 0.01}
against: [adam]
rows:
  adam: {lr: 0.004, adam_lr: 0.03, seeds: 2, ladder: true}
  racs: {lr: 0.02, adam_lr: 0.03, own: {beta: [0.9, 0.95]}, seeds: 2, ladder: true}
  plain_racs: {file: nano/ablations/racs_no_ema.yaml, rates_of: racs}
"""
AGAIN = """
title: again
batch_sizes: [8]
tokens: 40960
tuned_in: small
published: false
first_seed: 2
against: [adam]
rows:
  adam: {seeds: 2}
  racs: {seeds: 3}
  like_racs: {file: nano/ablations/racs_no_ema.yaml, rates_of: racs}
"""


def line(entry, loss, state=100, steps=10):
    rows = []
    for step in range(1, steps + 1) if loss else ():
        shared = {"kind": "eval", "step": step, "tokens": step * 2048, "train_seconds": 2.0 * step}
        rows.append(shared | {"loss": loss + 1 - step / steps})
    return {
        "name": entry.name, "row": entry.row, "size": entry.cell.size, "batch_size": entry.cell.batch_size,
        "steps": steps, "tokens": entry.tokens, "point": entry.point, "seed": entry.seed, "loss": loss,
        "summary": {"optimizer_state_bytes": state, "train_seconds": 2.0 * steps, "seed": entry.seed,
                    "final_perplexity": math.exp(loss)} if loss else {},
        "evaluations": rows,
    }  # fmt: skip


def made(spec, ledger, loss, stages=("tuning", "final", "ladder", "published")):
    """Run every stage on paper; returns the number of runs of each."""
    counts = {}
    for stage in stages:
        counts[stage] = 0
        while entries := due(spec, ledger, list(spec.rows), stage):
            counts[stage] += len(entries)
            for entry in entries:
                ledger.append(line(entry, loss(entry), state=200 if entry.row == "adam" else 100))
    return counts


def loss_of(entry):
    """Adam's follows 2 D^-0.3 + 3; RACS is as good with half the data."""
    tokens = entry.tokens * (1 if entry.row == "adam" else 2) / 20480
    off = abs(math.log2(entry.point["lr"] / 0.004 if entry.row == "adam" else entry.point["lr"] / 0.02))
    return 2 * tokens**-0.3 + 3 + 0.05 * off + 0.001 * entry.seed


def standing(spec, ledger):
    """The standings as label -> column -> cell."""
    table = standings(spec, ledger, CELL)
    return {cells[0]: dict(zip(table.columns, cells, strict=True)) for cells in table.rows}
