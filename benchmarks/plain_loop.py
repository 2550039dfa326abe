"""A plain training loop to compare with: transformers' LlamaForCausalLM, torch's fused AdamW, padded documents.

    python -m benchmarks.plain_loop DOCUMENTS.jsonl [key=value ...]

The settings are those of train.py; prints a `LoopRun` as JSON. benchmarks/training.py starts it in
a process of its own.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

from configs.schema import Config, load
from data.tokenizer import load_tokenizer
from models.llama import llama_config
from training.memory import peak_memory_bytes


@dataclass(frozen=True)
class LoopRun:
    """Measurements of one training run."""

    seconds: list[float]  # of each step
    data_seconds: list[float]  # of each step's waits for data
    tokens: int  # in all, padding left out
    peak_bytes: int  # of the process


def train_plainly(config: Config, documents: Path) -> LoopRun:
    """Train on the documents, one a row. Sets the process's number of threads."""
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _model(config, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr, weight_decay=0.0, fused=True)
    micro = config.train.micro_batch_size or config.train.batch_size
    accumulation = config.train.batch_size // micro
    batches = plain_batches(documents, config, micro)
    seconds, data_seconds, tokens = [], [], 0
    for _ in range(config.train.steps):
        started, waited = time.perf_counter(), 0.0
        for _ in range(accumulation):
            asked = time.perf_counter()
            batch = {key: value.to(device) for key, value in next(batches).items()}
            waited += time.perf_counter() - asked
            labels = batch["input_ids"].clone()
            labels[batch["attention_mask"] == 0] = -100
            tokens += int((labels[:, 1:] != -100).sum().item())
            loss = model(**batch, labels=labels).loss / accumulation
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # logged at every step
        seconds.append(time.perf_counter() - started)
        data_seconds.append(waited)
    return LoopRun(seconds, data_seconds, tokens, peak_memory_bytes(device))


def _model(config: Config, device: torch.device) -> transformers.LlamaForCausalLM:
    model = transformers.LlamaForCausalLM(llama_config(config.model))
    model.set_attn_implementation("sdpa")  # transformers' default, not this repository's
    model.to(device=device, dtype=getattr(torch, config.train.dtype))  # type: ignore[call-arg]  # wrapped by transformers
    model.train()
    if config.train.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def plain_batches(documents: Path, config: Config, rows: int) -> Iterator[dict[str, Tensor]]:
    """Endless padded batches [rows, length], each document tokenised alone when it is needed."""
    tokenizer = load_tokenizer(config.data)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    while True:
        with documents.open() as file:
            while lines := list(itertools.islice(file, rows)):
                encoded = [
                    tokenizer(
                        json.loads(line)["text"],
                        max_length=config.data.sequence_length,
                        truncation=True,
                        padding="max_length",
                        return_tensors="pt",
                    )
                    for line in lines
                ]
                yield {key: torch.cat([one[key] for one in encoded]) for key in ("input_ids", "attention_mask")}


if __name__ == "__main__":
    documents, *settings = sys.argv[1:]
    print(json.dumps(asdict(train_plainly(load(settings).config, Path(documents)))))
