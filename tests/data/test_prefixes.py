"""Texts that are cut before they are tokenised: the rows are those of whole texts."""

import random

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import UnigramTrainer
from transformers import PreTrainedTokenizerFast

from data.data_errors import DataError
from data.packing import document_rows
from data.prefixes import META, blank_from, words_are_apart
from data.tokenizer import Encoder
from tests.data.conftest import VOCABULARY, texts

MOST = 31
ODD = (
    "é",
    "e\u0301",
    "ﬁ",
    "日本語",
    "\U0001f469\u200d\U0001f467",
    "\u0301",
    "\u00a0",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\ud800",
)
SENTINEL = "<extra_id_0>"


def varied(count: int) -> list[str]:
    """Documents of words, of marks that join with a neighbour, of blanks in a row, without a blank, of long words."""
    draw, plain, made = random.Random(0), texts(50), []
    for n in range(count):
        words = " ".join(draw.choices(plain, k=draw.randint(1, 8))).split()
        for _ in range(draw.choice((0, 0, 3, 30))):
            words.insert(draw.randrange(len(words) + 1), draw.choice((*ODD, "a" * draw.randint(1, 400), SENTINEL, "")))
        made.append(draw.choice((" ", " ", " ", "", "\n", "  ", " \u0301")).join(words))
        if n % 3 == 0:  # exactly at, just before and just behind the place where texts are cut
            made[-1] = made[-1][: 176 + draw.randint(-2, 2)]
    return made


def t5_like(corpus: list[str]) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer as transformers makes of t5-base's, with another normaliser: T5's is a table of 300 kB."""
    inner = Tokenizer(Unigram())
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<pad>", "</s>", "<unk>"]
    inner.train_from_iterator(corpus, UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    made.add_special_tokens({"additional_special_tokens": [SENTINEL]})
    return made


def rows(ids, eos):
    return [row for row, _, _ in document_rows(((n, 0, one) for n, one in enumerate(ids) if one), MOST + 1, eos)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["builtin", "like T5"])
def test_rows_are_those_of_whole_texts(tokenizer, kind):
    documents = varied(3000)
    if kind == "like T5":
        tokenizer = t5_like([text for text in documents[:300] if "\ud800" not in text])
    assert words_are_apart(tokenizer.backend_tokenizer)
    whole, cut = Encoder(tokenizer, VOCABULARY), Encoder(tokenizer, VOCABULARY, MOST)
    replaced = [text.encode("utf-8", "replace").decode() for text in documents]
    expected = tokenizer(replaced, add_special_tokens=False, verbose=False)["input_ids"]
    assert list(whole(documents)) == expected
    found = list(cut(documents))
    assert rows(found, whole.eos) == rows(expected, whole.eos)
    assert sum(len(a) < len(b) for a, b in zip(found, expected, strict=True)) > 300, "hardly a text was cut"


def test_a_text_is_cut_between_two_plain_words_or_not_at_all():
    assert blank_from("abc def ghi", 3) == 3
    assert blank_from("abc def ghi", 5) == 7
    for text in ("abc, def", "abc  def", "abc \u0301def", "abc -def", "a" * 50, "abc"):
        assert blank_from(text, 2) == len(text)
    assert blank_from("a" * 2000 + " b", 20) == 2002  # nobody looks that far


@pytest.mark.parametrize("threads", [1, 2])
def test_pieces_of_a_text_have_the_ids_of_the_whole(tokenizer, threads, monkeypatch):
    """Words of a token each need one piece, words of many tokens a part of one, tokens of many characters several."""
    monkeypatch.setattr("data.tokenizer._threads", lambda: threads)
    documents = ["the " * 600 + "end", "x" * 2000, "of and " * 300, "internationalization " * 200, "", "a b"] * 40
    expected = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    found = list(Encoder(tokenizer, VOCABULARY, MOST)(documents))
    assert [ids[:MOST] for ids in found] == [ids[:MOST] for ids in expected]


def test_an_error_of_the_tokenizer_is_raised_whatever_the_threads(tokenizer, monkeypatch):
    encoder = Encoder(tokenizer, VOCABULARY, MOST)
    monkeypatch.setattr(encoder, "_ids", lambda texts: 1 / 0)
    for threads in (1, 2):
        monkeypatch.setattr("data.tokenizer._threads", lambda threads=threads: threads)
        with pytest.raises(ZeroDivisionError):
            list(encoder(["a b"]))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_the_blocks_comes_after_the_ids_before_it(tokenizer, threads, monkeypatch):
    """A file that breaks off must not take the rows before it along: a resume would go on after them."""
    monkeypatch.setattr("data.tokenizer._threads", lambda: threads)

    def blocks():
        yield "first", ["a b"] * 100
        yield "second", ["c"]
        raise DataError("line 102 is broken")

    found = []
    with pytest.raises(DataError, match="line 102"):
        for mark, _ in Encoder(tokenizer, VOCABULARY, MOST).blocks(blocks()):
            found.append(mark)
    assert found == ["first"] * 100 + ["second"]


def test_a_tokenizer_that_drops_a_leading_blank_gets_whole_texts():
    """Its second piece would begin without the blank that its words begin with."""
    blank = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert words_are_apart(splitting(blank))
    assert not words_are_apart(splitting(blank, normalizer=normalizers.Strip()))


def splitting(*parts, normalizer=None):
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(list(parts))
    if normalizer:
        inner.normalizer = normalizer
    return inner


def test_tokenizers_that_may_look_across_a_blank_get_whole_texts():
    split, meta = pre_tokenizers.Split, normalizers.Replace(" ", META)
    for apart in (
        splitting(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()),
        splitting(pre_tokenizers.ByteLevel(use_regex=True)),
        splitting(split(META, "merged_with_next"), normalizer=meta),
    ):
        assert words_are_apart(apart)
    for unknown in (
        Tokenizer(BPE()),
        splitting(pre_tokenizers.Digits()),
        splitting(split(META, "merged_with_next")),
        splitting(split(META, "merged_with_previous"), normalizer=meta),
        splitting(pre_tokenizers.WhitespaceSplit(), normalizer=meta),
        splitting(split(Regex(r"\w+ \w+"), "isolated"), pre_tokenizers.WhitespaceSplit()),
        splitting(pre_tokenizers.WhitespaceSplit(), normalizer=normalizers.Replace(Regex("x y"), "z")),
        splitting(pre_tokenizers.Metaspace(split=False)),
        splitting(pre_tokenizers.ByteLevel(use_regex=False)),
    ):
        assert not words_are_apart(unknown)
    with_blank = splitting(pre_tokenizers.WhitespaceSplit())
    with_blank.add_tokens(["new york"])
    assert not words_are_apart(with_blank)
