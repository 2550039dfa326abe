"""Settings, corpora and tokenizers for the data tests."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import remote
from data.data_settings import Data
from data.loader import TrainingData
from data.tokenizer import BUILTIN, load_tokenizer
from tests.servers import Hub, Mirror, use_hub

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


# ---- servers and their files


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def write(path: Path, documents: list[str], field="text") -> Path:
    """Documents in a file of the format that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": list(range(len(documents))), field: documents}), path, row_group_size=30)
        return path
    content = "".join(json.dumps({"id": n, field: text}) + "\n" for n, text in enumerate(documents)).encode()
    path.write_bytes({".gz": gzip.compress, ".zst": zstd}.get(path.suffix, bytes)(content))
    return path


def read(source) -> list[str]:
    """All documents of a source but the empty ones."""
    return [text for file in range(len(source.files)) for _, text in source.read(file, 0) if text]


@pytest.fixture(params=[True, False], ids=["ranges", "no_ranges"])
def mirror(request, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote, "RETRIES", 3)
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(remote, "READ_SECONDS", 3.0)
    write_shards(tmp_path, texts(400), 4)
    with Mirror(tmp_path, request.param) as server:
        yield server


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(remote, "RETRIES", 3)
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(remote, "READ_SECONDS", 3.0)
    with Hub(tmp_path) as server:
        use_hub(server, monkeypatch)
        yield server


def shard(n: int) -> str:
    return f"c4-train.{n:05d}-of-00004.json.gz"


@pytest.fixture
def impatient(monkeypatch):
    """A stall is soon one, for tests that serve stalls: `impatient` comes after the server."""
    monkeypatch.setattr(remote, "READ_SECONDS", 0.3)
