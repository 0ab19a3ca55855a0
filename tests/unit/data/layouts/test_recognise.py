"""Rows that several layouts fit, columns that nobody reads, nulls, mixes, and prompts that hold an answer."""

from __future__ import annotations

import json

import pytest

from alignment.data import PreferenceDataset, PromptOnlyDataset, RawDataset, SupervisedDataset
from alignment.data.encode import EncodeOptions
from alignment.data.ledger import BadRow
from alignment.data.raw.layouts.recognise import recognise
from alignment.data.raw.layouts.table import LAYOUTS
from alignment.errors import DataError

USER, SAYS_B, SAYS_D = (
    {"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("assistant", "d"))
)
PAIR = {"prompt": "a", "chosen": "b", "rejected": "d"}
HH = "\n\nHuman: a\n\nAssistant: b"
STOP = EncodeOptions(on_bad_row="error")


@pytest.fixture
def read(write_jsonl):
    """Return the samples of rows, read as the keys say."""
    return lambda *rows, **keys: list(RawDataset.load("jsonl", path=str(write_jsonl(rows)), **keys))


@pytest.mark.parametrize(
    ("row", "first", "second"),
    [
        ({"question": "a", "answer": "b", "solution": "d"}, "question and answer", "question and solution"),
        ({"prompt": "a", "question": "c", "answer": "b"}, "prompt and answer", "question and answer"),
        ({"messages": [USER, SAYS_B], "chosen": "b", "rejected": "d", "prompt": "a", "completion": "b"},
         "prompt and completion", "UltraFeedback binarized"),
        ({"problem": "a", "solution": "b", "messages": [USER, SAYS_B]}, "problem and solution",
         "conversations in messages"),
    ],
)  # fmt: skip
def test_an_ambiguous_row_names_both_candidates_and_the_ways_out(read, row, first, second):
    with pytest.raises(DataError, match="line 1.*layout=NAME.*ignored_columns") as error:
        read(row)
    assert f"'{first}'" in str(error.value) and f"'{second}'" in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS, ids=[layout.name for layout in LAYOUTS])
def test_the_columns_that_a_layout_needs_tell_it_from_every_other(layout):
    assert recognise(dict.fromkeys(layout.needs, "x")) == [layout]
    assert recognise(dict.fromkeys(layout.reads, "x")) == [layout]
    assert [other.name for other in LAYOUTS].count(layout.name) == 1


def test_deleted_messages_leave_a_tree(read):
    """The worst answer and one question with its answer are deleted."""
    rows = [
        {"message_id": number, "parent_id": parent, "text": text, "role": role, "rank": rank, "deleted": deleted}
        for number, parent, text, role, rank, deleted in (
            ("0", None, "a", "prompter", None, False),
            ("1", "0", "b", "assistant", 0, False),
            ("2", "0", "d", "assistant", 1, False),
            ("3", "0", "x", "assistant", 2, True),
            ("4", "1", "x", "prompter", None, True),
            ("5", "4", "x", "assistant", None, False),
        )
    ]
    assert read(*rows) == [{"input": ["a"], "answer": "b", "other_answer": "d", "better": True}]


def test_messages_beside_a_pair_must_repeat_the_chosen_conversation(read):
    pair = {"prompt": "a", "chosen": [USER, SAYS_B], "rejected": [USER, SAYS_D]}
    with pytest.raises(DataError, match="line 1.*'messages' is not the chosen conversation"):
        read({**pair, "messages": [USER, SAYS_D]})


@pytest.mark.parametrize("answers", [["b", "d"], "b", [{"answer": "b"}]])
def test_ranked_answers_must_be_objects(read, answers):
    with pytest.raises(DataError, match="line 1.*'answers' must hold objects with 'answer' and 'rank'"):
        read({"prompt": "a", "answers": answers})


def test_the_ways_out_of_an_ambiguous_row(read):
    row = {"question": "a", "answer": "b", "solution": "d"}
    assert read(row, layout="question and answer") == [{"input": "a", "answer": "b"}]
    assert read(row, ignored_columns="answer") == [{"input": "a", "answer": "d"}]
    assert read(row, input_key="question", output_key="solution") == [{"input": "a", "answer": "d"}]
    with pytest.raises(DataError, match="unknown layout 'alpacca'; did you mean 'alpaca'"):
        read(row, layout="alpacca")


@pytest.mark.parametrize(
    ("row", "keys", "column"),
    [
        ({"question": "a", "answer": "b", "context": "c"}, {}, "context"),
        ({"prompt": "a", "completion": "b", "images": ["x"]}, {}, "images"),
        ({"prompt": "a", "response": "b", "is_safe": False}, {}, "is_safe"),
        ({"instruction": "a", "input": "c", "output": "b"}, {"input_key": "instruction", "output_key": "output"},
         "input"),
        ({"q": "a", "s": "b", "history": [["c", "d"]]}, {"input_key": "q", "output_key": "s"}, "history"),
    ],
)  # fmt: skip
def test_a_column_that_changes_the_meaning_is_not_passed_over(read, row, keys, column):
    with pytest.raises(DataError, match=f"line 1.*'{column}' changes the meaning.*ignored_columns={column}"):
        read(row, **keys)
    assert read({**row, column: ""}, **keys) == read(row, ignored_columns=[column], **keys)


def test_columns_that_nobody_reads_are_listed_once_in_the_ledger(write_jsonl, tokenizer):
    rows = [{"id": number, "src": "a", "tgt": "b", "source": "x"} for number in range(3)] + [PAIR]
    ledger = SupervisedDataset(f"jsonl::{write_jsonl(rows)}", tokenizer).ledger
    assert ledger.as_dict()["notes"] == {
        "jsonl": [
            "3 rows read as PaddleNLP",
            "1 row read as prompt, chosen and rejected",
            "columns not read: id, source",
        ]
    }


def test_scores_of_a_pair_that_nobody_reads_are_told_with_the_keys_that_read_them(write_jsonl, tokenizer):
    path = write_jsonl([{**PAIR, "score_chosen": 1.0, "score_rejected": 2.0}])
    assert PreferenceDataset(f"jsonl::{path}", tokenizer).ledger.as_dict()["notes"]["jsonl"][-1] == (
        "columns not read: score_chosen, score_rejected (scores decide which answer is the better one if "
        "chosen_score_key and rejected_score_key name them)"
    )
    keys = {"chosen_score_key": "score_chosen", "rejected_score_key": "score_rejected"}
    assert [row["better"] for row in RawDataset.load("jsonl", path=str(path), **keys)] == [False]


def test_rows_of_two_layouts_that_both_hold_an_unread_column_are_read(write_jsonl, tokenizer):
    rows = [{"id": 1, "prompt": "a", "answer": "b"}, {"id": 2, "messages": [USER, SAYS_B]}]
    dataset = SupervisedDataset(f"jsonl::{write_jsonl(rows)}", tokenizer)
    assert len(dataset) == 2 and dataset.ledger.as_dict()["notes"]["jsonl"][-1] == "columns not read: id"


def test_a_row_that_a_null_makes_smaller_says_so_and_its_other_columns_are_not_called_unread(write_jsonl, tokenizer):
    dataset = PreferenceDataset(f"jsonl::{write_jsonl([PAIR, {'id': 1, **PAIR, 'rejected': None}])}", tokenizer)
    assert dataset.ledger.as_dict()["notes"]["jsonl"] == [
        "1 row read as prompt, chosen and rejected",
        "1 row read as prompt, 1 of them only because of null in 'rejected'",
        "columns not read: id",
    ]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "a", "response": None}, SupervisedDataset),
        ({"instruction": None, "input": "c", "output": "b"}, SupervisedDataset),
        ({"messages": None}, SupervisedDataset),
        ({**PAIR, "rejected": None}, PreferenceDataset),
        ({"input": "a", "answer": "b", "other_answer": None, "better": True}, PreferenceDataset),
        ({"question": None, "answer": "b"}, PromptOnlyDataset),
    ],
)
def test_a_null_is_a_bad_row(write_jsonl, tokenizer, row, kind):
    path = write_jsonl([PAIR, row])
    dataset = kind(f"jsonl::{path}", tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total("null_field") == 1
    with pytest.raises(DataError, match="line 2.*null.*set on_bad_row to drop"):
        kind(f"jsonl::{path}", tokenizer, options=STOP)


def test_a_null_label_leaves_the_prompt(write_jsonl, tokenizer):
    dataset = PromptOnlyDataset(f"jsonl::{write_jsonl([{'question': 'a', 'answer': None}])}", tokenizer)
    assert [sample["label"] for sample in dataset] == [None]


@pytest.mark.parametrize("kind", [SupervisedDataset, PreferenceDataset, PromptOnlyDataset])
def test_a_mix_is_read_alike_from_parquet_and_from_json_lines(tmp_path, write_jsonl, characters, kind):
    """Parquet fills every column of every row; a null there is a column that the row does not have."""
    from pyarrow import Table, parquet

    rows = [
        {"messages": [USER, SAYS_B]},
        {"prompt": "c", "chosen": "b", "rejected": "d"},
        {"prompt": "e", "chosen": [SAYS_B["content"]][0], "rejected": "d"},
    ]
    columns = {name: [row.get(name) for row in rows] for name in ("messages", "prompt", "chosen", "rejected")}
    parquet.write_table(Table.from_pydict(columns), tmp_path / "mix.parquet")
    lines = RawDataset.load("jsonl", path=str(write_jsonl(rows)))
    filled = RawDataset.load("jsonl", path=str(tmp_path / "mix.parquet"))
    held = [{name: value for name, value in sample.items() if value is not None} for sample in filled]
    assert held == list(lines) and len(held) == 3
    used = len(kind(f"jsonl::{tmp_path / 'mix.parquet'}", characters))
    assert used == (2 if kind is PreferenceDataset else 3)


@pytest.mark.parametrize("score", [float("nan"), None])
def test_a_score_that_is_no_number_is_a_tie(write_jsonl, tokenizer, score):
    row = {**PAIR, "s1": score, "s2": 1.0}
    keys = {"chosen_score_key": "s1", "rejected_score_key": "s2"}
    path = str(write_jsonl([row, {**row, "s1": 2.0}, {**row, "s2": float("nan"), "s1": 3.0}]))
    assert [sample["better"] for sample in RawDataset.load("jsonl", path=path, **keys)] == [None, True, None]
    dataset = PreferenceDataset({"jsonl": {"path": path, **keys}}, tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total("tied_pair") == 2


@pytest.mark.parametrize(
    "row",
    [{"input": "a", "answer": "b\ud800"}, {"messages": [USER, {**SAYS_B, "content": "\udfff"}, USER, SAYS_D]}],
)
def test_half_a_character_is_a_bad_row(write_jsonl, tokenizer, row):
    path = write_jsonl([{"input": "a", "answer": "b"}, row])
    dataset = SupervisedDataset(f"jsonl::{path}", tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total("broken_text") == 1
    with pytest.raises(DataError, match=r"rows.jsonl line 2.*half a character .\\ud"):
        SupervisedDataset(f"jsonl::{path}", tokenizer, options=STOP)


def test_pairs_whose_prompts_differ_are_bad_rows(write_jsonl, tokenizer):
    rows = [PAIR, {"chosen": HH, "rejected": "\n\nHuman: c\n\nAssistant: b"}]
    path = write_jsonl(rows)
    assert PreferenceDataset(f"jsonl::{path}", tokenizer).ledger.total("different_prompts") == 1
    with pytest.raises(DataError, match="line 2.*differ before the last message"):
        PreferenceDataset(f"jsonl::{path}", tokenizer, options=STOP)


@pytest.mark.parametrize("rest", ["\n\nHuman: c", "\n\nAssistant: d"])
def test_transcripts_whose_turns_do_not_alternate_are_bad_rows(write_jsonl, tokenizer, rest):
    rows = [PAIR, {"chosen": HH + rest, "rejected": HH + rest}]
    path = write_jsonl(rows)
    assert PreferenceDataset(f"jsonl::{path}", tokenizer).ledger.total("broken_dialogue") == 1
    with pytest.raises(DataError, match="line 2.*(do not alternate|ends with a turn of the user)"):
        PreferenceDataset(f"jsonl::{path}", tokenizer, options=STOP)


def test_the_better_answer_of_a_pair_is_trained(write_jsonl, tokenizer):
    row = {"input": "a", "answer": "d", "other_answer": "b", "better": False}
    rows = [row, {**row, "better": True}, {**row, "better": None}]
    texts = [
        tokenizer.decode(sample["input_ids"]) for sample in SupervisedDataset(f"jsonl::{write_jsonl(rows)}", tokenizer)
    ]
    assert [text[-1] for text in texts] == ["b", "d", "d"]


def test_answers_that_people_do_not_want_are_no_examples(write_jsonl, tokenizer):
    rows = [{"prompt": "a", "completion": text, "label": text == "b"} for text in ("b", "d")]
    dataset = SupervisedDataset(f"jsonl::{write_jsonl(rows)}", tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total("undesirable_answer") == 1
    assert len(PromptOnlyDataset(f"jsonl::{write_jsonl(rows)}", tokenizer)) == 1


def test_a_prompt_with_one_answer_gives_no_pair(write_jsonl, tokenizer):
    scores = {"correctness": 1, "coherence": 1, "complexity": 1, "verbosity": 1}
    rows = [{"prompt": prompt, "response": text, "helpfulness": number, **scores}
            for number, (prompt, text) in enumerate((("a", "b"), ("a", "d"), ("c", "b")))]  # fmt: skip
    path = write_jsonl(rows)
    dataset = PreferenceDataset(f"jsonl::{path}", tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total("null_field") == 1
    assert len(SupervisedDataset(f"jsonl::{path}", tokenizer)) == 2


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"chosen": HH, "rejected": HH + "d"}, {"input_key": "chosen"}),
        ({"q": "### Human: a### Assistant: b"}, {"input_key": "q"}),
        ({"q": "Below is an instruction.\n### Instruction:\na\n### Response:\nb"}, {"prompt_key": "q"}),
        ({"q": "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"}, {"prompt_key": "q"}),
        ({"q": "[INST] a [/INST] b </s>"}, {"prompt_key": "q"}),
        ({"q": [USER, SAYS_B]}, {"prompt_key": "q"}),
        ({"q": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, {"prompt_key": "q"}),
        ({"q": "a question: the whole answer is here", "s": "the whole answer is here"}, {"input_key": "q",
        "output_key": "s"}),
        ({"prompt": [USER, SAYS_B], "chosen": "b", "rejected": "d"}, {}),
    ],
)  # fmt: skip
def test_a_prompt_that_holds_the_answer_is_refused(read, row, keys):
    with pytest.raises(DataError, match="line 1.*prompt contains (an|the) answer"):
        read(row, **keys)


def test_one_column_cannot_be_prompt_and_answer(read):
    with pytest.raises(DataError, match="'q' is named both as the prompt and as the answer"):
        read({"q": "a"}, input_key="q", output_key="q")


@pytest.mark.parametrize(
    "prompt",
    [
        "[INST] a [/INST]",
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
        "what does ASSISTANT: b mean",
        "Human: a",
    ],
)
def test_prompts_that_hold_none_are_kept(read, prompt):
    assert read({"prompt": prompt}) == [{"input": prompt}]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, SAYS_B], "part of type 'image_url'"),
        ([USER, {**SAYS_B, "weight": 0.5}], "'weight' is 0.5 .allowed: 0, 1"),
        ([{**USER, "train": True}, SAYS_B], "'train' asks to train on a turn of the user"),
        ([USER, {**SAYS_B, "train": True, "weight": 0}], "train, weight contradict"),
        ([USER, {**SAYS_B, "train_detail": [{"begin": 0}]}], "'train_detail' changes what is trained"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": 3}]}], "a tool call must be"),
    ],
)
def test_messages_that_are_not_understood_are_refused_by_name(read, messages, says):
    with pytest.raises(DataError, match=f"line 1.*{says}"):
        read({"messages": messages})


def test_keys_that_are_null_are_those_of_other_rows_of_a_table(read):
    """As parquet gives rows in two spellings: every row has the keys of both."""
    rows = [{"role": None, "content": None, "from": who, "value": text} for who, text in (("human", "a"), ("gpt", "b"))]
    assert read({"messages": rows}) == [{"dialogue": ["a", "b"]}]


@pytest.mark.parametrize("answer", [["b"], ["b", "d"], []])
def test_a_list_of_texts_is_no_answer(read, answer):
    """The second of several answers is no reply to the first."""
    with pytest.raises(DataError, match=r"line 1.*an answer must be text or messages, got \["):
        read({"prompt": "a", "response": answer})


def test_two_system_messages_must_agree(read):
    system = {"role": "system", "content": "s"}
    row = {"messages": [system, USER, SAYS_B], "system": "s"}
    assert read(row) == [{"messages": [system, USER, SAYS_B]}]
    with pytest.raises(DataError, match="system column differs from the system message"):
        read({**row, "system": "t"})
    with pytest.raises(DataError, match="'system' and 'system_prompt' contradict each other"):
        read({"prompt": "a", "system": "s", "system_prompt": "t"})


def test_plain_text_is_refused_by_name(read):
    with pytest.raises(DataError, match="'text' is plain text, which has no prompt"):
        read({"text": json.dumps({"any": "text"})})


def test_the_columns_that_are_null_are_named_in_order():
    names = ["prompt", "response_0", "response_1", "better_response_id", "safer_response_id", "is_response_0_safe"]
    row = dict.fromkeys([*reversed(names), "is_response_1_safe"])
    with pytest.raises(BadRow) as error:
        recognise(row, "row 1")
    shown = ", ".join(map(repr, sorted(row)))
    assert str(error.value) == f"row 1: null in {shown}"


def test_a_usual_column_beside_a_named_one_is_read(read):
    assert read({"input": "a", "s": "b"}, output_key="s") == [{"input": "a", "answer": "b"}]
    assert read({"q": "a", "tgt": "b"}, input_key="q") == [{"input": "a", "answer": "b"}]


def test_a_named_column_that_a_row_lacks_is_named(read):
    with pytest.raises(DataError, match="line 2.*missing column 'q'"):
        read({"q": "a"}, {"x": "a"}, input_key="q")


def test_rows_of_several_layouts_stay_in_their_order_with_all_samples_of_a_tree(read):
    def node(text, role, *replies, rank=None):
        return {"message_id": text, "text": text, "role": role, "rank": rank, "replies": list(replies)}

    follow_up = node("c", "prompter", node("d", "assistant"))
    tree = node("a", "prompter", node("b", "assistant", follow_up))
    rows = [
        {"prompt": "x", "completion": "y"},
        {"prompt": tree, "message_tree_id": "1"},
        {"query": "q", "response": "r"},
    ]
    assert [sample["input"] for sample in read(*rows)] == ["x", ["a"], ["a", "b", "c"], "q"]
