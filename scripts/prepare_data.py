"""Tokenise any data source once, for runs that read it many times: `data.source=prepared data.path=STORE`.

    python scripts/prepare_data.py STORE [FILE.yaml ...] [key=value ...]     settings as for train.py
    python scripts/prepare_data.py --verify STORE                            read everything, compare SHA-256

    python scripts/prepare_data.py c4_small data=c4 \
        data.path='https://HOST/c4/en/c4-train.{00000..00015}-of-01024.json.gz'

Only `data.source`, `data.path`, `data.eval_path` and `data.tokenizer` matter: order, packing and row length are chosen
when the store is read, and the rows are those that the source itself would give.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configs.reading import SettingsError
from configs.schema import load
from data.data_errors import DataError
from data.prepared import FORMAT, OFFSET, read_manifest, tokenizer_fingerprint, verify
from data.sources import evaluation_source, training_source
from data.tokenizer import Encoder, load_tokenizer

USAGE = "usage: prepare_data.py STORE [FILE.yaml ...] [key=value ...], or prepare_data.py --verify STORE"


class ArrayFile:
    """A file that grows by arrays of one dtype, with its SHA-256."""

    def __init__(self, path: Path, dtype: np.dtype):
        self.path, self.dtype = path, dtype
        self.file, self.sha256, self.bytes = path.open("wb"), hashlib.sha256(), 0

    def append(self, values) -> None:
        data = np.asarray(values, dtype=self.dtype).tobytes()
        self.file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)

    def close(self) -> dict:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {self.path.name: {"bytes": self.bytes, "sha256": self.sha256.hexdigest()}}


def prepare(store: Path, section, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the training and evaluation text of a `data` section to `store`.

    It appears whole or not at all: it is written beside its place, synced and renamed.

    Raises:
        DataError: the folder exists, or the text is at fault.
        SourceUnavailable: the network gave up.
    """
    if store.exists():
        raise DataError(f"{store} exists; remove it, or prepare the data somewhere else")
    sources = {"train": training_source(section), "validation": evaluation_source(section)}
    partial = store.with_name(store.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")
    manifest = {
        "format": FORMAT,
        "dtype": dtype.str,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "settings": {key: getattr(section, key) for key in ("source", "path", "eval_path", "tokenizer")},
        "splits": {},
        "checksums": {},
    }
    for split, source in sources.items():
        manifest["splits"][split], checksums = _write_split(partial, split, source, tokenizer, dtype)
        manifest["checksums"] |= checksums
    tokenizer.save_pretrained(partial / "tokenizer")
    with (partial / "manifest.json").open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(store)


def _write_split(folder: Path, split: str, source, tokenizer, dtype: np.dtype) -> tuple[dict, dict]:
    """One split's manifest entry and checksums."""
    encoder = Encoder(tokenizer, len(tokenizer))  # ids a model has no row for are mapped when rows are made
    ids = ArrayFile(folder / f"{split}.ids", dtype)
    ends = ArrayFile(folder / f"{split}.ends", OFFSET)
    positions = ArrayFile(folder / f"{split}.positions", OFFSET)
    files, tokens = [], 0
    for number, name in enumerate(source.files):
        after: list[int] = []

        def texts(number=number, after=after):
            for position, text in source.read(number, 0):
                after.append(position)
                yield text

        for document in encoder(texts()):
            tokens += len(document)
            ids.append(document)
            ends.append([tokens])
        positions.append(after)
        files.append({"name": Path(name).name, "documents": len(after)})
        logging.info("%s: %s, file %d of %d, %d tokens so far", split, name, number + 1, len(source.files), tokens)
    entry = {"files": files, "tokens": tokens, "fingerprint": source.fingerprint}
    return entry, ids.close() | ends.close() | positions.close()


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if len(arguments) == 2 and arguments[0] == "--verify":
            verify(arguments[1])
            print(f"{arguments[1]}: every file is as it was written")
            return 0
        if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
            raise SettingsError(USAGE)
        section = load(arguments[1:]).config.data
        if section.source == "prepared":
            raise SettingsError("data.source=prepared is what this makes; name the source of the text")
        prepare(Path(arguments[0]), section, load_tokenizer(section))
    except ValueError as error:  # settings and data
        print(error, file=sys.stderr)
        return 2
    except OSError as error:  # disk and network
        print(error, file=sys.stderr)
        return 1
    splits = read_manifest(arguments[0])["splits"]
    print(", ".join(f"{split}: {entry['tokens']} tokens" for split, entry in splits.items()), "in", arguments[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
