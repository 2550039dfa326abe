"""A faulty mirror of C4: what a retry cures is read once and in order; what none cures is an error with its file."""

import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import remote
from data.data_errors import DataError, SourceUnavailable
from data.loader import TrainingData
from data.sources import evaluation_source, files_source, training_source
from tests.data.conftest import VOCABULARY, make_section, shard, steps, texts
from tests.processes import wait_until


def read_all(mirror) -> list[list[str]]:
    source = training_source(make_section(source="c4", path=mirror.url))
    return [[text for _, text in source.read(file, 0)] for file in range(len(source.files))]


@pytest.mark.faults
def test_retries_lose_and_repeat_nothing(mirror, impatient, caplog):
    mirror.faults = {
        shard(0): [500, 503, ("reset", 700), ("stall", 900)],
        shard(1): [("cut", 100), ("cut", 1000), ("cut silently", 900), 502],
        shard(2): [("cut silently", 0), ("stall", 0), ("reset", 0), ("cut", 1500)],
    }
    assert read_all(mirror) == [texts(400)[n::4] for n in range(4)]
    assert not any(mirror.faults.values()), "every fault was met"
    assert any(shard(0) in message and "HTTP 500; retry 1 of 3" in message for message in caplog.messages)


@pytest.mark.faults
def test_a_server_is_left_alone_for_as_long_as_it_asks(mirror, caplog):
    mirror.faults = {shard(0): [(429, 1), (503, "Fri, 31 Dec 1999 23:59:59 GMT"), (503, "soon")]}
    assert read_all(mirror)[0] == texts(400)[0::4]
    waits = [message.rpartition(" in ")[2] for message in caplog.messages if shard(0) in message]
    assert waits == ["1 s", "0.02 s", "0.04 s"]


@pytest.mark.faults
@pytest.mark.parametrize("mirror", [False], indirect=True, ids=["no_ranges"])
def test_parquet_on_a_server_without_ranges_is_refused(mirror):
    (mirror.folder / "a.parquet").write_bytes(b"PAR1 and so on")
    source = training_source(make_section(path=f"{mirror.url}/a.parquet"))
    with pytest.raises(DataError, match=r"a.parquet: the server sends whole files only"):
        list(source.read(0, 0))


@pytest.mark.faults
@pytest.mark.parametrize("mirror", [True], indirect=True, ids=["ranges"])
@pytest.mark.parametrize("content", [b"", b"P", b"PAR1 and so on"])
def test_broken_parquet_over_http_is_one_sentence(mirror, content):
    (mirror.folder / "a.parquet").write_bytes(content)
    source = training_source(make_section(path=f"{mirror.url}/a.parquet"))
    with pytest.raises(DataError, match=r"a.parquet: not a readable Parquet file \("):
        list(source.read(0, 0))


@pytest.mark.parametrize("name", ["c4-v1.0/", "c4-v1.0", "c4", "c4/"])
def test_a_mirrors_folder_may_have_a_dot(mirror, name):
    (mirror.folder / name.strip("/")).mkdir()
    (mirror.folder / "en").rename(mirror.folder / name.strip("/") / "en")
    files = training_source(make_section(source="c4", path=f"{mirror.url}/{name}")).files
    assert files == tuple(f"{mirror.url}/{name.strip('/')}/en/{shard(n)}" for n in range(4))


@pytest.mark.faults
def test_a_file_of_unknown_length_is_read_to_the_end(mirror):
    mirror.faults = {shard(n): [("cut silently", 600), *[("cut silently", None)] * 3] for n in range(4)}
    assert read_all(mirror) == [texts(400)[n::4] for n in range(4)]


@pytest.mark.faults
def test_training_rows_are_those_of_the_local_folder(mirror, impatient, tokenizer):
    local = steps(make_section(path=str(mirror.folder)), tokenizer, 12)
    section = make_section(source="c4", path=f"{mirror.url}/en/c4-train.{{00000..00003}}-of-00004.json.gz")
    mirror.faults = {shard(n): [503, ("reset", 500 + n), ("cut", 900)] for n in range(4)}
    remote_steps = steps(section, tokenizer, 12)
    assert [made[:2] for made in remote_steps] == [made[:2] for made in local]
    mirror.faults = {shard(n): [("stall", 600)] for n in range(4)}
    assert steps(section, tokenizer, 4, states=remote_steps[7][2]) == remote_steps[8:]


@pytest.mark.faults
@pytest.mark.parametrize(
    "faults, reason", [([404], "HTTP 404"), ([500] * 9, "after 3 retries"), ([("cut", 0)] * 9, "after 3 retries")]
)
def test_a_shard_that_fails_is_named_after_the_batches_before_it(mirror, tokenizer, faults, reason):
    section = make_section(source="c4", path=mirror.url, streams=1)
    order = [row for ids, _, _ in steps(section, tokenizer, 40) for row in ids]
    served = list(dict.fromkeys(name for name in mirror.requests if "train" in name))
    mirror.faults = {served[1]: list(faults)}  # the second shard of the epoch
    data = TrainingData(section, tokenizer, vocab_size=VOCABULARY, batch_size=8)
    rows = []
    with pytest.raises(SourceUnavailable, match=f"{served[1]}.*{reason}"):
        for batch in data:
            rows += batch.input_ids.tolist()
    assert len(rows) > 40 and rows == order[: len(rows)]


@pytest.mark.faults
def test_a_shard_that_changes_while_it_is_read_is_refused(mirror):
    path = mirror.folder / "en" / shard(0)
    source = training_source(make_section(source="c4", path=mirror.url))
    mirror.faults = {shard(0): [("cut", 600)]}
    reading = remote.fetch(source.files[0], source.closing)
    next(reading)
    path.write_bytes((mirror.folder / "en" / shard(1)).read_bytes())
    with pytest.raises(SourceUnavailable, match="changed while it was read"):
        list(reading)


@pytest.mark.faults
@pytest.mark.parametrize("mirror", [True], indirect=True, ids=["ranges"])
def test_a_shard_of_the_same_size_that_changes_is_refused(mirror):
    mirror.etags = True
    path = mirror.folder / "en" / shard(0)
    source = training_source(make_section(source="c4", path=mirror.url))
    mirror.faults = {shard(0): [("cut", 600), ("cut", 100)]}
    reading = remote.fetch(source.files[0], source.closing)
    next(reading)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(SourceUnavailable, match=r"changed while it was read \(its ETag was"):
        list(reading)


@pytest.mark.faults
@pytest.mark.parametrize("mirror", [True], indirect=True, ids=["ranges"])
@pytest.mark.parametrize("etags, rows", [(False, 4000), (False, 9000), (True, 8000)])
def test_parquet_that_changes_while_it_is_read_is_refused(mirror, monkeypatch, etags, rows):
    """Parts of two versions would be put together: of another size, or with an ETag of the same size."""

    def write(version: str, rows: int) -> None:
        made = pa.table({"text": [f"{version} {n:06} {'peace ' * 20}" for n in range(rows)]})
        pq.write_table(made, mirror.folder / "a.parquet", row_group_size=1000, compression="none", use_dictionary=False)

    monkeypatch.setattr(remote, "PART_BYTES", 1 << 16)
    mirror.etags = etags
    write("old", 8000)
    source = training_source(make_section(path=f"{mirror.url}/a.parquet"))
    assert [text[:10] for _, text in source.read(0, 0)] == [f"old {n:06}" for n in range(8000)]
    documents = source.read(0, 0)
    read = [next(documents)[1][:10]]
    write("new", rows)
    with pytest.raises(SourceUnavailable, match=r"a.parquet changed while it was read \("):
        read += [text[:10] for _, text in documents]
    assert all(text.startswith("old") for text in read)


def test_a_broken_url_is_one_sentence():
    with pytest.raises(DataError, match=r"http://host:abc/x\.jsonl is no URL"):
        list(remote.fetch("http://host:abc/x.jsonl", threading.Event()))


@pytest.mark.faults
def test_close_does_not_wait_for_a_retry(mirror, tokenizer, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 600.0)
    monkeypatch.setattr(remote, "LONGEST_PAUSE_SECONDS", 600.0)
    mirror.faults = {shard(n): [500] for n in range(4)}
    data = TrainingData(make_section(source="c4", path=mirror.url), tokenizer, vocab_size=VOCABULARY, batch_size=8)
    wait_until(lambda: mirror.requests and "train" in mirror.requests[-1])
    assert data.next_batch(interrupted=lambda: True) is None  # a signal does not wait either
    data.close()
    assert not any(thread.name == "data" and thread.is_alive() for thread in threading.enumerate())


def test_url_patterns(mirror):
    folder = f"{mirror.url}/en"
    urls = [f"{folder}/{shard(n)}" for n in range(4)]
    assert remote.expand_url(f"{folder}/c4-train.{{00000..00003}}-of-00004.json.gz") == urls
    assert remote.expand_url(f"{folder}/c4-train.*-of-00004.json.gz") == urls
    assert remote.expand_url(f"{folder}/c4-train.0*") == urls
    assert remote.expand_url(urls[2]) == [urls[2]]
    for name, written in (("my data", "my%20data"), ("my data", "my data"), ("my[x]", "my[x]"), ("c%20d", "c%2520d")):
        (mirror.folder / name).mkdir(exist_ok=True)
        (mirror.folder / name / "a b.jsonl").write_text('{"text": "peace"}\n')
        for pattern in ("*.jsonl", "a%20*.jsonl", "a b*"):
            [url] = files_source(f"{mirror.url}/{written}/{pattern}").files
            assert list(files_source(url).read(0, 0)) == [(1, "peace")]
        assert remote.expand_url(f"{mirror.url}/{written}/b*") == []
    with pytest.raises(DataError, match=r"data.path=http.*: no file matches"):
        evaluation_source(make_section(source="c4", path=mirror.url))
