"""Bytes of 8-bit states, counted against a formula for each method, in a plan, and on the page."""

import math

import pytest
import torch

import optimizers
from configs.schema import load
from models.llama import build_model
from optimizers.engine.eight_bit import SMALLEST
from optimizers.functional.quantisation import BLOCK
from scripts import document_states
from training.plan import plan_run


def q(elements):
    """Bytes of a moment of so many elements: one each, and four for every block; below 4096 those of bfloat16."""
    return elements + 4 * math.ceil(elements / BLOCK) if elements >= SMALLEST else 2 * elements


# Bytes of state of a rows x columns matrix whose sides are m <= n, in bfloat16, rank r. Adam-mini's hang on the role of
# the matrix, and are on the page alone. See docs/eight-bit-states.md.
FORMULAS = {
    "adafactor": lambda rows, m, n, r: 4 * (m + n),
    "adam": lambda rows, m, n, r: 2 * q(m * n),
    "adam_8bit": lambda rows, m, n, r: 2 * q(m * n),
    "alice": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n) + 4 * (r * r + n + 1),
    "alice_0": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n) + 4 * (n + 1),
    "alice_soap": lambda rows, m, n, r: 2 * r * (m + n) + 2 * q(r * r) + 4 * (2 * r * r + m + n + 1),
    "apollo": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n) + 4,
    "apollo_mini": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n) + 4,
    "apollo_svd": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n) + 4,
    "dion": lambda rows, m, n, r: 4 * m * n + 2 * m * r,
    "eigen_adam": lambda rows, m, n, r: 2 * q(m * n) + 8 * m * m,
    "fira": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n) + 4,
    "galore": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n),
    "galore_8bit": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n),
    "lamb": lambda rows, m, n, r: 2 * q(m * n),
    "lars": lambda rows, m, n, r: q(m * n),
    "ldadam": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n) + 2 * m * n,
    "lion": lambda rows, m, n, r: q(m * n),
    "muon": lambda rows, m, n, r: q(m * n),
    "natural_galore": lambda rows, m, n, r: 2 * m * r + 2 * q(r * n) + 2 * 20 * r * n + 4 * 20 * 20,
    "normuon": lambda rows, m, n, r: q(m * n) + 4 * rows,
    "octave": lambda rows, m, n, r: q(m * n) + 4 * rows,
    "flip_flop": lambda rows, m, n, r: q(m * n) + 4 * n,
    "racs": lambda rows, m, n, r: 4 * (m + n + 1),
    "racs_muon": lambda rows, m, n, r: q(m * n) + 4 * (m + n),
    "scale": lambda rows, m, n, r: 0,
    "shampoo": lambda rows, m, n, r: 8 * (m * m + n * n),
    "sinkgd": lambda rows, m, n, r: 0,
    "soap": lambda rows, m, n, r: 2 * q(m * n) + 8 * (m * m + n * n),
    "swan": lambda rows, m, n, r: 0,
}


@pytest.fixture(scope="module")
def llama_60m():
    return build_model(load(["model=llama_60m"]).config.model, dtype=torch.bfloat16, seed=0, device="meta")


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_bytes_on_llama_60m_are_the_formula(llama_60m, name):
    """Of the matrices of its blocks; that the plan counts the same is a test of its own."""
    optimizer = optimizers.build(llama_60m, name, lr=0.01, state_bits=8)
    optimizer.allocate_state()
    blocks = [p for key, p in llama_60m.named_parameters() if ".layers." in key and p.ndim == 2]
    rank = optimizer.param_groups[0].get("rank", 1)
    expected = sum(FORMULAS[name](len(p), *sorted(p.shape), min(rank, *p.shape)) for p in blocks)
    counted = sum(v.nbytes for p in blocks for v in optimizer.state[p].values() if isinstance(v, torch.Tensor))
    assert counted == expected


def test_the_plan_counts_bytes_alone_and_sharded():
    settings = ["model=llama_60m", "data=builtin", "optimizer=muon", "train.dtype=bfloat16", "train.parallel=fsdp2"]
    saved = {}
    for processes in (1, 2):
        narrow, wide = (
            plan_run(load([*settings, f"optimizer.state_bits={bits}"]).config, processes=processes) for bits in (8, 32)
        )
        saved[processes] = wide["optimizer_state_bytes"] - narrow["optimizer_state_bytes"]
    assert saved[1] == sum(2 * n - q(n) for n in (512 * 512,) * 32 + (512 * 1376,) * 24)
    assert saved[2] == saved[1] / 2


def test_the_table_of_the_page_is_what_is_counted():
    assert document_states.TABLE.findall(document_states.PAGE.read_text()) == [document_states.table()]
