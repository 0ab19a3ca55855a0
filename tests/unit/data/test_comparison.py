"""How a pair is put as a question, in both orders, and what a pairwise dataset leaves out."""

from __future__ import annotations

import pytest

from alignment.data import ComparisonDataset
from alignment.data.comparison import PairQuestion, check_comparison, check_overlong
from alignment.data.encode import EncodeOptions, Encoder
from alignment.data.sources.packing import TOKENIZER
from alignment.errors import ArgumentError, DataError
from alignment.models.tokenizer.tokenizer import load_tokenizer

SHORT = PairQuestion(
    template="{context} <eos> {response_A} <eos> {response_B}", turn="{content}", letters=("apple", "boots")
)
PAIR = {"input": "pack rope", "answer": "rope done", "other_answer": "and rope tent done", "better": True}


@pytest.fixture
def tokenizer():
    return load_tokenizer(TOKENIZER)


class Keys:
    """Values of the keys."""

    def __init__(self, template=None, turn=None, letters=None, on_overlong="drop"):
        self.pairwise_template, self.pairwise_turn, self.pairwise_letters = template, turn, letters
        self.on_overlong = on_overlong


def encoded(make_dataset, tokenizer, rows, **options):
    options = {"max_length": 64, "template": "tokenizer", "comparison": SHORT, **options}
    return ComparisonDataset(make_dataset(rows, "pairs"), tokenizer, options=EncodeOptions(**options))


def test_by_default_a_pair_is_written_as_for_rlhflows_pair_preference_models():
    turns = ["Q", "R", "S"]
    context = "\n\n<turn> user\n Q\n<turn> assistant\n R\n<turn> user\n S\n"
    expected = f"[CONTEXT] {context} [RESPONSE A] one [RESPONSE B] two \n"
    assert PairQuestion().question(turns, "one", "two") == expected


def test_text_that_looks_like_a_placeholder_stays_as_it_is():
    written = SHORT.question("{response_A} {content}", "{response_B}", "{context}")
    assert written == "{response_A} {content} <eos> {response_B} <eos> {context}"


def test_each_pair_is_asked_in_both_orders_with_the_letter_that_is_right(make_dataset, tokenizer):
    dataset = encoded(make_dataset, tokenizer, [PAIR, {**PAIR, "better": False}])
    for sample, better, worse in zip(
        dataset, ("rope done", "and rope tent done"), ("and rope tent done", "rope done"), strict=True
    ):
        for order, texts, letter in (("better", (better, worse), "apple"), ("worse", (worse, better), "boots")):
            wanted = f"<bos> <user> pack rope <eos> {texts[0]} <eos> {texts[1]} <assistant> {letter}"
            assert tokenizer.decode(sample[f"{order}_first_input_ids"].tolist(), skip_special_tokens=False) == wanted
    assert [sample["extra_length"] for sample in dataset] == [-2, 2]
    assert [sample["margin"] for sample in dataset] == [None, None]
    batch = dataset.collate(list(dataset))
    assert batch["worse_first_lengths"].tolist() == [14, 14] and batch["better_first_input_ids"].shape == (2, 14)


def test_what_cannot_be_compared_is_counted_and_a_long_row_is_never_cut(make_dataset, tokenizer):
    rows = [
        PAIR, {**PAIR, "better": None}, {**PAIR, "other_answer": "rope  done"}, {**PAIR, "answer": " "},
        {**PAIR, "input": ""}, {**PAIR, "answer": "rope " * 30},
    ]  # fmt: skip
    for overlong in ("drop", "left", "right"):
        dataset = encoded(make_dataset, tokenizer, rows, max_length=20, on_overlong=overlong)
        account = {row.reason: row.count for row in dataset.ledger.rows()}
        assert len(dataset) == 1 and len(dataset[0]["better_first_input_ids"]) == 14
        reasons = ("tied_pair", "identical_pair", "empty_answer", "empty_prompt", "dropped_overlong")
        assert account == dict.fromkeys(reasons, 1)


def test_answers_that_differ_only_in_unknown_words_are_not_compared(make_dataset, tokenizer):
    rows = [PAIR, {**PAIR, "answer": "rope zebra", "other_answer": "rope giraffe"}]
    assert encoded(make_dataset, tokenizer, rows).ledger.total("unknown_difference") == 1


def test_a_long_row_is_an_error_where_that_is_asked_for(make_dataset, tokenizer):
    with pytest.raises(DataError, match="13 prompt tokens and 1 answer tokens do not fit"):
        encoded(make_dataset, tokenizer, [PAIR], max_length=13, on_overlong="error")


def test_a_conversation_with_tools_is_refused():
    with pytest.raises(DataError, match="a pairwise model reads texts"):
        SHORT.question({"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "f"}]}, "b", "c")


def test_letters_are_one_known_token_each(tokenizer):
    assert tokenizer.decode(list(SHORT.letter_ids(tokenizer)), skip_special_tokens=True) == "apple boots"
    with pytest.raises(ArgumentError, match="'A' is unknown to the tokenizer.*for example, pack, done, also"):
        PairQuestion().letter_ids(tokenizer)
    with pytest.raises(ArgumentError, match="'apple boots' is 2 tokens"):
        PairQuestion(letters=("tent", "apple boots")).letter_ids(tokenizer)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"template": "{response_A} {response_B}"}, "must contain {context} once, and does 0 times"),
        ({"template": "{context} {response_A}"}, "must contain {response_B} once, and does 0 times"),
        (
            {"template": "{context} {context} {response_A} {response_B}"},
            "must contain {context} once, and does 2 times",
        ),
        ({"turn": "{role}"}, "pairwise_turn='{role}' must contain {content} once, and does 0 times"),
        ({"letters": ("A",)}, "pairwise_letters=A must be two different words, such as A B"),
        ({"letters": ("A", "A")}, "pairwise_letters=A A must be two different words, such as A B"),
    ],
)
def test_a_wrong_key_is_named(keys, said):
    [problem] = check_comparison(Keys(**keys))
    assert said in problem
    with pytest.raises(ArgumentError):
        PairQuestion.of(Keys(**keys))


def test_rows_are_not_to_be_truncated():
    assert not [*check_overlong(Keys(on_overlong="error"))]
    [problem] = check_overlong(Keys(on_overlong="left"))
    assert "on_overlong=left would cut" in problem and "(allowed: drop, error)" in problem


def test_keys_win_over_the_record_of_a_folder_and_that_over_the_default():
    record = SHORT.to_record()
    assert PairQuestion.from_record(record) == SHORT
    assert PairQuestion.of(Keys(), record) == SHORT
    assert PairQuestion.of(Keys(letters=("a", "b")), record).letters == ("a", "b")
    assert PairQuestion.of(Keys()) == PairQuestion()
    with pytest.raises(ArgumentError, match="unknown fields: colour"):
        PairQuestion.from_record({**record, "colour": 1})


def test_the_encoder_renders_the_question_as_a_users_turn(tokenizer):
    ids = SHORT.encode(Encoder(tokenizer, "tokenizer"), "pack tent", "tent", "done")
    assert (
        tokenizer.decode(ids, skip_special_tokens=False) == "<bos> <user> pack tent <eos> tent <eos> done <assistant>"
    )


def test_a_split_keeps_the_comparisons_of_a_prompt_together(make_dataset, tokenizer):
    words, more = ("rope", "tent", "map", "lamp"), ("map", "coat", "rope")
    rows = [{**PAIR, "input": f"pack {word}", "answer": f"{word} done {end}"} for word in words for end in more]
    train, test = encoded(make_dataset, tokenizer, rows).split_train_test(0.25, seed=1)
    prompts = [{sample["prompt_digest"] for sample in part} for part in (train, test)]
    assert (len(train), len(test)) == (9, 3) and not prompts[0] & prompts[1]
    assert len({sample["digest"] for sample in train}) == 9
