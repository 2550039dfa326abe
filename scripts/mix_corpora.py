"""Shuffle the training documents of several corpora into one, so that any part of it is a sample of them all.

    python scripts/mix_corpora.py OUT CORPUS [CORPUS ...] [--shards 8] [--seed 0]

A corpus is a folder with C4's shards (en/c4-train.*.json.gz), a file or a glob, as for data.path; OUT becomes such a
folder, once all its shards are written. The same corpora and seed give the same files, byte for byte. All documents are
held in memory.
"""

import argparse
import gzip
import json
import random
import shutil
import sys
from pathlib import Path

from data.data_errors import DataError
from data.sources import files_source
from data.tokenizer_training import first_texts
from experiments.jobs import positive
from training.processes.failures import report


def names_of_shards(folder: Path, shards: int) -> list[str]:
    """C4's names of so many shards. Raises DataError if `folder` has shards of other names."""
    names = [f"c4-train.{shard:05}-of-{shards:05}.json.gz" for shard in range(shards)]
    if others := sorted(path.name for path in folder.glob("c4-train.*") if path.name not in names):
        raise DataError(f"{folder} has {others[0]}, which would be read too; remove it, or choose another OUT")
    return names


def write(texts: list[str], folder: Path, names: list[str]) -> None:
    """Deal the texts to gzipped shards in `folder`. They are moved there when all are written."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for shard, name in enumerate(names):
        # Without a time stamp and the file's name in its header, gzip is a function of the text.
        with (partial / name).open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
            for text in texts[shard :: len(names)]:
                line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
                file.write(line.encode("utf-8", "backslashreplace"))  # half a surrogate pair becomes JSON's \udXXX
    folder.mkdir(exist_ok=True)
    for name in names:
        (partial / name).replace(folder / name)
    partial.rmdir()


def main() -> int:
    """Mix the corpora that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("corpora", nargs="+", metavar="CORPUS")
    parser.add_argument("--shards", type=positive, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text-field", default="text", metavar="NAME", help="as data.text_field")
    arguments = parser.parse_args()
    folder = arguments.out / "en"
    try:
        names = names_of_shards(folder, arguments.shards)
        texts = list(first_texts(files_source(arguments.corpora, arguments.text_field)))
        if len(texts) < arguments.shards:
            raise DataError(
                f"--shards {arguments.shards}, but there are {len(texts)} documents; lower it to that at most"
            )
        random.Random(arguments.seed).shuffle(texts)
        write(texts, folder, names)
    except (DataError, OSError) as error:
        return report(error, None)
    print(f"{len(texts):,} documents, {sum(map(len, texts)):,} characters in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
