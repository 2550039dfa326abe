"""Files of every format, and one sentence with file and line for every mistake in them."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.data_errors import DataError
from data.held_out import EvaluationData
from data.loader import TrainingData
from data.preparation import prepare
from data.sources import evaluation_source, files_source, training_source
from tests.data.conftest import VOCABULARY, make_section, read, steps, texts, write_shards, zstd

DOCUMENTS = texts(12)


def lines(documents: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()


def write_parquet(path, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=5)


WRITERS = {
    "a.jsonl": lambda path: path.write_bytes(lines(DOCUMENTS)),
    "a.json.gz": lambda path: path.write_bytes(gzip.compress(lines(DOCUMENTS))),
    "a.parquet": lambda path: write_parquet(path, url=["u"] * 12, text=DOCUMENTS),
    "a.jsonl.zst": lambda path: path.write_bytes(zstd(lines(DOCUMENTS[:5])) + zstd(lines(DOCUMENTS[5:]))),
    "strings.parquet": lambda path: write_parquet(path, text=pa.array(DOCUMENTS, pa.large_string())),
    "views.parquet": lambda path: write_parquet(path, text=pa.array(DOCUMENTS, pa.string_view())),
    "coded.parquet": lambda path: write_parquet(path, text=pa.array(DOCUMENTS).dictionary_encode()),
    "a.txt": lambda path: path.write_text("\n\n".join(DOCUMENTS)),  # every other line is blank
    "a.txt.gz": lambda path: path.write_bytes(gzip.compress("\r\n".join(DOCUMENTS).encode())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_documents_from_any_position(tmp_path, name):
    WRITERS[name](tmp_path / name)
    source = training_source(make_section(path=str(tmp_path / name)))
    located = list(source.read(0, 0))
    assert [text for _, text in located] == DOCUMENTS
    for n, (position, _) in enumerate(located, 1):
        assert [text for _, text in source.read(0, position)] == DOCUMENTS[n:]
    for streams in (2, 3):
        dealt = [[text for _, text in source.read(0, 0, streams, offset)] for offset in range(streams)]
        assert dealt == [DOCUMENTS[offset::streams] for offset in range(streams)]
        assert [text for _, text in source.read(0, located[5][0], streams, 1)] == [
            text for n, text in enumerate(DOCUMENTS) if n > 5 and n % streams == 1
        ]


@pytest.mark.parametrize("name", ["a,b[1].jsonl", "[ab].jsonl", "c*.jsonl", "@d.jsonl", "e f,g.jsonl"])
def test_a_list_takes_commas_and_brackets_as_they_are(tmp_path, name):
    folder = tmp_path / "x,[y]"
    folder.mkdir()
    path = folder / name
    path.write_bytes(lines(DOCUMENTS))
    (folder / "a.jsonl").write_bytes(lines(["another"]))
    other = str(folder / "a.jsonl")
    assert files_source([str(path), other]).files == (str(path), other)
    assert files_source(str(path)).files == (str(path),), "a text stays one path"
    assert set(files_source(str(folder / "*.jsonl")).files) == {str(path), other}, "brackets of folders are plain"
    with pytest.raises(DataError, match=r"missing,here: no file matches"):
        files_source([str(path), "missing,here"])


def test_a_file_may_list_the_files(tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_bytes(lines(DOCUMENTS))
    (tmp_path / "list.txt").write_text(f"inner/b.jsonl\n\n{folder}/a*\n")
    assert files_source(f"@{tmp_path}/list.txt").files == (str(folder / "b.jsonl"), str(folder / "a.jsonl"))
    (tmp_path / "list.txt").write_text("inner/c.jsonl\n")
    with pytest.raises(DataError, match=r"data.path=@.*list.txt: no file matches .*inner/c.jsonl"):
        files_source(f"@{tmp_path}/list.txt")
    with pytest.raises(DataError, match=r"data.path=@missing: there is no list missing"):
        files_source("@missing")


@pytest.mark.parametrize("order", [("meta", "meta.text"), ("meta.text", "meta")])
def test_a_column_with_a_dot_is_no_field_of_another(tmp_path, order):
    columns = {"meta": [{"text": "nested"}], "meta.text": ["peace"]}
    write_parquet(tmp_path / "a.parquet", **{name: columns[name] for name in order})
    source = files_source(str(tmp_path / "a.parquet"), "meta.text")
    assert list(source.read(0, 0)) == [(1, "peace")]


def test_columns_that_share_a_name_are_one_sentence(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r'a.parquet: 2 columns have the name "text"; data.text_field needs one'):
        list(files_source(str(tmp_path / "a.parquet")).read(0, 0))


def test_names_of_files_need_not_be_utf8(tmp_path, tokenizer):
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(lines(DOCUMENTS))
    odd = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    shutil.copy(plain, odd)
    section = make_section(path=f"{tmp_path}/caf*.jsonl")
    whole = steps(section, tokenizer, 6)
    assert [made[:2] for made in whole] == [made[:2] for made in steps(make_section(path=str(plain)), tokenizer, 6)]
    assert steps(section, tokenizer, 2, states=json.loads(json.dumps(whole[3][2]))) == whole[4:]
    prepare(tmp_path / "store", make_section(path=section.path, eval_path=str(plain)), tokenizer)
    assert steps(make_section(source="prepared", path=str(tmp_path / "store")), tokenizer, 6) == whole


def test_names_of_parquet_files_need_not_be_utf8(tmp_path):
    write_parquet(tmp_path / "plain.parquet", text=DOCUMENTS)
    shutil.copy(tmp_path / "plain.parquet", os.fsencode(tmp_path) + b"/caf\xe9.parquet")
    assert read(training_source(make_section(path=f"{tmp_path}/caf*.parquet"))) == DOCUMENTS


def test_a_file_is_read_once_however_many_links_lead_to_it(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "x.jsonl").write_bytes(lines(DOCUMENTS))
    (folder / "self").symlink_to(".")
    (tmp_path / "b").symlink_to("a")
    for path in (f"{folder}/**/*.jsonl", f"{tmp_path}/*/*.jsonl", [f"{folder}/x.jsonl", f"{tmp_path}/b/x.jsonl"]):
        assert read(training_source(make_section(path=path))) == DOCUMENTS


def test_the_text_may_have_another_name(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": 1, "body": "peace"}) + "\n")
    write_parquet(tmp_path / "b.parquet", text=[1], body=["war"])
    source = training_source(
        make_section(path=[str(tmp_path / "a.jsonl"), str(tmp_path / "b.parquet")], text_field="body")
    )
    assert [list(source.read(file, 0)) for file in (0, 1)] == [[(1, "peace")], [(1, "war")]]
    assert source.fingerprint != files_source(list(source.files)).fingerprint


def test_characters_of_urls_in_a_local_name_are_plain(tmp_path):
    folder = tmp_path / "C#?x=1"
    folder.mkdir()
    WRITERS["a.json.gz"](folder / "a.json.gz")
    source = training_source(make_section(path=str(folder / "a.json.gz")))
    assert [text for _, text in source.read(0, 0)] == DOCUMENTS


def test_a_list_of_paths_may_be_longer_than_a_file_name(tmp_path, monkeypatch):
    WRITERS["a.txt"](tmp_path / "a.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert training_source(make_section(path=",".join(["a.txt"] * 100))).files == ("a.txt",)
    write_shards(tmp_path, DOCUMENTS, 1, "c4-validation.{:05d}-of-{:05d}.json.gz")
    assert len(evaluation_source(make_section(path="~")).files) == 1


def test_paths_are_files_lists_globs_or_c4_shaped_folders(tmp_path, monkeypatch):
    shards = [str(path) for path in write_shards(tmp_path, DOCUMENTS, 3)]
    [validation] = map(str, write_shards(tmp_path, texts(3, start=90), 1, "c4-validation.{:05d}-of-{:05d}.json.gz"))

    def files(path):
        return list(training_source(make_section(path=path)).files)

    assert files(str(tmp_path)) == files(str(tmp_path / "en")) == files(f"{tmp_path}/en/c4-train.*") == shards
    assert files(f"{shards[2]}, {shards[0]}") == [shards[2], shards[0]]
    listed = files_source([shards[1], f"{tmp_path}/en/c4-train.*"])
    assert list(listed.files) == [shards[1], shards[0], shards[2]], "each file once"
    monkeypatch.chdir(tmp_path / "en")
    name = Path(shards[1]).name
    assert files([name, f"../en/{name}", shards[1], shards[0]]) == [name, shards[0]], "absolute or not"
    assert evaluation_source(make_section(path=str(tmp_path))).files == (validation,)
    assert evaluation_source(make_section(path=shards[0], eval_path=shards[1])).files == (shards[1],)
    assert evaluation_source(make_section(source="c4", path=str(tmp_path))).files == (validation,)


def test_a_number_of_many_digits_in_another_field_is_no_fault(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "peace", "id": ' + b"5" * 5000 + b"}\n")
    assert read(files_source(str(tmp_path / "a.jsonl"))) == ["peace"]


BROKEN = {
    "json": (
        "a.jsonl",
        lines(DOCUMENTS) + b'{"text": "cut\n',
        r"a.jsonl, line 13: not valid JSON \(.* at column \d+\)",
    ),
    "array": ("a.jsonl", b"[]\n", r'a.jsonl, line 1: no field "text" \(it is no object\)'),
    "field": ("a.jsonl", b'\n{"body": "x", "id": 1}\n', r'a.jsonl, line 2: no field "text" \(its fields: body, id\)'),
    "number": ("a.jsonl", b'{"text": 5}\n', r'a.jsonl, line 1: "text" is 5, not a string'),
    "long number": ("a.jsonl", b'{"text": %s}\n' % (b"5" * 5000), r'line 1: "text" is Infinity, not a string'),
    "null": ("a.jsonl", b'{"text": null}\n', r'a.jsonl, line 1: "text" is null, not a string'),
    "bytes": ("a.jsonl", b'{"text": "\xff"}\n', r"a.jsonl, line 1: not valid JSON .*utf-8"),
    "text": ("a.txt", b"peace\n\xff\n", r"a.txt, line 2: not UTF-8"),
    "empty": ("a.jsonl", b"", r"a.jsonl is empty"),
    "blank": ("a.txt", b"\n \n\n", r"a.txt holds no document"),
    "empty gzip": ("a.jsonl.gz", gzip.compress(b""), r"a.jsonl.gz holds no document"),
    "not gzip": ("a.jsonl.gz", lines(DOCUMENTS), r"a.jsonl.gz: the gzip stream is broken after line 0"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(lines(texts(500)))[:-400], r"a.jsonl.gz: .* broken after line \d+"),
    "empty zstd": ("a.jsonl.zst", zstd(b""), r"a.jsonl.zst holds no document"),
    "not zstd": ("a.jsonl.zst", lines(DOCUMENTS), r"a.jsonl.zst: the zstd stream is broken after line 0"),
    "cut zstd": (
        "a.jsonl.zst",
        zstd(lines(texts(500)))[:-40],
        r"a.jsonl.zst: the zstd stream is broken after line \d+",
    ),
    "suffix": ("a.csv", b"text\npeace\n", r"a.csv: this format is not read \(formats: .json"),
    "parquet": ("a.parquet", b"PAR1 not at all", r"a.parquet: not a readable Parquet file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_sentence_with_file_and_line(tmp_path, tokenizer, case):
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    section = make_section(path=str(tmp_path / name), streams=1)
    with pytest.raises(DataError, match=message) as error:
        steps(section, tokenizer, 200)
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"body": ["x"]}, r'no column "text" \(its columns: body\)'),
        ({"text": [1]}, r'column "text" is of type int64, not string'),
        ({"text": ["x", None]}, r'row 2: "text" is null'),
        ({"text": pa.array([], pa.string())}, r"holds no document"),
        ({"text": pa.array([b"\xff"]).view(pa.string())}, r"a.parquet: not a readable Parquet file \(.*utf-8"),
    ],
)
def test_a_broken_parquet_file_is_one_sentence(tmp_path, tokenizer, columns, message):
    write_parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(DataError, match=message):
        steps(make_section(path=str(tmp_path / "a.parquet"), streams=1), tokenizer, 1)


@pytest.mark.parametrize(
    "path, message",
    [
        (None, r"data.source=files needs data.path"),
        (", ", r"data.path is empty"),
        ("missing/*.jsonl", r"data.path=.*missing/\*.jsonl: no file matches"),
        (".", r"the folder has no en/c4-train.\*.json.gz; name files by a glob"),
    ],
)
def test_a_path_without_files_is_one_sentence(tmp_path, path, message):
    with pytest.raises(DataError, match=message):
        training_source(make_section(path=path if path in (None, ", ") else str(tmp_path / path)))


def test_batches_before_a_broken_line_come_first(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_bytes(lines(DOCUMENTS) + b"{\n")
    section = make_section(path=str(tmp_path / "a.jsonl"), streams=1, shuffle_buffer=4)
    data = TrainingData(section, tokenizer, vocab_size=VOCABULARY, batch_size=1)
    count = 0
    with pytest.raises(DataError, match="line 13"):
        for _ in data:
            count += 1
    written = sum(len(ids) + 1 for ids in tokenizer(DOCUMENTS, add_special_tokens=False)["input_ids"])
    assert count == written // section.sequence_length


@pytest.mark.parametrize("packing", [True, False])
def test_evaluation_is_the_first_documents_in_file_order(tmp_path, tokenizer, packing):
    write_shards(tmp_path, DOCUMENTS, 2)
    section = make_section(path="unused", eval_path=f"{tmp_path}/en/*", packing=packing, sequence_length=128)
    data = EvaluationData(section, tokenizer, vocab_size=VOCABULARY)
    ids, labels = data.batch(slice(None))
    assert data.targets == (labels[:, 1:] != -100).sum() >= section.eval_tokens
    assert data.targets - (data.lengths[-1] - 1) < section.eval_tokens, "no row more than needed"
    documents = DOCUMENTS[0::2] + DOCUMENTS[1::2]
    encoded = [[*row, tokenizer.eos_token_id] for row in tokenizer(documents, add_special_tokens=False)["input_ids"]]
    real = [i for row, length in zip(ids.tolist(), data.lengths, strict=True) for i in row[:length]]
    assert real == [i for row in encoded for i in row][: len(real)]
    if not packing:
        assert data.lengths.tolist() == [len(row) for row in encoded[: len(data)]]


def test_a_file_that_is_trained_and_evaluated_on_is_warned_of(tmp_path, tokenizer, caplog):
    for name in ("a", "b", "eval"):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(DOCUMENTS))
    (tmp_path / "link.jsonl").symlink_to("eval.jsonl")
    every, held_out = str(tmp_path / "*.jsonl"), str(tmp_path / "eval.jsonl")

    def said(**changes) -> str:
        caplog.clear()
        section = make_section(**changes, eval_tokens=20)
        evaluation = EvaluationData(section, tokenizer, vocab_size=VOCABULARY)
        for process in (0, 1):
            data = TrainingData(
                section, tokenizer, vocab_size=VOCABULARY, batch_size=8, process_index=process, process_count=2,
                evaluated=evaluation.files,
            )  # fmt: skip
            data.close()
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(found) <= 1
        return "".join(found)

    assert said(path=every, eval_path=held_out).startswith(f"{held_out}: trained on and evaluated on; ")
    assert said(path=held_out, eval_path=str(tmp_path / "link.jsonl")).startswith(f"{tmp_path}/link.jsonl: trained")
    assert said(source="c4", path=every).startswith(f"{tmp_path}/a.jsonl and 2 more: trained on and evaluated on; ")
    assert said(path=str(tmp_path / "[ab].jsonl"), eval_path=held_out) == ""
    assert said(path=every, held_out=0.5) == "" == said(source="builtin")
    caplog.clear()
    prepare(tmp_path / "store", make_section(path=every, eval_path=held_out), tokenizer)
    assert f"{held_out}: trained on and evaluated on" in caplog.text
    assert said(source="prepared", path=str(tmp_path / "store")) == ""


def test_too_few_documents_for_evaluation(tmp_path, tokenizer):
    write_shards(tmp_path, DOCUMENTS, 1, "c4-validation.{:05d}-of-{:05d}.json.gz")
    section = make_section(path=str(tmp_path), eval_tokens=10**6)
    with pytest.raises(DataError, match=r"data.eval_tokens=1000000, but the 12 documents of .* give only \d+ targets"):
        EvaluationData(section, tokenizer, vocab_size=VOCABULARY)
    short = make_section(path=str(tmp_path), eval_tokens=10**6, packing=True, sequence_length=4096)
    with pytest.raises(
        DataError, match=r"the 12 documents of .* give only 0 targets; lower data.sequence_length=4096 "
    ):
        EvaluationData(short, tokenizer, vocab_size=VOCABULARY)
    with pytest.raises(DataError, match=r"needs data.eval_path"):
        EvaluationData(make_section(path="a.jsonl"), tokenizer, vocab_size=VOCABULARY)
