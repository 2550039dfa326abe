"""Shuffle the training documents of several corpora into one, so that any part of it is a sample of them all.

    python scripts/mix_corpora.py OUT CORPUS [CORPUS ...] [--shards 8] [--seed 0]

A corpus is a folder with C4's shards (en/c4-train.*.json.gz), a file or a glob, as for data.path; OUT becomes such a
folder. The same corpora and seed give the same files, byte for byte. All documents are held in memory.
"""

import argparse
import gzip
import json
import random
import sys
from pathlib import Path

from data.data_errors import DataError
from data.sources import files_source
from data.tokenizer_training import first_texts
from experiments.jobs import positive
from training.processes.failures import report


def write(texts: list[str], folder: Path, shards: int) -> None:
    """Deal the texts to gzipped shards with C4's names."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        name = f"c4-train.{shard:05}-of-{shards:05}.json.gz"
        # Without a time stamp and the file's name in its header, gzip is a function of the text.
        with (folder / name).open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
            for text in texts[shard::shards]:
                file.write((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode())


def main() -> int:
    """Mix the corpora that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("corpora", nargs="+", metavar="CORPUS")
    parser.add_argument("--shards", type=positive, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        texts = list(first_texts(files_source(arguments.corpora)))
        random.Random(arguments.seed).shuffle(texts)
        write(texts, arguments.out / "en", arguments.shards)
    except (DataError, OSError) as error:
        return report(error, None)
    print(f"{len(texts):,} documents, {sum(map(len, texts)):,} characters in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
