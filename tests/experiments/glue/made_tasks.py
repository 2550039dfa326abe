"""An encoder of 22,000 parameters, its tokenizer, and small made-up tasks in GLUE's columns.

python -m tests.experiments.glue.made_tasks FOLDER
"""

import json
import random
import sys
from pathlib import Path

import tokenizers
import torch
import transformers

WORDS = ("good", "bad", "the", "film", "is", "and", "a", "very", "dull", "plot", "with", "long", "scenes")


def write_all(folder: Path) -> Path:
    """Put the encoder into `folder`/encoder and the tasks into `folder`/data; returns `folder`."""
    write_encoder(folder / "encoder")
    for name in ("sst2", "mrpc", "stsb"):
        write_task(folder / "data", name)
    return folder


def write_encoder(folder: Path) -> Path:
    """A RoBERTa of two layers of width 32 with fixed weights, and a tokenizer of whole words of at most 24 tokens."""
    special = ("<s>", "<pad>", "</s>", "<unk>")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: k for k, word in enumerate((*special, *WORDS))}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=24, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=len(special) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=26,
        initializer_range=0.1,
    )
    transformers.RobertaModel(config).save_pretrained(folder)
    return folder


def write_task(folder: Path, name: str) -> Path:
    """96 training and 48 validation rows of sst2 (which of "good" and "bad" a text has), mrpc (which of them the
    second of two texts has) or stsb (how often a text has "good", 0 to 5), in `folder`/`name`."""
    (folder / name).mkdir(parents=True)
    draw = random.Random(0)
    for split, rows in (("train", 96), ("validation", 48)):
        lines = (json.dumps(_row(name, draw)) + "\n" for _ in range(rows))
        (folder / name / f"{split}.jsonl").write_text("".join(lines))
    return folder


def _row(name: str, draw: random.Random) -> dict[str, object]:
    if name == "stsb":
        count = draw.randint(0, 5)
        return {"sentence1": _text(draw, ["good"] * count), "sentence2": _text(draw, ["bad"]), "label": float(count)}
    first, second = draw.choices(("good", "bad"), k=2)
    if name == "sst2":
        return {"sentence": _text(draw, [first]), "label": int(first == "good")}
    texts = {"sentence1": _text(draw, [first]), "sentence2": _text(draw, [second])}
    return {**texts, "label": int(second == "good")}


def _text(draw: random.Random, words: list[str]) -> str:
    text = [*words, *draw.choices(WORDS[2:], k=7 - len(words))]
    draw.shuffle(text)
    return " ".join(text)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
