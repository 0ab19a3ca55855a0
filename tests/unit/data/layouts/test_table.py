"""The families of the table of layouts: every name of a prompt with every name of an answer, and what else is read."""

from __future__ import annotations

from itertools import product

import pytest

from alignment.data import RawDataset
from alignment.data.raw.layouts.layout import RowLayout
from alignment.data.raw.layouts.recognise import recognise
from alignment.data.raw.layouts.table import LAYOUTS

PROMPTS = ("prompt", "question", "query", "problem", "input")
ANSWERS = ("answer", "response", "output", "completion", "solution", "target", "label")
CONVERSATIONS = ("messages", "conversations", "conversation", "dialog")
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
OTHER = [TALK[0], {"role": "assistant", "content": "d"}]
SFT = {"input": "a", "answer": "b"}
PAIR = {"input": "a", "answer": "b", "other_answer": "d", "better": True}
LISTED = {"input": ["a"], "answer": "b"}
ROWS = [
    *(({p: "a", a: "b"}, SFT) for p, a in product(PROMPTS, ANSWERS)),
    *(({p: "a"}, {"input": "a"}) for p in (*PROMPTS, "instruction", "src")),
    *(({p: "a", "chosen": "b", "rejected": "d"}, PAIR) for p in (*PROMPTS, "instruction")),
    *(({p: "a", "answer": "b", "other_answer": "d", "better": True}, PAIR)
      for p in ("input", "prompt", "src", "question")),
    *(({"instruction": "a", "input": "c", a: "b"}, SFT | {"input": "a c"}) for a in ANSWERS if a != "label"),
    *(({"instruction": "a", "input": "c", "output": "b", label: False}, SFT | {"input": "a c", "desirable": False})
      for label in ("label", "kto_tag")),
    *(({name: TALK}, {"dialogue": ["a", "b"]}) for name in CONVERSATIONS),
    *(({name: TALK, label: 0}, LISTED | {"desirable": False})
      for name, label in product(CONVERSATIONS, ("label", "kto_tag"))),
    *(({name: [*TALK, {"role": "user", "content": "c"}, OTHER[1]], "kto_tag": 1},
       {"input": ["a", "b", "c"], "answer": "d", "desirable": True}) for name in CONVERSATIONS),
    *(({name: TALK[:1], "chosen": "b", "rejected": "d"}, PAIR | {"input": ["a"]})
      for name in ("messages", "conversations", "trajectory")),
    *(({"messages": TALK, name: value}, PAIR | {"input": ["a"]})
      for name, value in (("rejected_response", "d"), ("rejected_messages", OTHER))),
    *(({"prompt": "a", "responses": ["d", "c", "b"], name: [1, 2, 3]}, PAIR) for name in ("rewards", "scores")),
    ({"prompt": "a", "answers": [{"answer": "d", "rank": 2}, {"answer": "b", "rank": 1}]}, PAIR),
    ({"question": "a", "response_j": "b", "response_k": "d"}, PAIR),
    ({"history": "a", "human_ref_A": "d", "human_ref_B": "b", "labels": 0, "score_A": 1, "score_B": 2},
     PAIR | {"answer": "d", "other_answer": "b", "better": False}),
]  # fmt: skip
ALPACA = {"input", "context", "history", "text"}
TREE = {"deleted", "rank", "lang", "message_tree_id", "tree_state", "review_result"}
ALSO = {
    "alpaca": ALPACA,
    "alpaca with response": ALPACA,
    "alpaca with label": ALPACA,
    "alpaca with kto_tag": ALPACA,
    "alpaca prompts": ALPACA,
    "alpaca pairs": {*ALPACA, "output"},
    **{f"conversations in {name}": {"prompt"} for name in CONVERSATIONS},
    "RLHFlow prompts": {"context"},
    "HelpSteer": {"correctness", "coherence", "complexity", "verbosity"},
    "SHP": {"score_A", "score_B"},
    "OpenAssistant trees": TREE,
    "OpenAssistant messages": {"parent_id", *TREE},
    "verl": {"data_source", "ability"},
}
"""What a layout reads beside the columns that it needs."""
OWN = {
    *("answer", "other_answer", "better", "safer", "is_safe", "is_other_safe", "desirable"),
    *("steps", "step_labels"),
}
BEST_WORST = "one pair a row, the best answer against the worst"
TREES = "a sample for every question, its best ranked answer against the worst"
SAYS = {
    "Nectar": BEST_WORST,
    "UltraFeedback": BEST_WORST,
    "responses and rewards": BEST_WORST,
    "responses and scores": BEST_WORST,
    "PaddleNLP preferences": BEST_WORST,
    "HelpSteer": "one pair a prompt, the most helpful answer against the least helpful",
    "OpenAssistant trees": TREES,
    "OpenAssistant messages": TREES,
}


@pytest.mark.parametrize(("row", "sample"), ROWS, ids=[" ".join(row) for row, _ in ROWS])
def test_a_row_of_a_family_is_read_whole(row, sample, write_jsonl):
    dataset = RawDataset.load("jsonl", path=str(write_jsonl([row])))
    assert list(dataset) == [sample]
    assert not any("not read" in note for note in dataset.notes())


def test_every_layout_of_a_family_is_known_by_one_row():
    """Those that hold names of prompts, answers or conversations; the others have their rows in test_layouts."""
    found = [layout.name for row, _ in ROWS for layout in recognise(row)]
    assert len(found) == len(ROWS)
    for p, a in product(PROMPTS, ANSWERS):
        name = "the suite's own fields" if (p, a) == ("input", "answer") else f"{p} and {a}"
        assert name in found
    assert {f"{p}, chosen and rejected" for p in PROMPTS} | {f"conversations in {c}" for c in CONVERSATIONS} < set(
        found
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=[layout.name for layout in LAYOUTS])
def test_what_a_layout_reads_beside_what_it_needs_and_what_it_says(layout: RowLayout):
    if layout.name.startswith("the suite's own fields"):
        assert set(layout.also) == OWN
    elif layout.name.startswith("alpaca with"):
        assert set(layout.also) == ALPACA
    else:
        assert set(layout.also) == ALSO.get(layout.name, set())
    assert layout.says == SAYS.get(layout.name, "")
    assert (layout.gather is not None) == (layout.name in ("HelpSteer", "OpenAssistant messages"))
