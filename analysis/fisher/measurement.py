"""Errors of Fisher structures on the sampled gradients of a trained model."""

import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from analysis.fisher import structures
from analysis.fisher.structures import Fisher, Structure
from configs.reading import argument
from configs.schema import Config, Data, load
from data.loader import TrainingData
from data.tokenizer import check_vocabulary, load_tokenizer
from models.llama import LlamaForCausalLM, build_model
from optimizers import partition

RANKS = (16, 8, 4, 2)  # m / rank; the paper's ranks are m / 4 to m / 2 (its Table 10)
LEADING = 40 / 128  # share of its basis that Alice keeps at a switch, by default
COLUMNS = ("matrix", "m", "n", "structure", "rank", "numbers", "error", "unseen_error", "samples", "length", "seed")


class Sequences(NamedTuple):
    """Token ids and labels of the loss, each [count, length]."""

    ids: Tensor
    labels: Tensor


def measure(run: Path, settings: list[str], samples: int, seed: int) -> Iterator[tuple[object, ...]]:
    """A row of COLUMNS for each matrix and structure of the model in `run`, a run folder or a saved model's folder.

    Structures are fitted to the gradients of `samples` training sequences, and measured on those and on as many others.
    Raises ValueError for settings or a folder that cannot be used.
    """
    config = run_settings(run, settings, seed)
    model = build_model(config.model, dtype=torch.float32, seed=0)
    rows = sequences(config.data, config.model.vocab_size, 2 * samples)
    for name, gradients in matrix_gradients(model, rows):
        scale = gradients.norm(dim=(1, 2), dtype=torch.float64).mean()  # squares of squares must not underflow
        fitted, unseen = (Fisher(half.double() / scale) for half in gradients.split(samples))
        for label, rank, structure in fit_all(fitted, torch.Generator().manual_seed(seed)):
            errors = f"{fitted.error(structure):.6g}", f"{unseen.error(structure):.6g}"
            matrix = name.removesuffix(".weight").removeprefix("model.")
            yield (
                *(matrix, fitted.m, fitted.n, label, rank, structure.numbers),
                *(*errors, samples, rows.ids.shape[1], seed),
            )


def run_settings(run: Path, settings: list[str], seed: int) -> Config:
    """The settings of a run folder, or of a saved model's folder described by `settings`. Raises SettingsError."""
    resolved = run / "config.yaml"
    files, model = ([str(resolved)], run / "model") if resolved.is_file() else ([], run)
    return load([*files, *settings, argument("model.init_from", str(model)), f"data.seed={seed}"]).config


def matrix_gradients(model: LlamaForCausalLM, rows: Sequences) -> Iterator[tuple[str, Tensor]]:
    """Name and gradients [N, m, n] (m <= n) of every attention and MLP matrix, one gradient from each sequence."""
    method = partition.parameter_groups(model, last_layer="adam")[0]["params"]
    for layer, members in groupby(method, key=lambda pair: _layer(pair[0])):
        # A layer at a time: memory holds its gradients of all sequences.
        print(f"layer {layer}", file=sys.stderr, flush=True)
        names, parameters = zip(*members, strict=True)
        gradients = sampled_gradients(model, list(parameters), *rows)
        for name in names:
            yield name, gradients.pop(0)


def _layer(name: str) -> str:
    """The number of a parameter's layer; empty outside the layers."""
    number = re.search(r"\d+", name)
    return number.group() if number else ""


def fit_all(fisher: Fisher, source: torch.Generator) -> Iterator[tuple[str, int | str, Structure]]:
    """(name, rank or "", structure) of every structure; `source` draws Alice's switched columns."""
    for name, fit in structures.WITHOUT_RANK.items():
        yield name, "", fit(fisher)
    for rank in sorted({max(fisher.m // part, 1) for part in RANKS}):
        yield "galore", rank, structures.galore(fisher, rank)
        yield "alice", rank, structures.alice(fisher, rank)
        yield "alice_switched", rank, structures.alice_switched(fisher, rank, round(LEADING * rank), source)


def sequences(section: Data, vocab_size: int, count: int) -> Sequences:
    """The first `count` rows of the training data, in its order. Raises DataError."""
    tokenizer = load_tokenizer(section)
    check_vocabulary(tokenizer, vocab_size)
    rows = TrainingData(section, tokenizer, vocab_size=vocab_size, batch_size=section.streams)
    batches = [next(rows) for _ in range(-(-count // section.streams))]
    rows.close()
    ids = torch.cat([batch.input_ids for batch in batches])
    return Sequences(ids[:count], torch.cat([batch.labels for batch in batches])[:count])


def sampled_gradients(model: nn.Module, weights: list[Tensor], ids: Tensor, labels: Tensor) -> list[Tensor]:
    """The gradient of each sequence's mean loss: for every weight, [N, m, n] float32 with m <= n."""
    sampled = [torch.empty(len(ids), *sorted(weight.shape)) for weight in weights]
    for i in range(len(ids)):
        targets = (labels[i, 1:] != -100).sum()
        loss = model(ids[i : i + 1], labels[i : i + 1]).loss_sum / targets
        for store, gradient in zip(sampled, torch.autograd.grad(loss, weights), strict=True):
            store[i] = gradient if gradient.shape == store[i].shape else gradient.T
    return sampled
