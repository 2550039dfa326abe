"""Counts forward and backward of small batches for the plan; prints a JSON object for each case.

python -m tests.phantom.passes
"""

from tests.phantom import device  # before torch

import json  # isort: skip

import torch

from configs.schema import load
from models.llama import build_model
from models.unpadding import unpadded_indices
from tests.phantom.count import Count

ROWS, LENGTH = 8, 256
COMMON = ("optimizer=adam", "data=builtin", "train.steps=10", "train.compile=false", f"train.batch_size={ROWS}")
CASES = {
    "plain": ("model=llama_60m", "train.dtype=bfloat16", "data.packing=true"),
    "padded": ("model=llama_60m", "train.dtype=bfloat16", "data.packing=false"),
    "checkpointing": ("model=llama_60m", "train.dtype=bfloat16", "train.activation_checkpointing=true"),
    "float32": ("model=llama_60m", "train.dtype=float32"),
    "grouped": ("model=llama_60m", "model.num_key_value_heads=2", "train.dtype=float32"),
    "few": ("model=llama_350m", "model.num_hidden_layers=4", "train.dtype=bfloat16"),
}


def count(case: str) -> dict:
    settings = [*COMMON, *CASES[case]]
    config = load(settings).config
    model = build_model(
        config.model,
        dtype=getattr(torch, config.train.dtype),
        seed=0,
        activation_checkpointing=config.train.activation_checkpointing,
        device="meta",
    )
    ids = torch.randint(1000, (ROWS, LENGTH))
    labels = ids.clone()
    if not config.data.packing:
        labels[:, LENGTH * 3 // 4 :] = -100
    indices = unpadded_indices(labels)
    with device.phantom():
        device.to_phantom(model)
        inputs = {"input_ids": ids.cuda(), "labels": labels.cuda()}
        inputs |= {} if indices is None else {"indices": indices.cuda()}
        with Count() as seen:
            model(**inputs).loss_sum.backward()
    vocabulary = config.model.vocab_size
    between = [kernel for kernel in seen.kernels if not kernel.flops and vocabulary not in kernel.shape]
    return {
        "case": case,
        "settings": settings,
        "peak": seen.peak,
        "passes_bytes": sum(kernel.bytes for kernel in between),
        "positions": ids.numel() if indices is None else len(indices),
    }


if __name__ == "__main__":
    for case in CASES:
        print(json.dumps(count(case)), flush=True)
