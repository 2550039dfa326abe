"""Settings, corpora and tokenizers for the data tests."""

import gzip
import json
import random
from typing import Any

import pytest

from data.data_settings import Data
from data.loader import TrainingData
from data.tokenizer import BUILTIN, load_tokenizer

VOCABULARY = 4096


def make_section(**changes: Any) -> Data:
    """A `data` section: small rows, four streams."""
    settings = {
        "source": "files",
        "packing": True,
        "sequence_length": 16,
        "streams": 4,
        "shuffle_buffer": 5,
        "eval_tokens": 100,
        "prefetch": 2,
    }
    return Data(**settings | changes)


def texts(count: int, start: int = 0) -> list[str]:
    """`count` different documents of 3 to 60 words; number n starts with "document<n>:"."""
    words = ["union", "the", "of", "people", "peace", "commerce", "treasury", "and", "great", "war", "."]
    made = []
    for n in range(start, start + count):
        pick = random.Random(n)
        made.append(f"document{n}: " + " ".join(pick.choices(words, k=pick.randint(3, 60))))
    return made


def write_shards(folder, documents: list[str], files: int, pattern="c4-train.{:05d}-of-{:05d}.json.gz") -> list:
    """Deal documents to C4-shaped gzip shards under `folder`/en."""
    (folder / "en").mkdir(parents=True, exist_ok=True)
    paths = []
    for n in range(files):
        path = folder / "en" / pattern.format(n, files)
        lines = (json.dumps({"text": text, "url": "u", "timestamp": "t"}) for text in documents[n::files])
        path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))
        paths.append(path)
    return paths


def steps(section, tokenizer, count: int, *, batch_size=8, process_count=1, states=None, mended=False) -> list[tuple]:
    """`count` steps as (ids [batch_size, L], labels, states of all streams), put together from all processes."""
    parts = []
    for process in range(process_count):
        data = TrainingData(
            section,
            tokenizer,
            vocab_size=VOCABULARY,
            batch_size=batch_size,
            process_index=process,
            process_count=process_count,
            stream_states=states,
            mended=mended,
        )
        try:
            parts.append([next(data) for _ in range(count)])
        finally:
            data.close()
    made = []
    for step in range(count):
        batches = [part[step] for part in parts]
        ids = [batches[k % process_count].input_ids[k // process_count].tolist() for k in range(batch_size)]
        labels = [batches[k % process_count].labels[k // process_count].tolist() for k in range(batch_size)]
        made.append((ids, labels, {key: value for batch in batches for key, value in batch.stream_states.items()}))
    return made


def documents_of(rows: list[list[int]], tokenizer) -> list[str]:
    """The texts in packed rows of one stream, in order; the last one, which is not complete, is left out."""
    ids = [i for row in rows for i in row]
    found, document = [], []
    for i in ids:
        if i == tokenizer.eos_token_id:
            found.append(tokenizer.decode(document))
            document = []
        else:
            document.append(i)
    return found


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(make_section(tokenizer=str(BUILTIN)))
