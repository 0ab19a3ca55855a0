"""Token ids with known prompt and answer spans, and length limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from alignment.data.encode import EncodeOptions, Encoder
from alignment.data.lengths import fit_lengths
from alignment.errors import ArgumentError, DataError

EOS = 2


class WordsOnly:
    """Splits on blanks only, so that the prompt's last word and the answer's first one are one unknown word."""

    words = {"<unk>": 0, "a": 1, "</s>": 2, "b": 3, "c": 4}
    eos_token, bos_token, eos_token_id, pad_token_id, chat_template = "</s>", None, EOS, None, None

    def __call__(self, text, *, add_special_tokens=True):
        return {"input_ids": [self.words.get(word, 0) for word in text.split()]}

    def decode(self, ids, *, skip_special_tokens=True):
        return " ".join(list(self.words)[i] for i in ids)


answers = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_overlong": "cut"}, "on_overlong is 'cut' .allowed: drop, left, right, error"),
        ({"on_bad_row": "keep"}, "on_bad_row is 'keep' .allowed: drop, error"),
        ({"template": "chatml"}, "template is 'chatml' .allowed: pku, tokenizer"),
        ({"max_length": 1}, "max_length is 1 .allowed: 2 or more"),
        ({"max_prompt_length": 0}, "max_prompt_length is 0"),
        ({"min_answer_tokens": -1}, "min_answer_tokens is -1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ArgumentError, match=message):
        EncodeOptions(**options)


def test_answer_follows_the_prompt_and_ends_with_one_eos(tokenizer):
    encoder = Encoder(tokenizer, "pku")
    prompt = encoder.encode_prompt(["hi"])
    answer = encoder.encode_answer(prompt, "a b")
    assert tokenizer.decode(prompt.ids + answer.ids, skip_special_tokens=False).endswith("ASSISTANT : a b </s>")
    assert answer.ids[-1] == EOS and answer.ids.count(EOS) == 1 and not answer.retokenized


@pytest.mark.parametrize("text", ["a b</s>", "a b </s> </s>"])
def test_eos_is_never_written_twice(tokenizer, text):
    encoder = Encoder(tokenizer, "pku")
    assert encoder.encode_answer(encoder.encode_prompt(["hi"]), text).ids.count(EOS) == 1


@pytest.mark.parametrize("text", ["a b", "a b</s>"])
def test_a_tokenizer_that_closes_every_text_leaves_the_prompt_open(make_tokenizer, text):
    encoder = Encoder(make_tokenizer(adds_bos=True, adds_eos=True), "pku")
    prompt = encoder.encode_prompt(["hi"])
    answer = encoder.encode_answer(prompt, text)
    assert prompt.ids[0] == 1 and EOS not in prompt.ids
    assert answer.ids.count(EOS) == 1 and not answer.retokenized


def test_chat_template_gives_one_bos(make_tokenizer):
    encoder = Encoder(make_tokenizer(adds_bos=True), "tokenizer")
    prompt = encoder.encode_prompt(["hi"])
    assert prompt.ids.count(1) == 1
    assert encoder.encode_answer(prompt, "a b").ids[-1] == EOS


def test_merge_across_the_boundary_is_retokenized_and_told(merging_tokenizer):
    encoder = Encoder(merging_tokenizer, "pku")
    prompt = encoder.encode_prompt(["hi"])
    merged, plain = encoder.encode_answer(prompt, "a b"), encoder.encode_answer(prompt, "b a")
    assert merged.retokenized and not plain.retokenized
    assert merged.ids == [*merging_tokenizer("a b")["input_ids"], EOS]


def test_an_unknown_word_at_the_boundary_does_not_swallow_the_answer():
    tokenizer = WordsOnly()
    encoder = Encoder(tokenizer, "pku")
    answer = encoder.encode_answer(encoder.encode_prompt(["a"]), "b c")
    assert answer.retokenized and answer.ids == [tokenizer.words["b"], tokenizer.words["c"], EOS]


def test_dialogue_targets_are_the_assistant_turns_with_their_eos(tokenizer):
    dialogue = Encoder(tokenizer, "pku").encode_dialogue(["a", "b c", "d", "e"])
    targets = [token for token, is_target in zip(dialogue.body_ids, dialogue.body_targets, strict=True) if is_target]
    assert tokenizer.decode(targets, skip_special_tokens=False) == "b c </s> e </s>"
    whole = tokenizer.decode(dialogue.prompt_ids + dialogue.body_ids, skip_special_tokens=False)
    assert whole == "BEGINNING OF CONVERSATION : USER : a ASSISTANT : b c </s> USER : d ASSISTANT : e </s>"


def test_dialogue_with_the_chat_template(tokenizer):
    dialogue = Encoder(tokenizer, "tokenizer").encode_dialogue(["a", "b c", "d", "e"])
    whole = tokenizer.decode(dialogue.prompt_ids + dialogue.body_ids, skip_special_tokens=False)
    assert whole == "<s> [u] a [a] b c </s> [u] d [a] e </s>"
    assert not dialogue.retokenized and sum(dialogue.body_targets) == 5


@given(answer=answers, question=answers, template=st.sampled_from(["pku", "tokenizer"]))
def test_single_turn_equals_the_dialogue_of_one_pair(shared_tokenizer, answer, question, template):
    encoder = Encoder(shared_tokenizer, template)
    prompt = encoder.encode_prompt([question])
    single = encoder.encode_answer(prompt, answer)
    dialogue = encoder.encode_dialogue([question, answer])
    assert (dialogue.prompt_ids, dialogue.body_ids) == (prompt.ids, single.ids)
    assert all(dialogue.body_targets)


@given(
    prompt=st.lists(st.integers(3, 9), min_size=1, max_size=12),
    bodies=st.lists(st.lists(st.integers(3, 9), min_size=1, max_size=8), max_size=2),
    max_length=st.integers(2, 16),
    max_prompt=st.none() | st.integers(1, 10),
    side=st.sampled_from(["drop", "left", "right"]),
)
def test_what_fits_is_within_the_limits_and_cut_on_the_named_side(prompt, bodies, max_length, max_prompt, side):
    options = EncodeOptions(max_length=max_length, max_prompt_length=max_prompt, on_overlong=side)
    answers = [[*body, EOS] for body in bodies]
    fitted = fit_lengths(prompt, answers, options, place="p")
    if fitted is None:
        return
    assert 1 <= len(fitted.prompt) <= (max_prompt or max_length)
    assert all(len(fitted.prompt) + len(answer) <= max_length and answer for answer in fitted.answers)
    if fitted.reason is None:
        assert (fitted.prompt, fitted.answers) == (prompt, answers)
    elif side == "left":
        assert fitted.answers == answers and prompt[-len(fitted.prompt) :] == fitted.prompt
    else:
        assert side == "right" and prompt[: len(fitted.prompt)] == fitted.prompt
        for cut, answer in zip(fitted.answers, answers, strict=True):
            assert answer[: len(cut)] == cut and (cut == answer or EOS not in cut)


def test_error_names_place_length_and_limits():
    options = EncodeOptions(max_length=4, on_overlong="error")
    with pytest.raises(DataError, match="row 3: 3 prompt tokens and 2 answer tokens.*max_length 4"):
        fit_lengths([5, 6, 7], [[8, EOS]], options, place="dataset 'x', row 3")


def test_a_left_cut_leaves_at_least_one_prompt_token():
    options = EncodeOptions(max_length=4, on_overlong="left")
    assert fit_lengths([5, 6, 7], [[8, 9, EOS]], options, place="p").prompt == [7]
    assert fit_lengths([5, 6, 7], [[8, 9, 9, EOS]], options, place="p") is None


def test_a_right_cut_that_leaves_no_answer_drops_the_row():
    options = EncodeOptions(max_length=4, on_overlong="right", min_answer_tokens=2)
    assert fit_lengths([5, 6], [[8, 9, EOS]], options, place="p").answers == [[8, 9]]
    assert fit_lengths([5, 6, 7], [[8, 9, EOS]], options, place="p") is None


class ByteTokenizer:
    """A byte-level BPE trained here: it never loses text and may merge across words."""

    eos_token, bos_token, pad_token_id, chat_template = "</s>", None, None, None

    def __init__(self) -> None:
        self._tokenizer = Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
        )
        corpus = ["BEGINNING OF CONVERSATION: USER: hello ASSISTANT:hello there"] * 4
        self._tokenizer.train_from_iterator(corpus, trainer)
        self.eos_token_id = self._tokenizer.token_to_id("</s>")

    def __call__(self, text, *, add_special_tokens=True):
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=False).ids}

    def decode(self, ids, *, skip_special_tokens=True):
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)


BYTES = ByteTokenizer()
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(lambda t: "</s>" not in t)


@given(question=texts, answer=texts)
def test_with_byte_level_tokens_the_answer_is_exactly_the_answer(question, answer):
    encoder = Encoder(BYTES, "pku")
    prompt = encoder.encode_prompt([question])
    encoded = encoder.encode_answer(prompt, answer)
    assert encoded.ids[-1] == BYTES.eos_token_id
    assert BYTES.decode(encoded.ids[:-1]) == answer
    if answer[0].isalnum():
        assert not encoded.retokenized


def test_the_end_token_is_no_content_and_everything_else_is(tokenizer):
    encoder = Encoder(tokenizer, "pku")
    assert [encoder.count_content(ids) for ids in ([5, 6, EOS], [5, 6], [EOS], [])] == [2, 2, 0, 0]


@pytest.mark.parametrize(("side", "kept"), [("drop", None), ("left", [7, 8]), ("right", [5, 6])])
def test_a_prompt_that_no_engine_answers_is_too_long_and_a_longer_one_is_not(side, kept):
    options = EncodeOptions(max_length=9, on_overlong=side, unanswerable=range(3, 5))
    fitted = fit_lengths([5, 6, 7, 8], [], options, place="p")
    assert (None if fitted is None else fitted.prompt) == kept
    assert fit_lengths([5, 6, 7, 8, 9], [], options, place="p").prompt == [5, 6, 7, 8, 9]
    assert fit_lengths([5, 6], [], replace(options, unanswerable=range(1, 5)), place="p") is None


def test_a_prompt_that_no_engine_answers_is_an_error_that_says_why():
    options = EncodeOptions(max_length=9, on_overlong="error", unanswerable=range(3, 5))
    with pytest.raises(DataError, match="row 3: 4 prompt tokens .* cross original_max_position_embeddings of longrope"):
        fit_lengths([5, 6, 7, 8], [], options, place="dataset 'x', row 3")
