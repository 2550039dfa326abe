"""A prepared store gives the rows, states and evaluation set of its text; a store of something else is refused."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data import preparation
from data.data_errors import DataError
from data.held_out import EvaluationData
from data.loader import TrainingData
from data.preparation import prepare
from data.prepared import PreparedSource, verify
from data.sources import TextSource
from data.tokenizer import load_tokenizer
from scripts import prepare_data
from scripts.prepare_data import main
from tests.data.conftest import VOCABULARY, make_section, steps, texts, write_shards


@pytest.fixture(params=[6, 1], ids=["files", "one_file"])
def text(request, tmp_path):
    documents = texts(40)
    documents[3::7] = [""] * len(documents[3::7])
    write_shards(tmp_path, documents, request.param)
    write_shards(tmp_path, texts(10, start=90), 1, "c4-validation.{:05d}-of-{:05d}.json.gz")
    return make_section(path=str(tmp_path))


@pytest.fixture
def store(text, tokenizer, tmp_path):
    prepare(tmp_path / "store", text, tokenizer)
    return make_section(source="prepared", path=str(tmp_path / "store"))


@pytest.mark.parametrize("packing", [True, False])
def test_rows_and_states_are_those_of_the_text(text, store, packing):
    text.packing = store.packing = packing
    tokenizer = load_tokenizer(store)
    streamed = steps(text, tokenizer, 60)
    assert steps(store, tokenizer, 60, process_count=2) == streamed
    assert all(state["epoch"] > 0 for state in streamed[-1][2].values())
    for step in (10, 30, 55):
        assert steps(store, tokenizer, 4, states=streamed[step][2]) == streamed[step + 1 : step + 5]
    made = [EvaluationData(section, tokenizer, vocab_size=VOCABULARY) for section in (text, store)]
    assert made[0].input_ids.tolist() == made[1].input_ids.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("packing", [True, False])
def test_what_was_held_out_stays_so_in_a_store(text, tokenizer, tmp_path, packing):
    text.held_out, text.packing, text.special_tokens_in_text, text.eval_tokens = 0.2, packing, "text", 20
    prepare(tmp_path / "split", text, tokenizer)
    store = make_section(
        source="prepared",
        path=str(tmp_path / "split"),
        packing=packing,
        eval_tokens=20,
        special_tokens_in_text="text",
    )
    streamed = steps(text, tokenizer, 30)
    assert steps(store, tokenizer, 30, process_count=2) == streamed
    assert steps(store, tokenizer, 4, states=streamed[12][2]) == streamed[13:17]
    made = [EvaluationData(section, tokenizer, vocab_size=VOCABULARY) for section in (text, store)]
    assert made[0].input_ids.tolist() == made[1].input_ids.tolist()
    text.held_out = 0.3
    with pytest.raises(DataError, match=r"data.held_out=0.3, but the saved position was reached with 0.2"):
        steps(text, tokenizer, 1, states=streamed[0][2])
    store.special_tokens_in_text = "token"
    with pytest.raises(DataError, match=r"was prepared with data.special_tokens_in_text=text, not token"):
        load_tokenizer(store)


def test_states_and_stores_of_before_there_was_the_choice_are_read(text, store, tokenizer, tmp_path):
    whole = steps(text, tokenizer, 4)
    states = {
        stream: {k: v for k, v in state.items() if k not in ("held_out", "revision")}
        for stream, state in whole[1][2].items()
    }
    assert steps(text, tokenizer, 2, states=states) == whole[2:]
    path = tmp_path / "store" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["special_tokens_in_text"]
    for split in manifest["splits"].values():
        del split["held_out"], split["revision"]
    path.write_text(json.dumps(manifest))
    assert steps(store, load_tokenizer(store), 2, states=states) == whole[2:]


def test_a_store_holds_all_ids_of_a_tokenizer_that_leaves_some_out(text, tmp_path):
    words = {"</s>": 0, "<unk>": 1, "peace": 2, "union": 70_000}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    prepare(tmp_path / "store", text, made)
    ids = {i for _, document in PreparedSource(str(tmp_path / "store"), "train").read(0, 0) for i in document.tolist()}
    assert ids == {1, 2, 70_000}


def test_a_store_is_not_overwritten(store, text, tokenizer, tmp_path):
    with pytest.raises(DataError, match="store exists"):
        prepare(tmp_path / "store", text, tokenizer)


def test_a_broken_text_leaves_no_store(text, tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "peace"}\n{')
    text.eval_path = str(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a.jsonl, line 2"):
        prepare(tmp_path / "store", text, tokenizer)
    assert not (tmp_path / "store").exists()
    text.eval_path = None
    prepare(tmp_path / "store", text, tokenizer)


def test_a_store_is_prepared_by_one_process_at_a_time(text, tokenizer, tmp_path, monkeypatch):
    """The second start leaves alone what the first one is writing, whose store is whole."""
    read, refused = TextSource.read, []

    def read_while_another_starts(source, *arguments):
        with pytest.raises(DataError, match="store is being prepared by another process; wait for its end") as raised:
            prepare(tmp_path / "store", text, tokenizer)
        refused.append(raised)
        return read(source, *arguments)

    monkeypatch.setattr(TextSource, "read", read_while_another_starts)
    prepare(tmp_path / "store", text, tokenizer)
    assert refused
    verify(str(tmp_path / "store"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("store.")]


def test_a_store_that_another_process_finished_is_kept(text, tokenizer, tmp_path, monkeypatch):
    """It appears between the first look for it and the lock."""
    found = preparation.training_source

    def find_while_another_finishes(section):
        monkeypatch.setattr(preparation, "training_source", found)
        prepare(tmp_path / "store", text, tokenizer)
        return found(section)

    monkeypatch.setattr(preparation, "training_source", find_while_another_finishes)
    with pytest.raises(DataError, match="store exists"):
        prepare(tmp_path / "store", text, tokenizer)
    verify(str(tmp_path / "store"))


def test_another_tokenizer_is_refused(store, tokenizer, tmp_path):
    path = tmp_path / "store" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"tokenizer": "another"}))
    with pytest.raises(DataError, match="was prepared with another tokenizer"):
        load_tokenizer(store)


def test_a_damaged_store_is_refused(store, tmp_path):
    ids = tmp_path / "store" / "train.ids"
    content = bytearray(ids.read_bytes())
    content[10] ^= 1
    ids.write_bytes(content)
    with pytest.raises(DataError, match=r"train.ids is damaged"):
        verify(store.path)
    ids.write_bytes(content[:-2])
    with pytest.raises(DataError, match=r"train.ids has \d+ bytes, its manifest says \d+"):
        load_tokenizer(store)


def test_a_tokenizer_that_was_changed_in_its_store_is_refused(store, tmp_path):
    """A store that was made before its tokenizer had checksums still verifies."""
    path, file = tmp_path / "store" / "manifest.json", tmp_path / "store" / "tokenizer" / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"</s>", b"<\\s>"))
    with pytest.raises(DataError, match=r"tokenizer/tokenizer.json is damaged \(its SHA-256 differs\)"):
        verify(store.path)
    file.unlink()
    with pytest.raises(DataError, match=r"tokenizer/tokenizer.json has 0 bytes, its manifest says \d+"):
        load_tokenizer(store)
    manifest = json.loads(path.read_text())
    kept = {name: entry for name, entry in manifest["checksums"].items() if not name.startswith("tokenizer/")}
    path.write_text(json.dumps(manifest | {"checksums": kept}))
    verify(store.path)


def test_a_damaged_manifest_is_refused(store, tmp_path):
    path = tmp_path / "store" / "manifest.json"
    manifest = json.loads(path.read_text())

    def split(**changes) -> dict:
        return {"splits": manifest["splits"] | {"train": manifest["splits"]["train"] | changes}}

    for changes in (
        {"splits": {"train": manifest["splits"]["train"]}},
        {"splits": []},
        {"checksums": []},
        {"checksums": {}},
        {"checksums": manifest["checksums"] | {"train.ids": 5}},
        {"checksums": manifest["checksums"] | {"tokenizer/tokenizer.json": {"sha256": "0"}}},
        {"dtype": "zz"},
        {"dtype": None},
        {"dtype": "<u4"},
        split(fingerprint=5),
        split(files=None),
        split(files=[{"name": 5, "documents": 0}, *manifest["splits"]["train"]["files"]]),
        split(files=[{"name": "a", "documents": 5}, *manifest["splits"]["train"]["files"]]),
        split(files=[{"name": "a", "documents": "5"}]),
    ):
        path.write_text(json.dumps(manifest | changes))
        with pytest.raises(DataError, match=r"manifest.json is damaged: .*; prepare the data again"):
            verify(store.path)
    path.write_text(json.dumps(manifest))
    verify(store.path)


def test_a_folder_that_is_not_a_store_is_refused(store, tokenizer, tmp_path):
    for path, message in [(None, "needs data.path"), (str(tmp_path), "is no prepared store")]:
        with pytest.raises(DataError, match=message):
            TrainingData(make_section(source="prepared", path=path), tokenizer, vocab_size=VOCABULARY, batch_size=8)


def test_a_store_in_the_home_folder(store, monkeypatch):
    path = Path(store.path)
    monkeypatch.setenv("HOME", str(path.parent))
    store.path = f"~/{path.name}"
    tokenizer = load_tokenizer(store)
    assert next(TrainingData(store, tokenizer, vocab_size=VOCABULARY, batch_size=8)).input_ids.shape == (8, 16)


def test_command_line(text, tmp_path, capsys, monkeypatch):
    store = str(tmp_path / "made")
    assert main([store, "data=files", f"data.path={text.path}", "data.eval_tokens=10"]) == 0
    assert main(["--verify", store]) == 0
    assert "every file is as it was written" in capsys.readouterr().out
    assert main([store, "data=files", f"data.path={text.path}"]) == 2
    assert main([str(tmp_path / "b"), "data=files", "data.path=missing"]) == 2
    assert "data.path=missing: no file matches" in capsys.readouterr().err
    monkeypatch.setattr(prepare_data, "prepare", lambda *_: None)
    (tmp_path / "made" / "train.ids").write_bytes(b"")
    assert main([store, "data=files", f"data.path={text.path}"]) == 2
    assert "train.ids has 0 bytes, its manifest says" in capsys.readouterr().err


def test_a_plan_is_not_taken_for_a_preparation(tmp_path, capsys):
    assert main([str(tmp_path / "store"), "data=builtin", "--plan"]) == 2
    assert capsys.readouterr().err == "--plan is an option of train.py: a preparation has none\n"
    assert not (tmp_path / "store").exists()
