"""A process that only encodes finds the places between tokens by their bytes: the same ids, the same places."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from alignment.models.tokenizer.token_bytes import TokenBytes
from alignment.models.tokenizer.tokenizer import load_tokenizer

SPECIAL = ["<|end|>", "<|start|>"]
WORDS = ["hello world it's \u00fcber", "two dogs ran", "the cat sat on 12 mats", "\u6f22\u5b57 a\n b"]


def bpe(**parts):
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = parts.pop("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))
    library.decoder = decoders.ByteLevel()
    for name, part in parts.items():
        setattr(library, name, part)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(WORDS * 3, trainer)
    return library


def words():
    library = Tokenizer(
        models.WordLevel({"<unk>": 0, "A": 1, "b": 2, **{t: 3 + i for i, t in enumerate(SPECIAL)}}, "<unk>")
    )
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens(SPECIAL)
    return library


def with_greedy_token():
    library = bpe()
    library.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True)])
    return library


SPLIT = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|\s+|[^\s\p{L}\p{N}]+"), "isolated")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SPELLING = {
    "byte-level": bpe,
    "a replacement": lambda: bpe(normalizer=normalizers.Replace("q", "QQ")),
    "composed first": lambda: bpe(normalizer=normalizers.NFC()),
    "offsets without blanks": lambda: bpe(post_processor=processors.ByteLevel(trim_offsets=True)),
    "a pattern of its own": lambda: bpe(pre_tokenizer=pre_tokenizers.Sequence([SPLIT, BYTES])),
    "a token that takes the blanks around it": with_greedy_token,
}
OTHERS = {
    "a blank before the text": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "lower case": lambda: bpe(normalizer=normalizers.Lowercase()),
    "words": words,
}
texts = st.lists(
    st.one_of(
        st.sampled_from(
            [*SPECIAL, "<tool>", " ", "\n", "hello", "it's", "\u00fc", "u\u0308", "\u6f22", "12", "\U0001f600"]
        ),
        st.text(max_size=4).filter(lambda text: text.isprintable()),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Return a function that gives a tokenizer and the same one for a process that only encodes."""
    monkeypatch.setitem(os.environ, "TOKENIZERS_PARALLELISM", "false")

    def make(library):
        library.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
        tokenizer = load_tokenizer(tmp_path)
        return tokenizer, tokenizer.in_worker()

    return make


@pytest.mark.parametrize("keeps", ["all", "ascii", "nothing"])
def test_tokens_are_counted_by_their_bytes(keeps):
    # \u00c3 and \u00bc stand for the two bytes of an u with dots, \u0120 for a blank.
    vocab = {"a": 0, "\u0120b": 1, "\u00c3": 2, "\u00bc": 3, "\u00c3\u00bc": 4, "\u6f22": 5, "<|end|>": 6}
    token_bytes = TokenBytes(vocab, {6: "<|end|>"}, keeps=keeps)
    assert token_bytes.count_before([0, 1, 4, 6, 0], "a b\u00fc<|end|>a", [1, 2, 3, 4, 11]) == [1, None, 2, 3, 4]
    assert token_bytes.count_before([2, 3, 0], "\u00fca", [1]) == [2]
    assert token_bytes.count_before([0, 1], "a  b", [1]) is None
    assert token_bytes.count_before([0, 5], "a\u6f22", [1]) is None
    assert token_bytes.count_before([0, 7], "a", []) is None
    # What was changed before it was cut has the same length: it shows where the text may have been changed.
    assert (token_bytes.count_before([0, 0], "ab", [1]) is None) == (keeps == "nothing")
    assert (token_bytes.count_before([2, 2], "\u00fc", []) is None) == (keeps != "all")


@pytest.mark.parametrize("name", SPELLING)
@pytest.mark.parametrize("special", [False, True])
def test_ids_and_places_are_the_same(name, special, both):
    here, there = both(SPELLING[name]())
    known = {"composed first": "ascii", "a replacement": "nothing"}
    assert there._model._bytes._keeps == known.get(name, "all")
    spelled = []

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(texts)
    def check(parts):
        text = "".join(parts)
        cuts = range(1, len(text))
        ids, expected = here.encode_cut(text, cuts, add_special_tokens=special)
        found_ids, found = there.encode_cut(text, cuts, add_special_tokens=special)
        assert found_ids == ids
        spelled.append(there._model._bytes.count_before(ids, text, cuts) is not None)
        for cut, one, other in zip(cuts, expected, found, strict=True):
            assert one == other or (one is None and text[cut] == " " and name == "offsets without blanks"), (text, cut)

    check()
    assert sum(spelled) > len(spelled) / 4


@pytest.mark.parametrize("name", OTHERS)
def test_other_tokenizers_are_asked_as_before(name, both):
    here, there = both(OTHERS[name]())
    assert there._model._bytes is None
    assert there.encode_cut("A b<|end|>", [1, 3]) == here.encode_cut("A b<|end|>", [1, 3])


def test_what_stands_around_a_text_is_asked_as_before(both):
    around = processors.TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", 1)])
    here, there = both(bpe(post_processor=around))
    for special in (False, True):
        expected = here.encode_cut("hello world", [5], add_special_tokens=special)
        assert there.encode_cut("hello world", [5], add_special_tokens=special) == expected
        assert (expected[0][0] == 1) == special
