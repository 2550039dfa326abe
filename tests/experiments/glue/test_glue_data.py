"""Reading the rows of a task: what is accepted, and the one sentence for what is not."""

import csv
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from configs.schema import SettingsError
from experiments.glue.glue_data import check_rows, read

PAIRS = {"sentence1": ["a", "b"], "sentence2": ["c", "d"]}


@pytest.mark.parametrize(
    ("name", "columns", "said"),
    [
        ("mrpc", {"sentence1": ["a", "b"], "label": [0, 1]}, "F has no column sentence2, which mrpc needs; it has"),
        ("mrpc", PAIRS, "F has no column label, which mrpc needs; it has sentence1, sentence2"),
        ("mrpc", {**PAIRS, "label": [0, 2]}, "F row 2: the label of mrpc must be one of 0, 1, got 2"),
        ("mrpc", {**PAIRS, "label": [-1, 1]}, "F row 1: the label of mrpc must be one of 0, 1, got -1"),
        ("mrpc", {**PAIRS, "label": ["0", "1"]}, "F row 1: the label of mrpc must be one of 0, 1, got '0'"),
        ("mrpc", {**PAIRS, "label": [0, None]}, "F row 2: the label of mrpc must be one of 0, 1, got None"),
        ("mrpc", {**PAIRS, "label": [1, 1]}, "F has no row of the label 0: mrpc has 2 labels"),
        ("mrpc", {**PAIRS, "sentence2": ["c", None], "label": [0, 1]}, "F row 2: sentence2 must be a text, got None"),
        ("stsb", {**PAIRS, "label": [0.5, float("nan")]}, "F row 2: the label of stsb must be a number, got nan"),
        ("stsb", {**PAIRS, "label": ["x", "y"]}, "F row 1: the label of stsb must be a number, got 'x'"),
        ("mnli", {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}, "no row of the label 2: mnli has"),
        ("cola", {"sentence": [], "label": []}, "F has no rows"),
    ],
)
def test_rows_that_are_not_the_tasks_are_refused(name, columns, said):
    with pytest.raises(SettingsError) as raised:
        check_rows(datasets.Dataset.from_dict(columns), name, "F", whole=True)
    assert said in str(raised.value)


def test_a_validation_split_may_lack_a_label_and_scores_have_none():
    ones = datasets.Dataset.from_dict({**PAIRS, "label": [1, 1]})
    check_rows(ones, "mrpc", "F", whole=False)
    with pytest.raises(SettingsError, match="no row of the label 0"):
        check_rows(ones, "mrpc", "F", whole=True)
    scores = datasets.Dataset.from_dict({**PAIRS, "label": [2, 5]})
    check_rows(scores, "stsb", "F", whole=True)
    with pytest.raises(SettingsError):
        check_rows(scores, "mrpc", "F", whole=False)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A folder for the files of a task; what `datasets` keeps of them goes beside it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_form_of_a_file_gives_the_same_rows(cached, suffix):
    """A text that reads like a missing value or a number stays a text."""
    columns = {"idx": [7, 8, 9], "sentence": ["null", 'said "no", twice', "12"], "label": [1, 0, 1]}
    for split in ("train", "validation"):
        file = cached / f"{split}{suffix}"
        if suffix == ".jsonl":
            rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.table(columns), file)
        else:
            with file.open("w", newline="") as opened:
                writer = csv.writer(opened, delimiter="\t" if suffix == ".tsv" else ",")
                writer.writerows([columns, *zip(*columns.values(), strict=True)])
    for split in read("sst2", str(cached)):
        assert split.column_names == ["sentence", "label"]
        assert split.to_dict() == {key: columns[key] for key in ("sentence", "label")}


@pytest.mark.slow
def test_quotation_marks_of_an_unquoted_file_are_of_its_texts(cached):
    """As GLUE's own files have them: one at the start of a line would otherwise join it with the lines behind it."""
    texts = ['"open', "plain", 'closed"', '"all of it"', '5" wide', "'' and ``"]
    for split in ("train", "validation"):
        lines = (f"{text}\t{number % 2}\n" for number, text in enumerate(texts))
        (cached / f"{split}.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    for split in read("sst2", str(cached)):
        assert split.to_dict() == {"sentence": texts, "label": [0, 1, 0, 1, 0, 1]}


@pytest.mark.parametrize(("row", "columns"), [("tab\there\t1", 3), ('"new\nline"\t1', 1), ("no label", 1)])
def test_a_row_of_a_tsv_file_that_is_not_a_line_is_named(cached, row, columns):
    (cached / "train.tsv").write_text(f"sentence\tlabel\na\t0\n\n{row}\n")
    with pytest.raises(SettingsError, match=rf"train.tsv row 2 has {columns} columns instead of 2: .* as .jsonl"):
        read("sst2", str(cached))


@pytest.mark.slow
def test_files_that_are_missing_doubled_or_unreadable_are_named(cached):
    with pytest.raises(SettingsError, match=r"has no validation_matched or validation file \(.jsonl, .json, .csv"):
        (cached / "train.csv").write_text("premise,hypothesis,label\n" + "".join(f"a,b,{k}\n" for k in range(3)))
        read("mnli", str(cached))
    (cached / "train.jsonl").write_text("{}\n")
    with pytest.raises(SettingsError, match=r"has both train.jsonl and train.csv, leave one"):
        read("mnli", str(cached))
    (cached / "train.csv").unlink()
    (cached / "train.jsonl").write_text("{not json\n")
    with pytest.raises(SettingsError, match=r"train.jsonl cannot be read as json: "):
        read("mnli", str(cached))
