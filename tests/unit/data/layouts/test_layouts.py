"""Every known layout: the row as people bring it, the sample made of it, and the text that a model reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from alignment.data import PreferenceDataset, PromptOnlyDataset, RawDataset, SupervisedDataset
from alignment.data.encode import EncodeOptions
from alignment.errors import DataError


class Case(NamedTuple):
    """Rows of one layout; what is trained on stands in braces, a pair is (better, worse)."""

    name: str
    row: dict[str, Any] | list[dict[str, Any]]
    sample: dict[str, Any] | list[dict[str, Any]]
    supervised: str | None = None
    pair: tuple[str, str] | None = None
    prompt: tuple[str, str | None] | None = None
    keys: dict[str, Any] = {}


def _user(text):
    return {"role": "user", "content": text}


def _says(text, **more):
    return {"role": "assistant", "content": text, **more}


def _system(text):
    return {"role": "system", "content": text}


def _shared(answer, *, by="from", what="value"):
    return [{by: "human", what: "a"}, {by: "gpt", what: answer}]


def _node(number, text, role, rank=None, replies=()):
    return {"message_id": number, "text": text, "role": role, "rank": rank, "replies": list(replies)}


SFT = {"input": "a", "answer": "b"}
PAIR = {"input": "a", "answer": "b", "other_answer": "d", "better": True}
ONE = "U:a|A:{b$}"
TWO = ("U:a|A:b$", "U:a|A:d$")
ASKED = ("U:a|A:", None)
ANSWERED = ("U:a|A:", "b")
TALK = ["a", "b", "c", "d"]
TALK_TEXT = "U:a|A:{b$}|U:c|A:{d$}|"
HH = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"name": "f"}
TREE = _node(0, "a", "prompter", replies=[_node(1, "d", "assistant", 1), _node(2, "b", "assistant", 0, [
    _node(3, "c", "prompter", replies=[_node(4, "e", "assistant")])])])  # fmt: skip
TREE_SAMPLES = [
    PAIR | {"input": ["a"]},
    {"input": ["a", "b", "c"], "answer": "e", "other_answer": None, "better": None},
]
FLAT = [
    {"message_id": "0", "parent_id": None, "text": "a", "role": "prompter", "rank": None, "message_tree_id": "0"},
    {"message_id": "1", "parent_id": "0", "text": "d", "role": "assistant", "rank": 1, "message_tree_id": "0"},
    {"message_id": "2", "parent_id": "0", "text": "b", "role": "assistant", "rank": 0, "message_tree_id": "0"},
    {"message_id": "3", "parent_id": "2", "text": "c", "role": "prompter", "rank": None, "message_tree_id": "0"},
    {"message_id": "4", "parent_id": "3", "text": "e", "role": "assistant", "rank": None, "message_tree_id": "0"},
]
PKU = {"prompt": "a", "response_0": "d", "response_1": "b", "better_response_id": 1, "safer_response_id": 0,
       "is_response_0_safe": True, "is_response_1_safe": False}  # fmt: skip

CASES = [
    Case("own fields", PAIR, PAIR, ONE, TWO, ANSWERED),
    Case("own fields, worse answer first", PAIR | {"answer": "d", "other_answer": "b", "better": False},
         PAIR | {"answer": "d", "other_answer": "b", "better": False}, ONE, TWO, ("U:a|A:", "d")),
    Case("own dialogue", {"dialogue": TALK}, {"dialogue": TALK}, TALK_TEXT, None, ("U:a|A:b$|U:c|A:", "d")),
    Case("alpaca", {"instruction": "a", "input": "c", "output": "b"}, SFT | {"input": "a c"}, "U:a c|A:{b$}", None,
         ("U:a c|A:", "b")),
    Case("alpaca without input", {"instruction": "a", "input": "", "output": "b"}, SFT, ONE, None, ANSWERED),
    Case("alpaca with its text", {"instruction": "a", "input": "", "output": "b", "text": "### Instruction: a"},
         SFT, ONE),
    Case("alpaca with system", {"instruction": "a", "input": "", "output": "b", "system": "s"},
         {"input": [_system("s"), _user("a")], "answer": "b"}, "S:s|U:a|A:{b$}", None, ("S:s|U:a|A:", "b")),
    Case("alpaca with history", {"instruction": "c", "output": "d", "history": [["a", "b"]]},
         {"input": ["a", "b", "c"], "answer": "d"}, "U:a|A:b$|U:c|A:{d$}", None, ("U:a|A:b$|U:c|A:", "d")),
    Case("alpaca pairs", {"instruction": "a", "input": "c", "chosen": "b", "rejected": "d"}, PAIR | {"input": "a c"},
         "U:a c|A:{b$}", ("U:a c|A:b$", "U:a c|A:d$")),
    Case("alpaca KTO", {"instruction": "a", "input": "", "output": "b", "kto_tag": True}, SFT | {"desirable": True},
         ONE),
    Case("alpaca prompts", {"instruction": "a", "input": "c"}, {"input": "a c"}, None, None, ("U:a c|A:", None)),
    Case("dolly", {"instruction": "a", "context": "c", "response": "b", "category": "x"}, SFT | {"input": "a c"},
         "U:a c|A:{b$}", None, ("U:a c|A:", "b")),
    Case("GSM8K", {"question": "a", "answer": "b\n#### 1"}, SFT | {"answer": "b\n#### 1"}, "U:a|A:{b\n#### 1$}", None,
         ("U:a|A:", "b\n#### 1")),
    Case("OpenOrca", {"id": "7", "system_prompt": "s", "question": "a", "response": "b"},
         {"input": [_system("s"), _user("a")], "answer": "b"}, "S:s|U:a|A:{b$}", None, ("S:s|U:a|A:", "b")),
    Case("MATH", {"problem": "a", "solution": "b", "level": "1"}, SFT, ONE, None, ANSWERED),
    Case("MetaMath", {"query": "a", "response": "b", "type": "x"}, SFT, ONE, None, ANSWERED),
    Case("OpenRLHF rows", {"input": "a", "output": "b", "reward": 0.5}, SFT, ONE, None, ANSWERED),
    Case("summaries of TL;DR", {"prompt": "a", "label": "b"}, SFT, ONE, None, ANSWERED),
    Case("TRL prompt and completion", {"prompt": "a", "completion": "b"}, SFT, ONE, None, ANSWERED),
    Case("TRL conversational completion", {"prompt": [_user("a")], "completion": [_says("b")]},
         SFT | {"input": ["a"]},
         ONE, None, ANSWERED),
    Case("TRL prompts", {"prompt": [_system("s"), _user("a")]}, {"input": [_system("s"), _user("a")]}, None, None,
         ("S:s|U:a|A:", None)),
    Case("TRL preference", {"prompt": "a", "chosen": "b", "rejected": "d"}, PAIR, ONE, TWO, ANSWERED),
    Case("TRL conversational preference", {"prompt": [_user("a")], "chosen": [_says("b")], "rejected": [_says("d")]},
         PAIR | {"input": ["a"]}, ONE, TWO, ANSWERED),
    Case("TRL implicit prompt", {"chosen": [_user("a"), _says("b")], "rejected": [_user("a"), _says("d")]},
         PAIR | {"input": ["a"]}, ONE, TWO, ANSWERED),
    Case("KTO, wanted", {"prompt": "a", "completion": "b", "label": True}, SFT | {"desirable": True}, ONE),
    Case("system and pairs (Orca DPO)", {"system": "s", "question": "a", "chosen": "b", "rejected": "d"},
         PAIR | {"input": [_system("s"), _user("a")]}, "S:s|U:a|A:{b$}", ("S:s|U:a|A:b$", "S:s|U:a|A:d$")),
    Case("messages", {"messages": [_user("a"), _says("b"), _user("c"), _says("d")]}, {"dialogue": TALK}, TALK_TEXT,
         None, ("U:a|A:b$|U:c|A:", "d")),
    Case("messages with system", {"messages": [_system("s"), _user("a"), _says("b")]},
         {"messages": [_system("s"), _user("a"), _says("b")]}, "S:s|U:a|A:{b$}|", None, ("S:s|U:a|A:", "b")),
    Case("messages with text parts", {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "c"}]}, _says("b")]},
         {"dialogue": ["ac", "b"]}, "U:ac|A:{b$}|", None, ("U:ac|A:", "b")),
    Case("messages with weights", {"messages": [_user("a"), _says("b", weight=0), _user("c"), _says("d", weight=1)]},
         {"messages": [_user("a"), _says("b", train=False), _user("c"), _says("d")]}, "U:a|A:b$|U:c|A:{d$}|"),
    Case("messages with train", {"messages": [_user("a"), _says("b"), _user("c"), _says("d", train=False)]},
         {"messages": [_user("a"), _says("b"), _user("c"), _says("d", train=False)]}, "U:a|A:{b$}|U:c|A:d$|"),
    Case("messages with tools", {"tools": [TOOL], "messages": [
        _user("a"), {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f",
        "arguments": '{"x": 1}'}}]},
        {"role": "tool", "content": "t"}, _says("b")]},
         {"messages": [_user("a"), _says("", tool_calls=[CALL]), {"role": "tool", "content": "t"}, _says("b")],
          "tools": [TOOL]}, "[f]U:a|A:{f{'x': 1}$}|T:t|A:{b$}|"),
    Case("messages, the user last", {"messages": [_user("a")]}, {"input": ["a"]}, None, None, ASKED),
    Case("UltraChat", {"prompt": "a", "prompt_id": "7", "messages": [_user("a"), _says("b")]}, {"dialogue": ["a",
         "b"]},
         "U:a|A:{b$}|", None, ANSWERED),
    Case("ShareGPT", {"conversations": _shared("b")}, {"dialogue": ["a", "b"]}, "U:a|A:{b$}|", None, ANSWERED),
    Case("ShareGPT with system", {"system": "s", "conversations": _shared("b")},
         {"messages": [_system("s"), _user("a"), _says("b")]}, "S:s|U:a|A:{b$}|", None, ("S:s|U:a|A:", "b")),
    Case("ShareGPT with tools", {"tools": '[{"name": "f"}]', "conversations": [
        {"from": "human", "value": "a"}, {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "t"}, {"from": "gpt", "value": "b"}]},
         {"messages": [_user("a"), _says("", tool_calls=[CALL]), {"role": "tool", "content": "t"}, _says("b")],
          "tools": [TOOL]}, "[f]U:a|A:{f{'x': 1}$}|T:t|A:{b$}|"),
    Case("ShareGPT pairs", {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt",
         "value": "b"},
                            "rejected": {"from": "gpt", "value": "d"}}, PAIR | {"input": ["a"]}, ONE, TWO, ANSWERED),
    Case("ShareGPT KTO", {"conversations": _shared("b"), "kto_tag": True}, {"input": ["a"], "answer": "b",
         "desirable": True},
         ONE),
    Case("texts in turn (LIMA)", {"conversations": ["a", "b"], "source": "x"}, {"dialogue": ["a", "b"]},
         "U:a|A:{b$}|"),
    Case("input and output turns (Capybara)", {"conversation": [{"input": "a", "output": "b"}, {"input": "c",
         "output": "d"}]},
         {"dialogue": TALK}, TALK_TEXT),
    Case("ms-swift pairs", {"messages": [_user("a"), _says("b")], "rejected_response": "d"},
         PAIR | {"input": ["a"]}, ONE, TWO),
    Case("hh-rlhf", {"chosen": HH + " d", "rejected": HH + " e"},
         {"input": ["a", "b", "c"], "answer": "d", "other_answer": "e", "better": True}, "U:a|A:b$|U:c|A:{d$}",
         ("U:a|A:b$|U:c|A:d$", "U:a|A:b$|U:c|A:e$"), ("U:a|A:b$|U:c|A:", "d")),
    Case("full-hh-rlhf", {"prompt": HH, "response": " d", "chosen": " d", "rejected": " e"},
         {"input": ["a", "b", "c"], "answer": "d", "other_answer": "e", "better": True}, "U:a|A:b$|U:c|A:{d$}",
         ("U:a|A:b$|U:c|A:d$", "U:a|A:b$|U:c|A:e$"), ("U:a|A:b$|U:c|A:", "d")),
    Case("guanaco", {"text": "### Human: a### Assistant: b"}, {"dialogue": ["a", "b"]}, "U:a|A:{b$}|"),
    Case("Nectar", {"prompt": "\n\nHuman: a\n\nAssistant: ", "answers": [
        {"answer": "d", "model": "m", "rank": 3.0}, {"answer": "b", "model": "n", "rank": 1.0},
        {"answer": "c", "model": "o", "rank": 2.0}], "turns": 1, "num_responses": 3},
         PAIR | {"input": ["a"]}, ONE, TWO, ANSWERED),
    Case("UltraFeedback", {"instruction": "a", "source": "x", "completions": [
        {"response": "d", "overall_score": 2.0}, {"response": "b", "overall_score": 8.5}, {"response": "c",
        "overall_score": None}]},
         PAIR, ONE, TWO, ANSWERED),
    Case("UltraFeedback binarized", {
        "prompt": "a", "prompt_id": "7", "messages": [_user("a"), _says("b")], "chosen": [_user("a"), _says("b")],
        "rejected": [_user("a"), _says("d")], "score_chosen": 8.0, "score_rejected": 2.0},
         PAIR | {"input": ["a"]}, ONE, TWO, ANSWERED),
    Case("responses and rewards (RLHFlow)", {"prompt": "a", "responses": ["d", "b", "c"], "rewards": [-1.0, 2.0,
         0.5]},
         PAIR, ONE, TWO, ANSWERED),
    Case("HelpSteer2", [
        {"prompt": "a", "response": "d", "helpfulness": 1, "correctness": 4, "coherence": 4, "complexity": 1,
        "verbosity": 1},
        {"prompt": "a", "response": "b", "helpfulness": 3, "correctness": 1, "coherence": 1, "complexity": 1,
        "verbosity": 1}],
         [PAIR], ONE, TWO, ANSWERED),
    Case("HelpSteer2 preferences", {"prompt": "a", "response_1": "d", "response_2": "b", "preference_strength": 2,
                                    "preference_statement": "x"},
         PAIR | {"answer": "d", "other_answer": "b", "better": False}, ONE, TWO, ("U:a|A:", "d")),
    Case("HelpSteer3 preferences", {"context": [_user("a")], "response1": "b", "response2": "d",
         "overall_preference": -3},
         PAIR | {"input": ["a"]}, ONE, TWO, ANSWERED),
    Case("WebGPT comparisons", {"question": {"full_text": "a", "dataset": "x"}, "answer_0": "d", "answer_1": "b",
                                "score_0": -0.5, "score_1": 0.5},
         PAIR | {"answer": "d", "other_answer": "b", "better": False}, ONE, TWO, ("U:a|A:", "d")),
    Case("SHP", {"post_id": "7", "history": "a", "human_ref_A": "b", "human_ref_B": "d", "labels": 1, "score_A": 9,
         "score_B": 2},
         PAIR, ONE, TWO, ANSWERED),
    Case("safe-rlhf", PKU, {"input": "a", "answer": "d", "other_answer": "b", "better": False, "safer": True,
                            "is_safe": True, "is_other_safe": False}, ONE, TWO, ("U:a|A:", "d")),
    Case("Stack Exchange pairs", {"qid": 7, "question": "a", "response_j": "b", "response_k": "d"}, PAIR, ONE, TWO,
         ANSWERED),
    Case("summarize from feedback", {"info": {"post": "a"}, "summaries": [{"text": " d"}, {"text": " b"}],
         "choice": 1},
         PAIR | {"answer": "d", "other_answer": "b", "better": False}, ONE, TWO),
    Case("Chatbot Arena", {"model_a": "m", "model_b": "n", "winner": "model_b", "conversation_a": [_user("a"),
         _says("d")],
                           "conversation_b": [_user("a"), _says("b")]},
         {"input": ["a"], "answer": "d", "other_answer": "b", "better": False}, ONE, TWO),
    Case("OpenAssistant trees", {"message_tree_id": "0", "tree_state": "ready_for_export", "prompt": TREE},
         TREE_SAMPLES, ONE, TWO, ANSWERED),
    Case("OpenAssistant messages", FLAT, TREE_SAMPLES, ONE, TWO, ANSWERED),
    Case("PaddleNLP", {"src": "a", "tgt": "b"}, SFT, ONE, None, ANSWERED),
    Case("PaddleNLP lists", {"src": ["a", "c"], "tgt": ["b", "d"]}, {"dialogue": TALK}, TALK_TEXT),
    Case("PaddleNLP lists of one", {"src": ["a"], "tgt": ["b"]}, SFT, ONE, None, ANSWERED),
    Case("PaddleNLP preferences", {"src": ["a", "c"], "tgt": ["b"], "response": [["e"], ["d"]], "sort": [0, 1]},
         {"input": ["a", "b", "c"], "answer": "d", "other_answer": "e", "better": True}, "U:a|A:b$|U:c|A:{d$}",
         ("U:a|A:b$|U:c|A:d$", "U:a|A:b$|U:c|A:e$")),
    Case("PaddleNLP KTO", {"src": ["a"], "tgt": [], "response": ["b"], "sort": [1]}, SFT | {"desirable": True}, ONE),
    Case("verl", {"data_source": "x", "prompt": [_user("a")], "ability": "math",
                  "reward_model": {"style": "rule", "ground_truth": "b"}, "extra_info": {}},
         {"input": ["a"], "answer": "b"}, ONE, None, ANSWERED),
    Case("RLHFlow prompts", {"context": "a", "context_messages": [_user("a")], "source": "x"}, {"input": ["a"]},
         None, None, ASKED),
    Case("trajectories (UltraInteract)", {"trajectory": [{"from": "user", "value": "a"}], "chosen": "b",
         "rejected": "d"},
         PAIR | {"input": ["a"]}, ONE, TWO),
    Case("mapped", {"q": "a", "s": "b", "id": 3}, SFT, ONE, None, ANSWERED, {"input_key": "q", "output_key": "s"}),
    Case("mapped prompt and label", {"q": [_user("a")], "gold": "b"}, {"input": ["a"], "answer": "b"}, ONE, None,
         ANSWERED,
         {"prompt_key": "q", "label_key": "gold"}),
    Case("mapped pairs", {"q": "a", "win": "b", "lose": "d"}, PAIR, ONE, TWO, ANSWERED,
         {"prompt_key": "q", "chosen_key": "win", "rejected_key": "lose"}),
    Case("mapped KTO (OpenRLHF)", {"instruction": "a", "response": "b", "score": 1}, SFT | {"desirable": True}, ONE,
         None, None,
         {"input_key": "instruction", "output_key": "response", "label_key": "score"}),
    Case("mapped label beside usual columns", {"prompt": "a", "completion": "b", "good": True},
         SFT | {"desirable": True},
         ONE, None, ANSWERED, {"label_key": "good"}),
    Case("mapped prompt called answer", {"answer": "a", "target": "b"}, SFT, ONE, None, ANSWERED,
         {"input_key": "answer"}),
    Case("mapped system and tools", {"q": "a", "s": "b", "rules": "s", "can": [TOOL]},
         {"input": [_system("s"), _user("a")], "answer": "b", "tools": [TOOL]}, "[f]S:s|U:a|A:{b$}", None,
         ("[f]S:s|U:a|A:", "b"),
         {"input_key": "q", "output_key": "s", "system_key": "rules", "tools_key": "can"}),
    Case("mapped messages", {"talk": _shared("b")}, {"dialogue": ["a", "b"]}, "U:a|A:{b$}|", None, ANSWERED,
         {"messages_key": "talk"}),
    Case("chosen side only (OpenRLHF)", {"chosen": [_user("a"), _says("b")], "rejected": [_user("a"), _says("d")]},
         {"dialogue": ["a", "b"]}, "U:a|A:{b$}|", None, None, {"messages_key": "chosen"}),
]  # fmt: skip


@pytest.fixture
def load(write_jsonl):
    """Return the file with the rows of a case and the constructor arguments of its dataset."""

    def write(case):
        rows = case.row if isinstance(case.row, list) else [case.row]
        return {"path": str(write_jsonl(rows)), **case.keys}

    return write


def _marked(ids, labels):
    """Return the text with what is trained on in braces."""
    text, inside = "", False
    for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
        if (label >= 0) != inside:
            inside = not inside
            text += "{" if inside else "}"
        text += chr(token)
    return text + ("}" if inside else "")


def _make(kind, case, load, characters):
    return kind({"jsonl": load(case)}, characters, options=EncodeOptions(template="tokenizer"))


def ids(cases):
    return [case.name for case in cases]


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_a_layout_is_recognised_or_mapped(case, load):
    expected = case.sample if isinstance(case.sample, list) else [case.sample]
    dataset = RawDataset.load("jsonl", **load(case))
    assert list(dataset) == expected
    assert any("read as" in note for note in dataset.notes())


SUPERVISED = [case for case in CASES if case.supervised]


@pytest.mark.parametrize("case", SUPERVISED, ids=ids(SUPERVISED))
def test_what_a_supervised_model_reads_and_is_trained_on(case, load, characters):
    first = _make(SupervisedDataset, case, load, characters)[0]
    assert _marked(first["input_ids"], first["labels"]).removesuffix("|") == case.supervised.removesuffix("|")


PAIRS = [case for case in CASES if case.pair]


@pytest.mark.parametrize("case", PAIRS, ids=ids(PAIRS))
def test_what_a_reward_model_compares(case, load, characters):
    first = _make(PreferenceDataset, case, load, characters)[0]
    texts = tuple("".join(map(chr, first[f"{side}_input_ids"])) for side in ("better", "worse"))
    assert texts == case.pair


PROMPTS = [case for case in CASES if case.prompt]


@pytest.mark.parametrize("case", PROMPTS, ids=ids(PROMPTS))
def test_what_a_policy_is_asked(case, load, characters):
    first = _make(PromptOnlyDataset, case, load, characters)[0]
    assert (first["prompt_text"], first["label"]) == case.prompt


def test_there_are_at_least_thirty_six_layouts():
    assert len({case.name for case in CASES}) == len(CASES) >= 36


def test_a_row_without_a_layout_is_refused(write_jsonl):
    with pytest.raises(DataError, match="no known layout"):
        RawDataset.load("jsonl", path=str(write_jsonl([{"frage": "a"}])))[0]
