"""Documents to rows: packing loses nothing; one document a row has no label at padding."""

import json

import pytest

from data.data_errors import DataError
from data.packing import IGNORE
from tests.data.conftest import documents_of, make_section, steps, texts


def write_lines(path, documents) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return str(path)


def test_packed_rows_hold_the_documents_without_loss(tmp_path, tokenizer):
    section = make_section(path=write_lines(tmp_path / "a.jsonl", texts(20)), streams=1, shuffle_buffer=1)
    made = steps(section, tokenizer, 10)
    assert documents_of([row for ids, _, _ in made for row in ids], tokenizer)[:20] == texts(20)
    assert all(labels == ids for ids, labels, _ in made)


def test_one_document_a_row_is_cut_and_padded_without_labels(tmp_path, tokenizer):
    documents = ["Peace.", " ".join(["commerce"] * 50), "War and peace."]
    section = make_section(
        path=write_lines(tmp_path / "a.jsonl", documents), streams=1, shuffle_buffer=1, packing=False
    )
    [(ids, labels, _)] = steps(section, tokenizer, 1, batch_size=3)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    for text, row, label in zip(documents, ids, labels, strict=True):
        expected = [*tokenizer(text, add_special_tokens=False)["input_ids"][:15], eos]
        assert row == expected + [pad] * (16 - len(expected))
        assert label == expected + [IGNORE] * (16 - len(expected))
    assert len([i for i in labels[1] if i != IGNORE]) == 16, "the long document fills its row, EOS last"


def test_long_documents_are_cut_as_by_galores_loader(tmp_path, tokenizer):
    """GaLore's loader calls the tokenizer with truncation, which keeps EOS."""
    from tokenizers.processors import TemplateProcessing

    galore = tokenizer.__class__.from_pretrained(tokenizer.name_or_path)
    galore.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    text = " ".join(["commerce"] * 50)
    section = make_section(path=write_lines(tmp_path / "a.jsonl", [text]), streams=1, packing=False)
    [([row], _, _)] = steps(section, tokenizer, 1, batch_size=1)
    assert row == galore(text, max_length=16, truncation=True, padding="max_length")["input_ids"]


@pytest.mark.parametrize("packing", [True, False])
def test_empty_documents_are_skipped(tmp_path, tokenizer, packing):
    documents = [text for pair in zip(texts(10), ["", " \n", "\t"] * 4, strict=False) for text in pair]
    section = make_section(
        path=write_lines(tmp_path / "a.jsonl", documents), streams=1, shuffle_buffer=1, packing=packing
    )
    full = make_section(path=write_lines(tmp_path / "b.jsonl", texts(10)), streams=1, shuffle_buffer=1, packing=packing)
    assert [made[:2] for made in steps(section, tokenizer, 6)] == [made[:2] for made in steps(full, tokenizer, 6)]


def test_a_text_of_empty_documents_is_an_error(tmp_path, tokenizer):
    section = make_section(path=write_lines(tmp_path / "a.jsonl", ["", " "] * 4))
    with pytest.raises(DataError, match="no document gives a token"):
        steps(section, tokenizer, 1)


def test_half_a_surrogate_pair_does_not_end_a_run(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": "peace \\ud800 commerce"}\n')
    section = make_section(path=str(tmp_path / "a.jsonl"), streams=1, packing=False)
    [([row], _, _)] = steps(section, tokenizer, 1, batch_size=1)
    assert tokenizer.decode(row, skip_special_tokens=True) == "peace ? commerce"
