"""Datasets on the hub: which files they have, in every layout, and rows that are those of the same files on disk."""

import json
from urllib.parse import quote

import pytest

from configs.schema import load
from data import hub as hub_module
from data.data_errors import DataError, SourceUnavailable
from data.hub import open_dataset
from data.loader import TrainingData
from data.preparation import prepare
from data.sources import evaluation_source, files_source, training_source
from tests.data.conftest import VOCABULARY, make_section, read, steps, texts, write
from tests.servers import Hub

pytestmark = pytest.mark.slow  # `datasets` alone takes seconds to import

DOCUMENTS = texts(400)
CARD = """---
license: odc-by
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
---
# A dataset
"""


def fineweb(hub: Hub, documents=DOCUMENTS) -> str:
    folder = hub.folder / f"fineweb{len(hub.datasets.get('HuggingFaceFW/fineweb-edu', ()))}"
    for n in range(5):
        write(folder / f"sample/10BT/{n:03}_00000.parquet", documents[n::5])
    write(folder / "data/CC-MAIN-2024-10/train-00000.parquet", ["elsewhere"])
    (folder / "README.md").write_text(CARD)
    return hub.commit("HuggingFaceFW/fineweb-edu", folder)


def slimpajama(hub: Hub) -> str:
    folder = hub.folder / "slimpajama"
    for n in range(5):
        write(folder / f"train/chunk{n % 2 + 1}/example_train_{n // 2}.jsonl.zst", DOCUMENTS[n::5])
    write(folder / "validation/chunk1/example_holdout_0.jsonl.zst", texts(40, start=900))
    write(folder / "test/chunk1/example_holdout_0.jsonl.zst", texts(4, start=990))
    (folder / "README.md").write_text("# No metadata\n")
    return hub.commit("cerebras/SlimPajama-627B", folder)


def dolma(hub: Hub) -> str:
    folder = hub.folder / "dolma"
    urls = []
    for n in range(5):
        place = write(hub.folder / "olmo" / f"v1_7/cc_en_head-{n:04}.json.gz", DOCUMENTS[n::5])
        urls.append(f"{hub.files.url}/{place.relative_to(hub.folder)}")
    (folder / "urls").mkdir(parents=True)
    (folder / "dolma.py").write_text("raise SystemExit('this is never run')")
    (folder / "urls" / "v1_7.txt").write_text("\n".join(urls) + "\n")
    return hub.commit("allenai/dolma", folder)


@pytest.mark.parametrize("layout", [fineweb, slimpajama, dolma])
def test_settings_files_read_their_layouts(hub, layout):
    layout(hub)
    name = {fineweb: "fineweb_edu"}.get(layout, layout.__name__)
    section = load(["configs/quickstart.yaml", f"data={name}"]).config.data
    training, evaluation = read(training_source(section)), read(evaluation_source(section))
    if layout is slimpajama:
        assert (sorted(training), evaluation) == (sorted(DOCUMENTS), texts(40, start=900))
    else:
        assert 0 < len(evaluation) < 20 and not set(training) & set(evaluation)
        assert sorted(training + evaluation) == sorted(DOCUMENTS)


def test_a_file_on_the_hub_may_be_of_any_revision(hub):
    place = f"{hub.url}/datasets/o/n/resolve"
    for written, revision, path in (
        ("", "main", "data/a b.jsonl"),
        ("@v1.0", "v1.0", "a.jsonl"),
        ("@refs%2Fpr%2F1", "refs%2Fpr%2F1", "a.jsonl"),
        ("@refs/pr/1", "refs%2Fpr%2F1", "a.jsonl"),
        ("@refs/convert/parquet", "refs%2Fconvert%2Fparquet", "default/train/0000.parquet"),
        ("@a%2Fb", "a%2Fb", "a[1].jsonl"),
    ):
        files = files_source(f"hf://datasets/o/n{written}/{path}").files
        assert files == (f"{place}/{revision}/{quote(path)}",)


@pytest.mark.parametrize("path", ["data/*.parquet", "data/{000..015}.jsonl"])
def test_a_pattern_on_the_hub_is_refused(path):
    with pytest.raises(DataError, match=r"is one file, not a pattern; name each, or set data.source=hub data.path=o/n"):
        files_source(f"hf://datasets/o/n/{path}")


def test_a_revision_may_be_escaped(hub):
    revision = fineweb(hub)
    folder = hub.folder / "fineweb0"
    hub.datasets["HuggingFaceFW/fineweb-edu"] = {revision: folder, "v1+x": folder}
    for written in ("v1+x", "v1%2Bx"):
        dataset = open_dataset("data.path", f"HuggingFaceFW/fineweb-edu@{written}", "sample-10BT")
        assert dataset.revision == revision


def test_c4_is_its_english_configuration(hub, monkeypatch):
    """The shards in order; the hub's token goes to the hub and not to the host that has the files."""
    folder = hub.folder / "c4"
    for language in ("en", "realnewslike"):
        for n in range(4):
            write(folder / f"{language}/c4-train.{n:05}-of-00004.json.gz", DOCUMENTS[n::4])
        write(folder / f"{language}/c4-validation.00000-of-00001.json.gz", texts(9, start=900))
    splits = "".join(f"\n  - split: {s}\n    path: LANGUAGE/c4-{s}.*.json.gz" for s in ("train", "validation"))
    configs = "".join(
        f"\n- config_name: {language}\n  data_files:{splits.replace('LANGUAGE', language)}"
        for language in ("realnewslike", "en")
    )
    (folder / "README.md").write_text(f"---\nconfigs:{configs}\n---\n")
    revision = hub.commit("allenai/c4", folder)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = training_source(make_section(source="c4", path=None))
    place = f"{hub.url}/datasets/allenai/c4/resolve/{revision}/en/c4-train"
    assert source.files == tuple(f"{place}.{n:05}-of-00004.json.gz" for n in range(4))
    assert read(source) == [text for n in range(4) for text in DOCUMENTS[n::4]]
    assert read(evaluation_source(make_section(source="c4", path=None))) == texts(9, start=900)
    assert hub.tokens == {"Bearer hf_secret"} and hub.files.tokens == {None}


def test_rows_are_those_of_the_files_on_disk_and_resume_inside_a_row_group(hub, tokenizer):
    fineweb(hub)
    section = make_section(source="hub", path="HuggingFaceFW/fineweb-edu", config="sample-10BT")
    local = make_section(path=f"{hub.folder}/fineweb0/sample/10BT/*", held_out=0.01)
    whole = steps(section, tokenizer, 40)
    assert [made[:2] for made in whole] == [made[:2] for made in steps(local, tokenizer, 40, process_count=2)]
    for step in (3, 11, 30):
        states = json.loads(json.dumps(whole[step][2]))
        assert steps(section, tokenizer, 4, states=states, mended=True) == whole[step + 1 : step + 5]


def test_a_store_made_from_the_hub_gives_its_rows_and_states(hub, tokenizer, tmp_path):
    revision = fineweb(hub)
    section = make_section(source="hub", path="HuggingFaceFW/fineweb-edu", config="sample-10BT")
    prepare(tmp_path / "store", section, tokenizer)
    store = make_section(source="prepared", path=str(tmp_path / "store"))
    whole = steps(section, tokenizer, 12)
    assert steps(store, tokenizer, 12) == whole
    assert whole[0][2]["0"]["revision"] == revision and whole[0][2]["0"]["held_out"] == 0.01
    assert steps(section, tokenizer, 4, states=whole[7][2]) == steps(store, tokenizer, 4, states=whole[7][2])


def test_a_run_goes_on_with_the_revision_that_it_began_with(hub, tokenizer):
    first = fineweb(hub)
    section = make_section(source="hub", path="HuggingFaceFW/fineweb-edu", config="sample-10BT")
    whole = steps(section, tokenizer, 6)
    states = whole[2][2]
    readme = hub.folder / "fineweb0" / "README.md"
    hub_module._open_dataset.cache_clear()
    readme.write_text(readme.read_text() + "New words.\n")
    hub.commit("HuggingFaceFW/fineweb-edu", hub.folder / "fineweb0")
    assert [made[:2] for made in steps(section, tokenizer, 3, states=states)] == [made[:2] for made in whole[3:]]
    hub.datasets["HuggingFaceFW/fineweb-edu"].popitem()
    second = fineweb(hub, DOCUMENTS[1:] + DOCUMENTS[:1])  # other contents of the same sizes or not: other data
    assert second != first
    hub_module._open_dataset.cache_clear()
    with pytest.raises(DataError, match=rf"belongs to other data .* data.path=HuggingFaceFW/fineweb-edu@{first} goes"):
        steps(section, tokenizer, 1, states=states, mended=True)
    section.path += f"@{first}"
    assert [made[:2] for made in steps(section, tokenizer, 3, states=states)] == [made[:2] for made in whole[3:]]


def test_a_validation_split_is_evaluated_on_and_nothing_is_held_out(hub):
    slimpajama(hub)
    section = make_section(source="hub", path="cerebras/SlimPajama-627B")
    assert sorted(read(training_source(section))) == sorted(DOCUMENTS)
    assert read(evaluation_source(section)) == texts(40, start=900)
    section.eval_split = "test"
    assert read(evaluation_source(section)) == texts(4, start=990)
    section.eval_split, section.held_out = None, 0.2
    assert sorted(read(training_source(section)) + read(evaluation_source(section))) == sorted(DOCUMENTS)
    section.held_out, section.eval_path = None, str(write(hub.folder / "own.jsonl", ["peace"]))
    assert read(evaluation_source(section)) == ["peace"]


def test_a_card_that_fails_for_a_while_is_not_taken_for_missing(hub):
    fineweb(hub)
    hub.faults = {"README.md": [503, (429, 0), 500], "revision": [502, (429, 0)]}
    section = make_section(source="hub", path="HuggingFaceFW/fineweb-edu", config="sample-10BT")
    assert len(training_source(section).files) == 5
    assert not any(hub.faults.values())
    hub_module._open_dataset.cache_clear()
    hub.faults = {"README.md": [503] * 9}
    with pytest.raises(SourceUnavailable, match=r"README.md: gave up after 3 retries \(HTTP 503\)"):
        training_source(section)


def test_files_beside_the_text_are_left_out(hub):
    folder = hub.folder / "plain"
    for n in range(3):
        write(folder / f"part{n}.jsonl.gz", DOCUMENTS[n::3])
    write(folder / "statistics.parquet", ["no text"])
    (folder / "LICENSE").write_text("free")
    hub.commit("me/plain", folder)
    section = make_section(source="hub", path="me/plain", held_out=0.5)
    assert sorted(read(training_source(section)) + read(evaluation_source(section))) == sorted(DOCUMENTS)


def test_blank_lines_may_come_before_a_cards_metadata(hub):
    folder = hub.folder / "late"
    write(folder / "data/x.jsonl", DOCUMENTS)
    write(folder / "raw/y.jsonl", ["elsewhere"])
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*\n---\n"
    (folder / "README.md").write_text(f"\n{card}")
    hub.commit("me/late", folder)
    files = training_source(make_section(source="hub", path="me/late", held_out=0.5)).files
    assert [file.rpartition("/")[2] for file in files] == ["x.jsonl"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"path": "me/missing"}, r"data.path=me/missing: the hub has no such dataset or revision \(HTTP 404\)"),
        ({"path": "c4"}, r"data.path=c4 is no dataset of the hub; name one as OWNER/NAME"),
        ({"path": "me/sheets"}, r"data.path=me/sheets: split 'train' has no file that is read \(formats: .json"),
        ({"path": "allenai/dolma"}, r"dolma is loaded by a program \(dolma.py\), which is not run; name its files by"),
        ({"config": "sample-10B"}, r"no configuration data.config=sample-10B; it has .* did you mean sample-10BT\?"),
        ({"path": "me/folders", "split": "trian"}, r"has no split 'trian'; it has train, test; did you mean train\?"),
        ({"path": "me/folders", "eval_split": "tset"}, r"has no split 'tset'; it has train, test; did you mean test"),
        ({"split": "trian"}, r"has no split 'trian'; it has train; did you mean train\?"),
        ({"eval_split": "train"}, r"data.eval_split=train is what is trained on"),
        ({"text_field": "body"}, r'parquet: no column "body" \(its columns: id, text\); see data.text_field'),
    ],
)
def test_a_mistake_is_one_sentence(hub, tokenizer, changes, message):
    fineweb(hub)
    dolma(hub)
    (hub.folder / "sheets").mkdir()
    (hub.folder / "sheets" / "train.csv").write_text("text\npeace\n")
    hub.commit("me/sheets", hub.folder / "sheets")
    for split in ("train", "test"):
        write(hub.folder / f"folders/{split}/a.jsonl", ["peace"])
    hub.commit("me/folders", hub.folder / "folders")
    section = make_section(**{"source": "hub", "path": "HuggingFaceFW/fineweb-edu"} | changes)
    with pytest.raises(DataError, match=message) as error:
        evaluation_source(section)
        TrainingData(section, tokenizer, vocab_size=VOCABULARY, batch_size=4).__next__()
    assert "\n" not in str(error.value)
