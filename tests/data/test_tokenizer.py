"""The tokenizer against the model's vocabulary, and the builtin tokenizer and text."""

import json
import shutil
import socket

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data import remote
from data.data_errors import DataError, SourceUnavailable
from data.held_out import EvaluationData
from data.loader import TrainingData
from data.sources import HELD_OUT, evaluation_source, training_source
from data.tokenizer import BUILTIN, Encoder, check_vocabulary, id_count, load_tokenizer, ordinary_pieces
from tests.data.conftest import make_section


@pytest.fixture
def t5_like() -> PreTrainedTokenizerFast:
    """Ten ordinary pieces and four sentinels after them, as t5-base has 32,000 and 100."""
    words = ["<pad>", "</s>", "<unk>", "a", "b", "c", "d", "e", "f", "g"]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    made.add_special_tokens({"additional_special_tokens": [f"<extra_id_{n}>" for n in range(4)]})
    assert len(made) == 14
    return made


def test_sentinels_become_unknown_and_need_no_row_of_the_model(t5_like):
    check_vocabulary(t5_like, 10)
    assert list(Encoder(t5_like, 10)(["a <extra_id_0> b", "c"])) == [[3, 2, 4], [5]]
    assert list(Encoder(t5_like, 14)(["a <extra_id_0> b"])) == [[3, 10, 4]]


def test_a_special_token_in_the_text_may_be_text(t5_like, tokenizer):
    """Both ways in which it is found: cut out before all else, and as a piece of the vocabulary."""
    assert list(Encoder(t5_like, 14, special_tokens="text")(["a </s> <extra_id_0> b"])) == [[3, *[2] * 6, 4]]
    text = "The end.</s> And <pad>, <unk> </s>"
    as_token, as_text = (next(Encoder(tokenizer, 4096, special_tokens=choice)([text])) for choice in ("token", "text"))
    assert as_token.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(as_text) == text and not set(as_text) & set(tokenizer.all_special_ids)
    plain = "The union, <b>peace</b> and 1863."
    for most in (None, 4):
        encoders = [Encoder(tokenizer, 4096, most, special_tokens=choice) for choice in ("token", "text")]
        assert list(encoders[0]([plain])) == list(encoders[1]([plain]))


def test_added_tokens_that_are_not_special_keep_their_ids():
    inner = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate("abc<")}, merges=[]))
    inner.add_special_tokens(["</s>"])
    inner.add_tokens(["abc"])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    assert list(Encoder(made, 6)(["ab</s>abc"])) == [[0, 1, 4, 5]]
    assert list(Encoder(made, 6, special_tokens="text")(["ab<abc"])) == [[0, 1, 3, 5]]


def test_a_special_token_that_merges_would_make_may_be_text():
    """Of a BPE that was trained on text which spells it."""
    letters = {letter: n for n, letter in enumerate("ab</s>")} | {"</": 6, "s>": 7, "</s>": 8, "ab": 9}
    inner = Tokenizer(models.BPE(vocab=letters, merges=[("<", "/"), ("s", ">"), ("</", "s>"), ("a", "b")]))
    inner.add_special_tokens(["</s>"])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    assert list(Encoder(made, 10)(["ab</s>"])) == [[9, 8]]
    assert list(Encoder(made, 10, special_tokens="text")(["ab</s>"])) == [[9, 6, 7]]


def test_added_tokens_that_are_not_special_are_ordinary_pieces():
    """GPT-NeoX's runs of blanks: in a model without their rows they would become the unknown token, its end of text."""
    inner = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    inner.add_special_tokens(["<end>"])
    inner.add_tokens(["    ", "  "])
    inner.add_special_tokens(["<sentinel>"])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<end>")
    assert ordinary_pieces(made) == 5 and id_count(made) == 6
    with pytest.raises(DataError, match=r"has 5 ordinary pieces, but model\.vocab_size is 3; set model\.vocab_size=5"):
        Encoder(made, 3)
    assert list(Encoder(made, 5)(["a    b"])) == [[0, 3, 1]]


def unspellable() -> dict[str, tuple[Tokenizer, str, str]]:
    """Tokenizers that fail at a text, as data errors or with a panic of their Rust code: (it, the text, the reason)."""
    slow = Tokenizer(models.BPE(vocab={"</s>": 0, "a": 1, "x": 2}, merges=[]))
    slow.pre_tokenizer = pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated")
    kinds = {
        "panic": (slow, "x" * 30, "retry-limit-in-match over"),
        "words": (Tokenizer(models.WordLevel({"</s>": 0, "a": 1})), "z", r"Missing \[UNK\] token"),
        "unigram": (Tokenizer(models.Unigram([("</s>", 0.0), ("a", -1.0)])), "z", "`unk_id` is missing"),
        "pieces": (Tokenizer(models.WordPiece({"</s>": 0, "a": 1}, unk_token="[UNK]")), "z", r"Missing \[UNK\] token"),
    }
    for kind in ("words", "pieces"):
        kinds[kind][0].pre_tokenizer = pre_tokenizers.Whitespace()
    return kinds


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("kind", unspellable())
def test_a_text_that_cannot_be_encoded_ends_a_run_with_a_sentence(tmp_path, monkeypatch, kind, threads):
    monkeypatch.setenv("RAYON_NUM_THREADS", threads)
    inner, text, reason = unspellable()[kind]
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    (tmp_path / "a.txt").write_text("a\n" * 9 + text + "\n")
    section = make_section(
        path=str(tmp_path / "a.txt"), eval_path=str(tmp_path / "a.txt"), streams=1, sequence_length=2
    )
    message = rf"data.tokenizer cannot encode the text that begins '{text}' \(.*{reason}.*\); take another tokenizer"
    with pytest.raises(DataError, match=message) as error:
        for _ in TrainingData(section, made, vocab_size=3, batch_size=1):
            pass
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=message):
        EvaluationData(section, made, vocab_size=3)


def test_a_vocabulary_smaller_than_the_pieces_is_refused(t5_like):
    with pytest.raises(DataError, match=r"has 10 ordinary pieces, but model.vocab_size is 9; set model.vocab_size=10"):
        check_vocabulary(t5_like, 9)


def test_an_unknown_token_without_a_row_of_the_model_is_refused():
    """An added one comes after the pieces; text that calls for it would have had no row in the embedding."""
    inner = Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="<unk>"))
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    made.add_special_tokens({"additional_special_tokens": ["<x>"]})
    with pytest.raises(DataError, match=r"unknown token 2, .* model.vocab_size=2 has no row; set model.vocab_size=3"):
        check_vocabulary(made, 2)
    assert list(Encoder(made, 3)(["a<x>", "a"])) == [[1, 2], [1]]


def test_ids_that_are_left_out_are_counted():
    inner = Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "<x>": 9}))
    inner.add_special_tokens(["<x>"])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    assert len(made) == 3
    with pytest.raises(DataError, match=r"has ids up to 9, model.vocab_size is 3, .* set model.vocab_size=10"):
        check_vocabulary(made, 3)
    assert list(Encoder(made, 10)(["a", "<x>"])) == [[1], [9]]


def test_a_tokenizer_without_end_or_unknown_token_is_refused(t5_like):
    t5_like.unk_token = None
    with pytest.raises(DataError, match="no unknown token"):
        check_vocabulary(t5_like, 10)
    t5_like.eos_token = None
    with pytest.raises(DataError, match="no end-of-sequence token"):
        check_vocabulary(t5_like, 14)


def test_a_missing_tokenizer_is_one_sentence(tmp_path, monkeypatch):
    def refusal(name: str) -> str:
        with pytest.raises(DataError) as error:
            load_tokenizer(make_section(tokenizer=name))
        return str(error.value)

    assert "no such folder" in refusal(str(tmp_path / "missing"))
    assert "no tokenizer opens there" in refusal(str(tmp_path))
    with socket.socket() as free:  # bound but not listening: connections are refused
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(remote.constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        message = refusal("nobody/has-this-tokenizer")
    assert "cannot be reached" in message
    assert "data.tokenizer=FOLDER" in message and "data.source=builtin" in message


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path, monkeypatch):
    """Nor is anyone asked about it, as transformers does by itself."""
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    folder = shutil.copytree(BUILTIN, tmp_path / "own")
    (folder / "own.py").write_text("raise SystemExit('this is never run')")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"own: no tokenizer opens there \(it comes with code of its own, which is nev"):
        load_tokenizer(make_section(tokenizer=str(folder)))


def test_a_folder_with_a_sentencepiece_model_alone_is_refused_with_the_whole_reason(tmp_path):
    shutil.copy(BUILTIN / "spiece.model", tmp_path)
    with pytest.raises(DataError, match=r"no tokenizer opens there \(.*one of: \(1\) .*\)") as error:
        load_tokenizer(make_section(tokenizer=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_the_builtin_tokenizer_decodes_what_it_encoded(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, len(tokenizer)) == (0, 1, 2, 4096)
    source = evaluation_source(make_section(source="builtin"))
    address = next(text for _, text in source.read(0, 0))
    for text in (address, "Two  spaces, a tab\t, 1863, é, 日本 and 😀.\n\nThe end "):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids


def test_held_out_addresses_are_not_trained_on():
    section = make_section(source="builtin")
    train, held_out = training_source(section), evaluation_source(section)
    assert len(train.files) + len(held_out.files) == 249 and len(held_out.files) == len(HELD_OUT)
    read = [{text for file in range(len(s.files)) for _, text in s.read(file, 0)} for s in (train, held_out)]
    assert not read[0] & read[1]
    size, held_out_size = (sum(map(len, texts)) for texts in read)
    assert 0.05 < held_out_size / (size + held_out_size) < 0.07


def test_training_a_tokenizer_is_deterministic_and_keeps_new_lines():
    from data.tokenizer_training import as_transformers, train_tokenizer

    address = next(text for _, text in training_source(make_section(source="builtin")).read(0, 0))
    first, second = train_tokenizer([address], 400), train_tokenizer([address], 400)
    assert first == second
    made = as_transformers(first)
    assert made.decode(made(address)["input_ids"]) == address
    assert json.loads(made.backend_tokenizer.to_str())["model"]["type"] == "Unigram"


@pytest.mark.parametrize(
    "error", [DataError("a.jsonl, line 101: not valid JSON"), SourceUnavailable("gave up"), OSError(5, "Input/output")]
)
def test_an_error_of_the_text_is_not_the_vocabularys(error):
    """Nor is ctrl-C, which comes while the text is read."""
    from data.tokenizer_training import train_tokenizer

    def failing(error):
        yield "peace and commerce"
        raise error

    for raised in (error, KeyboardInterrupt()):
        with pytest.raises(type(raised)) as found:
            train_tokenizer(failing(raised), 300)
        assert found.value is raised


@pytest.mark.parametrize("size", [2, 2**31, 10**10])
def test_a_tokenizer_of_too_few_or_too_many_pieces_is_refused(size):
    from data.tokenizer_training import train_tokenizer

    with pytest.raises(DataError, match=r"--vocab-size"):
        train_tokenizer(["peace and commerce"], size)
