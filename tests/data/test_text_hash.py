"""Which documents are held out."""

from data.sources import evaluation_source, training_source
from data.text_hash import is_held_out
from tests.data.conftest import make_section, read, texts, write

DOCUMENTS = texts(400)


def test_held_out_documents_follow_from_their_text_alone(tmp_path):
    write(tmp_path / "a.jsonl", DOCUMENTS)
    write(tmp_path / "b.parquet", DOCUMENTS[::-1], field="body")

    def split(share, **changes):
        section = make_section(held_out=share, **changes)
        return set(read(training_source(section))), set(read(evaluation_source(section)))

    training, held_out = split(0.1, path=str(tmp_path / "a.jsonl"))
    assert split(0.1, path=str(tmp_path / "b.parquet"), text_field="body") == (training, held_out)
    assert training | held_out == set(DOCUMENTS) and not training & held_out
    assert 20 < len(held_out) < 60
    assert held_out < split(0.3, path=str(tmp_path / "a.jsonl"))[1]
    assert is_held_out("peace \ud800", 1.0) and not is_held_out("peace", 1e-18)
