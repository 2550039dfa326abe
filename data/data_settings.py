"""The `data` section of the settings. Reading it imports no library that opens data."""

import sys
from dataclasses import dataclass
from typing import Literal

from omegaconf import MISSING

from configs.setting import setting


@dataclass
class Data:
    source: Literal["c4", "hub", "files", "builtin", "prepared"] = setting(MISSING, "where the text comes from")
    path: str | list[str] | None = setting(  # noqa: RUF009  its default is immutable
        None,
        "training text: file, glob, C4-shaped folder, URL or a list of these; for hub: OWNER/NAME, or "
        "OWNER/NAME@REVISION; null for c4: the hub",
    )
    eval_path: str | list[str] | None = setting(  # noqa: RUF009
        None, "evaluation text, in the same forms (a name on the hub for c4 alone)"
    )
    config: str | None = setting(None, "hub: the dataset's configuration; null: its only or default one")
    split: str | None = setting(None, "hub: the split to train on; null: train")
    eval_split: str | None = setting(None, "hub: the split to evaluate on; null: validation, if there is one")
    held_out: float | None = setting(
        None,
        "share of the training text's documents that are evaluated on and never trained on, chosen by a hash of their "
        "text; null: none, but 0.01 of a hub dataset that has nothing else to evaluate on",
        above=0,
        most=0.5,
    )
    text_field: str = setting("text", "field (JSON) or column (Parquet) that holds a document's text")
    tokenizer: str | None = setting(
        None, "hub name or folder; null: t5-base for c4, the store's own for prepared, otherwise that of builtin"
    )
    special_tokens_in_text: Literal["token", "text"] = setting(
        "token", "a special token spelled in a document (</s>) becomes token: its id; text: ids of its characters"
    )
    packing: bool = setting(MISSING, "true: documents joined and cut; false: one document a row, truncated or padded")
    sequence_length: int = setting(256, "positions a row", least=2)
    streams: int = setting(8, "sub-streams of the source; the number of processes must divide it", least=1)
    seed: int = setting(42, "seed of the order of the documents", least=0)
    shuffle_buffer: int = setting(1000, "documents that a stream shuffles among themselves", least=1, most=sys.maxsize)
    eval_tokens: int = setting(MISSING, "targets of one evaluation", least=1)
    repeat: bool = setting(True, "start over when the text ends; false: its end is an error")
    prefetch: int = setting(4, "batches read ahead", least=1)
