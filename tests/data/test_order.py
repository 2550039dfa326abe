"""The order of rows: the same on any number of processes, every document once an epoch, resumed exactly."""

import gzip
import json
import logging
import threading
from collections import Counter

import pytest
import torch

from data import loader
from data.data_errors import DataError
from data.loader import TrainingData
from data.tokenizer import BUILTIN, load_tokenizer
from tests.data.conftest import VOCABULARY, documents_of, make_section, steps, texts, write_shards


@pytest.fixture(params=[8, 6, 1], ids=["more_files", "uneven_files", "one_file"])
def section(request, tmp_path):
    write_shards(tmp_path, texts(60), request.param)
    return make_section(path=str(tmp_path))


@pytest.mark.parametrize("packing", [True, False])
def test_rows_do_not_depend_on_the_number_of_processes(section, tokenizer, packing):
    section.packing = packing
    one, two, four = (steps(section, tokenizer, 12, process_count=count) for count in (1, 2, 4))
    assert one == two == four


def test_every_stream_reads_its_documents_once_an_epoch(section, tokenizer):
    """All streams together read the whole text once in the first epoch, and once more in the second."""
    made = steps(section, tokenizer, 90)
    epochs = {}
    for stream in range(section.streams):
        rows = [row for ids, _, _ in made for row in ids[stream :: section.streams]]
        seen = documents_of(rows, tokenizer)
        share = len(set(seen))
        assert len(seen) >= 2 * share, "the run is too short for two epochs"
        epochs[stream] = seen[:share], seen[share : 2 * share]
    for epoch in (0, 1):
        assert Counter(text for stream in epochs.values() for text in stream[epoch]) == Counter(texts(60))
    assert any(first != second for first, second in epochs.values()), "the second epoch is in the order of the first"


def test_seed_and_buffer_change_the_order(section, tokenizer):
    reference = steps(section, tokenizer, 4)
    section.seed = 43
    assert steps(section, tokenizer, 4) != reference
    section.seed, section.shuffle_buffer = 42, 1
    assert steps(section, tokenizer, 4) != reference


@pytest.mark.parametrize("packing", [True, False])
def test_resume_continues_with_the_next_row(section, tokenizer, packing):
    """From the state of any step as JSON, across blocks, files and epochs, on one process or two."""
    section.packing = packing
    whole = steps(section, tokenizer, 48)
    assert whole[-1][2]["0"]["epoch"] > 0
    for step in range(0, 45, 4):
        states = json.loads(json.dumps(whole[step][2]))
        rest = steps(section, tokenizer, 3, process_count=1 + step % 2, states=states)
        assert rest == whole[step + 1 : step + 4]


def test_resume_may_change_the_row_length(section, tokenizer):
    """A full row leaves only a position in a document, so longer rows continue exactly where shorter rows ended."""
    section.sequence_length = 8
    states = steps(section, tokenizer, 3)[-1][2]
    short = steps(section, tokenizer, 4, batch_size=8, states=states)
    section.sequence_length = 32
    long = steps(section, tokenizer, 1, batch_size=8, states=states)[0][0]
    for stream in range(4):
        shorts = [i for ids, _, _ in short for row in ids[stream::4] for i in row]
        assert shorts == [i for row in long[stream::4] for i in row]


def test_a_state_of_other_data_is_refused(section, tokenizer, tmp_path):
    states = steps(section, tokenizer, 2)[-1][2]
    write_shards(tmp_path / "other", texts(60, start=100), 8)
    other = make_section(path=str(tmp_path / "other"))
    with pytest.raises(DataError, match="other: the saved position belongs to other data"):
        steps(other, tokenizer, 1, states=states)
    section.seed = 7
    with pytest.raises(DataError, match=r"data.seed=7, but the saved position was reached with 42"):
        steps(section, tokenizer, 1, states=states)
    section.seed, section.streams = 42, 8
    with pytest.raises(DataError, match=r"no stream 4; set data.streams=4"):
        steps(section, tokenizer, 1, states=states)


def test_a_state_of_another_tokenizer_is_refused(section, tokenizer):
    """Of the same name or folder, whatever was put there. A state of an older version does not say which it was."""
    states = steps(section, tokenizer, 2)[-1][2]
    other = load_tokenizer(make_section(tokenizer=str(BUILTIN)))
    other.add_tokens(["people"], special_tokens=True)
    with pytest.raises(DataError, match=r"^data\.tokenizer: the saved position in .* with another tokenizer"):
        steps(section, other, 1, states=states)
    older = json.loads(json.dumps(states))
    for state in older.values():
        del state["tokenizer"]
    assert len(steps(section, other, 1, states=older)) == 1


def test_a_run_goes_on_after_a_line_of_its_files_was_mended(section, tokenizer, tmp_path, caplog):
    states = steps(section, tokenizer, 2)[-1][2]
    shard = sorted((tmp_path / "en").glob("c4-train*"))[0]
    lines = gzip.decompress(shard.read_bytes()).splitlines(keepends=True)
    shard.write_bytes(gzip.compress(b"".join(lines[:-1])))
    with pytest.raises(DataError, match="the saved position belongs to other data"):
        steps(section, tokenizer, 1, states=states)
    assert len(steps(section, tokenizer, 1, states=states, mended=True)) == 1
    assert caplog.text.count("have other sizes than when the run was saved") == 1
    shard.with_name("c4-train.99999-of-00008.json.gz").write_bytes(shard.read_bytes())
    with pytest.raises(DataError, match="the saved position belongs to other data"):
        steps(section, tokenizer, 1, states=states, mended=True)


def test_a_moved_folder_is_the_same_data(section, tokenizer, tmp_path):
    whole = steps(section, tokenizer, 3)
    (tmp_path / "en").rename(tmp_path / "moved")
    section.path = str(tmp_path / "moved")
    assert steps(section, tokenizer, 1, states=whole[1][2]) == whole[2:]


def test_the_end_of_an_epoch_is_logged(section, tokenizer, caplog):
    with caplog.at_level(logging.INFO, "data"):
        steps(section, tokenizer, 40)
    assert any("epoch 0 ended after" in message and "epoch 1 starts" in message for message in caplog.messages)


def test_without_repeat_the_end_is_an_error_after_the_last_batch(section, tokenizer):
    section.repeat = False
    data = TrainingData(section, tokenizer, vocab_size=VOCABULARY, batch_size=4)
    rows = []
    with pytest.raises(DataError, match=r"stream \d of 4 .* ended after its \d+ documents; .*data.repeat=true"):
        while True:
            rows.append(next(data).input_ids.tolist())
    section.repeat = True
    assert rows == [ids for ids, _, _ in steps(section, tokenizer, len(rows), batch_size=4)]
    with pytest.raises(StopIteration):
        next(data)


def test_a_stream_without_documents_is_an_error(tmp_path, tokenizer):
    write_shards(tmp_path, texts(3), 1)
    with pytest.raises(DataError, match=r"stream 3 of 4 .* has no document; lower data.streams"):
        steps(make_section(path=str(tmp_path)), tokenizer, 1)


@pytest.mark.parametrize("batch_size, processes", [(6, 1), (12, 3)])
def test_batches_that_do_not_divide_are_refused(section, tokenizer, batch_size, processes):
    with pytest.raises(DataError, match=r"data.streams=4 must divide"):
        TrainingData(section, tokenizer, vocab_size=VOCABULARY, batch_size=batch_size, process_count=processes)


def test_close_ends_the_thread_and_the_iterator(section, tokenizer):
    data = TrainingData(section, tokenizer, vocab_size=VOCABULARY, batch_size=8)
    next(data)
    data.close()
    data.close()
    assert next(data, None) is None


def test_batches_are_pinned_on_the_thread_that_makes_them(section, tokenizer, monkeypatch):
    threads = []

    def pinned(tensor):
        threads.append(threading.current_thread().name)
        return tensor + 1

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    plain, moved = (
        next(TrainingData(section, tokenizer, vocab_size=VOCABULARY, batch_size=8, pin=pin)) for pin in (False, True)
    )
    assert set(threads) == {"data"}
    assert torch.equal(moved.input_ids, plain.input_ids + 1) and torch.equal(moved.labels, plain.labels + 1)
    assert moved.stream_states == plain.stream_states


@pytest.mark.parametrize("ending, message", [(GeneratorExit("far"), "GeneratorExit: far"), (None, "has ended")])
def test_a_thread_that_ends_in_any_way_ends_the_run(tmp_path, tokenizer, monkeypatch, ending, message):
    def make(*_, **__):
        if ending is not None:
            raise ending
        yield from ()

    monkeypatch.setattr(loader, "make_batches", make)
    write_shards(tmp_path, texts(8), 4)
    data = TrainingData(make_section(path=str(tmp_path)), tokenizer, vocab_size=VOCABULARY, batch_size=4)
    with pytest.raises(RuntimeError, match=message):
        data.next_batch(lambda: False)
