"""The `data` section of the settings. Reading it imports no library that opens data."""

from dataclasses import dataclass
from typing import Literal

from omegaconf import MISSING

from configs.setting import setting


@dataclass
class Data:
    source: Literal["c4", "files", "builtin", "prepared"] = setting(MISSING, "where the text comes from")
    path: str | None = setting(None, "training text: file, glob or C4-shaped folder; null for c4: the hub")
    eval_path: str | None = setting(None, "evaluation text, in the same forms")
    tokenizer: str | None = setting(
        None, "hub name or folder; null: t5-base for c4, the store's own for prepared, otherwise that of builtin"
    )
    packing: bool = setting(MISSING, "true: documents joined and cut; false: one document a row, truncated or padded")
    sequence_length: int = setting(256, "positions a row", least=2)
    streams: int = setting(8, "sub-streams of the source; the number of processes must divide it", least=1)
    seed: int = setting(42, "seed of the order of the documents", least=0)
    shuffle_buffer: int = setting(1000, "documents that a stream shuffles among themselves", least=1)
    eval_tokens: int = setting(MISSING, "targets of one evaluation", least=1)
    repeat: bool = setting(True, "start over when the text ends; false: its end is an error")
    prefetch: int = setting(4, "batches read ahead", least=1)
