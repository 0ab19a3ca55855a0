"""Mixed and odd rows: what is right in one of two answers, turns or tools does not make the other right."""

from __future__ import annotations

import pytest

from alignment.data.raw.layouts.conversions import (
    _is_texts,
    arena,
    conversation_in,
    paddle_ranked,
    ranked_objects,
    rejected_in,
    transcript_text,
)
from alignment.data.raw.layouts.samples import pair_of, prompt_turns
from alignment.data.raw.layouts.table import LAYOUTS
from alignment.data.raw.layouts.turns import read_tools
from alignment.data.raw.raw_sample import _is_encodable
from alignment.errors import DataError

TALK = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]
LONG = "What is the best way to pack a suitcase for two weeks?"


def test_the_rejected_answer_takes_the_place_of_the_last_turn_alone():
    sample = rejected_in("rejected")({"messages": TALK, "rejected": "x"}, "row 1")
    assert (sample["answer"], sample["other_answer"]) == ("d", "x")
    texts = [turn if isinstance(turn, str) else turn["content"] for turn in sample["input"]]
    assert texts == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("chosen", "rejected", "answers"),
    [
        (f"{LONG} Roll it.", f"{LONG} Fold it.", ("Roll it.", "Fold it.")),
        (f"{LONG} Roll it.", "Fold it.", (f"{LONG} Roll it.", "Fold it.")),
    ],
)
def test_a_prompt_is_cut_off_only_where_both_answers_begin_with_it(chosen, rejected, answers):
    sample = pair_of(LONG, chosen, rejected, "row 1")
    assert (sample["answer"], sample["other_answer"]) == answers


def test_a_rendered_prompt_that_holds_its_answer_is_refused():
    with pytest.raises(DataError, match="row 1: the prompt contains an answer"):
        prompt_turns("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n", "row 1")


@pytest.mark.parametrize("tools", [[{"name": "f"}, 3], [3], "[1]"])
def test_every_tool_is_an_object(tools):
    with pytest.raises(DataError, match="row 1 must be a list of objects"):
        read_tools(tools, "row 1")


def test_a_dialogue_of_texts_holds_nothing_else():
    assert _is_texts(["a", "b"]) and _is_texts(None)
    assert not _is_texts(["a", {"role": "user"}]) and not _is_texts("a")


def test_one_broken_text_among_whole_ones_is_found():
    broken = "\ud800"
    assert _is_encodable({"input": ["a", "\u00e9"], "answer": "b"})
    for value in ({"input": "a", "answer": broken}, {"input": broken, "answer": "a"}, ["a", [broken]]):
        assert not _is_encodable(value)


def test_layouts_that_leave_answers_out_say_so():
    said = {layout.name: layout.says for layout in LAYOUTS if layout.says}
    assert said["HelpSteer"] == "one pair a prompt, the most helpful answer against the least helpful"
    assert {"Nectar", "UltraFeedback", "responses and rewards", "responses and scores"} <= set(said)


@pytest.mark.parametrize("name", ["messages", "conversations", "conversation", "dialog"])
def test_a_prompt_beside_a_conversation_must_be_one_of_its_questions(name):
    convert = conversation_in(name)
    assert convert({"prompt": " c ", name: TALK}, "row 1") == {"dialogue": list("abcd")}
    for prompt in ("b", "e"):
        with pytest.raises(DataError, match=f"row 1: the prompt column '{prompt}' is not one of the conversation"):
            convert({"prompt": prompt, name: TALK}, "row 1")


@pytest.mark.parametrize(
    "items", [[{"answer": "a", "rank": 1}, {"answer": "b"}], [{"answer": "a", "rank": 1}, "b"], "b"]
)
def test_every_ranked_answer_is_an_object_with_its_score(items):
    convert = ranked_objects("answers", "answer", "rank", prompt="prompt", sign=-1)
    with pytest.raises(DataError, match="row 1: column 'answers' must hold objects with 'answer' and 'rank', got"):
        convert({"prompt": "p", "answers": items}, "row 1")


def test_answers_without_a_rank_are_left_out():
    items = [{"answer": text, "rank": rank} for text, rank in (("x", None), ("worst", 3), ("best", 1), ("middle", 2))]
    sample = ranked_objects("answers", "answer", "rank", prompt="q", sign=-1)({"q": "p", "answers": items}, "row 1")
    assert sample == {"input": "p", "answer": "best", "other_answer": "worst", "better": True}


@pytest.mark.parametrize(("winner", "better"), [("model_a", True), ("model_b", False), ("tie (bothbad)", None)])
def test_the_winner_of_the_arena_is_better(winner, better):
    row = {"conversation_a": TALK[:2], "conversation_b": [TALK[0], {**TALK[1], "content": "x"}], "winner": winner}
    assert arena(row, "row 1") == {"input": ["a"], "answer": "b", "other_answer": "x", "better": better}


def test_a_response_of_paddlenlp_is_a_text_or_a_list_of_one():
    row = {"src": "a", "tgt": [], "response": [["worse"], "better"], "sort": [0, 1]}
    assert paddle_ranked(row, "row 1") == {"input": "a", "answer": "better", "other_answer": "worse", "better": True}
    for sort in ([0, 1], [1, 0]):
        with pytest.raises(DataError, match="row 1: an answer must be text or messages, got .'one', 'two'.$"):
            paddle_ranked({**row, "response": [["one", "two"], "text"], "sort": sort}, "row 1")


def test_a_text_without_turns_is_null_or_refused():
    assert transcript_text({"text": None}, "row 1") == {"dialogue": None}
    assert transcript_text({"text": "### Human: a### Assistant: b"}, "row 1") == {"dialogue": ["a", "b"]}
    with pytest.raises(DataError, match="row 1: column 'text' is plain text"):
        transcript_text({"text": "a b"}, "row 1")


def _answers(*texts):
    return [[*TALK[:3], {**TALK[3], "content": text}] for text in texts]


@pytest.mark.parametrize("prompt", [TALK[:3], "c", " a ", "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"])
def test_a_prompt_beside_two_conversations_may_be_all_their_turns_or_one_of_them(prompt):
    sample = pair_of(prompt, *_answers("d", "x"), "row 1")
    assert sample == {"input": ["a", "b", "c"], "answer": "d", "other_answer": "x", "better": True}


@pytest.mark.parametrize(
    "prompt", ["e", [TALK[0], {**TALK[1], "content": "e"}, TALK[2]], [TALK[0], TALK[1], {**TALK[2], "content": "e"}]]
)
def test_a_prompt_that_differs_from_two_conversations_is_refused(prompt):
    with pytest.raises(DataError, match="row 1: the prompt column differs from the turns before the chosen answer"):
        pair_of(prompt, *_answers("d", "x"), "row 1")


@pytest.mark.parametrize(("chosen", "rejected"), [(None, "d"), ("b", None), (None, None)])
def test_a_pair_that_lacks_an_answer_keeps_its_nulls(chosen, rejected):
    sample = pair_of("a", chosen, rejected, "row 1")
    assert sample == {"input": "a", "answer": chosen, "other_answer": rejected, "better": True}
