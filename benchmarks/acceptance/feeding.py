"""Whether text is made into rows as fast as the device eats them."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.acceptance.device import SIZES, random_model
from benchmarks.acceptance.items import Item, Measured, Setup, at_most
from benchmarks.machine import seconds
from benchmarks.training import write_documents
from configs.reading import argument
from configs.schema import Data, load
from data.loader import TrainingData
from data.preparation import prepare
from data.tokenizer import load_tokenizer
from models.unpadding import model_inputs

ROWS, STEPS = 256, 12  # of a micro-batch of 60M
WAITED, SLOWER = 0.02, 1.05  # share of a step, and a step beside the data's thread over one without


def feeding(setup: Setup) -> Iterator[Item]:
    """Documents of C4's lengths from files, and from a prepared store, alone and beside training at 60M."""
    with tempfile.TemporaryDirectory() as folder:
        for prepared in (False, True):
            yield Item(
                "prepared" if prepared else "files",
                lambda prepared=prepared: of_source(Path(folder), prepared, setup, ROWS, STEPS),  # type: ignore[misc]
            )


def section(folder: Path, prepared: bool) -> Data:
    """The `data` section of a source in `folder`, one document a row, made when it is first asked for."""
    documents, store = folder / "documents.jsonl", folder / "store"
    if not documents.exists():
        write_documents(documents)
    files = ["data=files", "data.packing=false", "data.eval_tokens=1000", "optimizer=adam"]
    files += [argument(key, str(documents)) for key in ("data.path", "data.eval_path")]
    found = load(files).config.data
    if not prepared:
        return found
    if not store.exists():
        prepare(store, found, load_tokenizer(found))
    return load(
        ["data=prepared", "data.packing=false", argument("data.path", str(store)), "optimizer=adam"]
    ).config.data


def of_source(folder: Path, prepared: bool, setup: Setup, rows: int, steps: int) -> Iterator[Measured]:
    """Targets a second alone, then what training waits, and how much slower it is."""
    name = "prepared" if prepared else "files"
    data = section(folder, prepared)
    model = random_model(SIZES["60m"], setup.device)
    with closing(
        TrainingData(data, load_tokenizer(data), vocab_size=32_000, batch_size=rows, process_index=0, process_count=1)
    ) as source:
        first = source.next_batch(lambda: 0)
        assert first is not None
        started, targets = time.perf_counter(), 0
        for _ in range(steps):
            batch = source.next_batch(lambda: 0)
            assert batch is not None
            targets += int((batch.labels[:, 1:] != -100).sum())
        yield Measured(f"{name}, targets/s alone", targets / (time.perf_counter() - started))
        waited, busy = 0.0, 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            batch = source.next_batch(lambda: 0)
            assert batch is not None
            waited += time.perf_counter() - asked
            busy += seconds(
                lambda: model(**model_inputs(first.input_ids, first.labels, setup.device)).loss_sum.backward()
            )
    alone = sum(
        seconds(lambda: model(**model_inputs(first.input_ids, first.labels, setup.device)).loss_sum.backward())
        for _ in range(steps)
    )
    asked_of = setup.speed and prepared  # of files the README says that they are too slow for 60M
    yield at_most(f"{name}, share of training that waits", waited / (waited + busy), WAITED, asked=asked_of)
    yield at_most(f"{name}, training beside it over training alone", busy / alone, SLOWER, asked=asked_of)
