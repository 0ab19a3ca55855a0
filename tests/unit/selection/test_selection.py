"""Which answers each method of selection chooses, and how they are read."""

from __future__ import annotations

import json
import math
import statistics

import pytest

from alignment.commands.main import main
from alignment.data.sources.json_lines import JsonLinesDataset
from alignment.errors import ArgumentError, DataError
from alignment.selection.answers import AtLeast, BestOfN, TopK
from alignment.selection.conditional import Conditional
from alignment.selection.pairs import MaxMax, MaxMin, MaxMinPenalized, MaxRandom, RandomPair
from alignment.selection.scored import Scored, read_scored


def scored(rewards, responses=None, prompt="q"):
    texts = responses or tuple(f"answer {i}" for i in range(len(rewards)))
    return Scored(prompt, tuple(texts), tuple(map(float, rewards)), "row 0")


def pair(method, item):
    """Return the numbers of the chosen and the rejected answer."""
    (row,) = method.select([item]).rows
    return item.responses.index(row["chosen"]), item.responses.index(row["rejected"])


def test_the_best_of_n_is_the_first_of_the_highest():
    assert BestOfN().select([scored([1, 3, 3])]).rows == [{"prompt": "q", "response": "answer 1", "reward": 3.0}]


def test_the_k_best_come_in_order():
    rows = TopK(k=2).select([scored([1, 3, 2])]).rows
    assert [row["response"] for row in rows] == ["answer 1", "answer 2"]


def test_answers_below_the_minimum_are_dropped_and_counted_by_prompt():
    prompts = [scored([1, 5]), scored([0, 0.5])]
    assert AtLeast(min_reward=1).select(prompts) == (
        [{"prompt": "q", "response": f"answer {i}", "reward": r} for i, r in ((0, 1.0), (1, 5.0))],
        {"below_min_reward": [1]},
    )
    assert BestOfN(min_reward=1).select(prompts).dropped == {"below_min_reward": [1]}


@pytest.mark.parametrize(
    ("method", "rewards", "chosen"),
    [
        (MaxMin(), [2, 1, 3], (2, 1)),
        (MaxRandom(), [2, 1, 3], (2, 0)),
        (MaxRandom(), [3, 1, 2], (0, 1)),
        (MaxMax(), [2, 1, 3], (2, 0)),
        (RandomPair(), [1, 2, 3], (1, 0)),
    ],
)
def test_pairs(method, rewards, chosen):
    assert pair(method, scored(rewards)) == chosen
    (row,) = method.select([scored(rewards)]).rows
    assert row["margin"] == rewards[chosen[0]] - rewards[chosen[1]]


def test_a_penalty_on_length_decides_which_two_but_not_their_order():
    item = scored([3.0, 1.0, 2.0], ("long answer", "no", "yes"))
    # less 0.5 a character: -2.5, 0, 0.5
    assert pair(MaxMinPenalized(len_penalty=0.5), item) == (0, 2)
    assert pair(MaxMinPenalized(len_penalty=0), item) == (0, 1)


def test_equal_rewards_and_equal_texts_make_no_pair_and_are_counted():
    prompts = [scored([1, 1]), scored([2, 1], ("same", "same")), scored([0, 1])]
    selected = MaxMin().select(prompts)
    assert selected.dropped == {"tied_pair": [0], "identical_pair": [1]}
    assert len(selected.rows) == 1


@pytest.mark.parametrize("method", [BestOfN(), TopK(k=2), MaxMin(), MaxRandom(), MaxMax(), RandomPair()])
def test_too_few_responses_are_refused_by_place(method):
    with pytest.raises(DataError, match=r"row 0: .* needs at least 2 responses to a prompt, this one has 1"):
        method.select([scored([1])])


def test_the_reward_stands_in_the_prompt():
    rows = Conditional().select([scored([0.126, -2], prompt="a {reward} b")]).rows
    assert [row["prompt"] for row in rows] == ["a {reward} b <rm_score>: 0.13 ", "a {reward} b <rm_score>: -2.00 "]


def test_the_reward_stands_in_the_last_message():
    messages = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    (first, _) = Conditional(reward_template="{reward}|{input}").select([scored([1, 2], prompt=messages)]).rows
    assert [turn["content"] for turn in first["prompt"]] == ["one", "1.00|two"]


def test_the_reward_stands_in_the_last_of_several_texts():
    (first, _) = Conditional(reward_template="{reward}|{input}").select([scored([1, 2], prompt=["a", "b", "c"])]).rows
    assert first["prompt"] == ["a", "b", "1.00|c"]


def test_rewards_are_standardised_over_all_answers():
    rewards = [1.0, 2.0, 4.0, 9.0]
    rows = Conditional(normalize_reward=True).select([scored(rewards[:2]), scored(rewards[2:])]).rows
    expected = [(r - statistics.fmean(rewards)) / statistics.stdev(rewards) for r in rewards]
    assert [row["reward"] for row in rows] == expected
    with pytest.raises(DataError, match="all rewards are equal"):
        Conditional(normalize_reward=True).select([scored([1, 1])])


def test_a_template_without_its_fields_is_refused():
    with pytest.raises(ArgumentError, match=r"lacks \{reward\}"):
        Conditional(reward_template="{input}")


def test_rows_with_one_answer_are_gathered_by_prompt_in_order():
    rows = [
        {"input": "b", "output": "x", "reward": 1},
        {"prompt": "a", "responses": ["y", "z"], "rewards": [1, 2]},
        {"input": "b", "output": "w", "reward": 0},
    ]
    found = read_scored((f"line {i}", row) for i, row in enumerate(rows))
    assert [(item.prompt, item.responses, item.rewards) for item in found] == [
        ("b", ("x", "w"), (1.0, 0.0)),
        ("a", ("y", "z"), (1.0, 2.0)),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "text": "b"}, "line 7: no scored answers: it has the columns prompt, text"),
        ({"prompt": "a", "responses": ["b"], "rewards": [1, 2]}, "line 7: expected a reward for each of 1 responses"),
        ({"prompt": "a", "responses": [], "rewards": []}, "line 7: expected a reward for each of 0 responses"),
        ({"prompt": "a", "responses": ["b"], "rewards": [None]}, "line 7: a reward must be a finite number, got None"),
        ({"prompt": "a", "response": "b", "reward": math.nan}, "line 7: a reward must be a finite number, got nan"),
        ({"prompt": "", "response": "b", "reward": 1}, "line 7: prompt must be a text or messages"),
        ({"prompt": "a", "response": 5, "reward": 1}, "line 7: responses must be texts"),
        ({"prompt": "a", "responses": "ab", "rewards": [1, 2]}, "line 7: responses must be texts"),
        ({"prompt": "a", "response": "b", "reward": 10**330}, "line 7: a reward must be a finite number"),
        ({"prompt": "a \ud83d", "response": "b", "reward": 1}, "line 7 holds half a character"),
    ],
)
def test_unreadable_rows_are_refused_by_place(row, message):
    with pytest.raises(DataError) as error:
        read_scored([("line 7", row)])
    assert message in str(error.value)


@pytest.mark.parametrize("method", [BestOfN(), MaxMin(), Conditional()])
def test_tools_and_system_stay_with_the_prompt(method):
    beside = {"system": "be brief", "tools": [{"name": "look"}]}
    listed = {"prompt": "a", "responses": ["y", "z"], "rewards": [1, 2], "label": "z", **beside}
    single = [{"prompt": "a", "response": r, "reward": n, **beside} for n, r in enumerate("yz")]
    other = {"prompt": "a", "response": "w", "reward": 3}
    for rows in ([listed], single):
        for row in method.select(read_scored(("line", row) for row in rows)).rows:
            assert beside.items() <= row.items()
            assert "label" not in row
    assert [len(item.responses) for item in read_scored(("line", row) for row in [*single, other])] == [2, 1]


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main(["select", *map(str, words)])
    return stop.value.code or 0


@pytest.fixture
def scored_file(tmp_path):
    path = tmp_path / "scored.jsonl"
    rows = [
        {"prompt": "p", "responses": ["a", "b", "c"], "rewards": [1, 3, 2]},
        {"prompt": "q", "responses": ["d", "e"], "rewards": [1, 1]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_writes_rows_that_datasets_read(scored_file, tmp_path):
    pairs, answers = tmp_path / "pairs.jsonl", tmp_path / "answers.jsonl"
    assert run("--scored_file", scored_file, "--output_file", pairs, "--choose_type", "max_min") == 0
    assert run("--scored_file", scored_file, "--output_file", answers, "--post_processor", "rs") == 0
    (sample,) = JsonLinesDataset(pairs)
    assert (sample["answer"], sample["other_answer"]) == ("b", "a")
    assert [sample["answer"] for sample in JsonLinesDataset(answers)] == ["b", "d"]


def test_the_command_overwrites_nothing_unless_told(scored_file, tmp_path, capsys):
    target = tmp_path / "pairs.jsonl"
    target.write_text("precious")
    words = ("--scored_file", scored_file, "--method", "max_min", "--output_file")
    assert run(*words, target) == 2
    assert target.read_text() == "precious"
    assert "exists: --overwrite" in capsys.readouterr().err
    assert run(*words, scored_file, "--overwrite", "true") == 2
    assert "is scored_file itself" in capsys.readouterr().err
    assert run(*words, target, "--overwrite", "true") == 0


def test_the_command_refuses_a_selection_of_nothing(tmp_path, capsys):
    source, target = tmp_path / "scored.jsonl", tmp_path / "pairs.jsonl"
    source.write_text(json.dumps({"prompt": "q", "responses": ["d", "e"], "rewards": [1, 1]}))
    assert run("--scored_file", source, "--output_file", target, "--method", "max_min") == 2
    assert "no rows chosen among 1 prompts (tied_pair 1)" in capsys.readouterr().err
    assert not target.exists()


def test_words_stand_for_equal_shares_of_the_answers_by_rank():
    rewards = (0.1, 0.9, 0.5, 0.3)
    item = Scored("pack lamp", ("a", "b", "c", "d"), rewards, "row 0")
    method = Conditional(reward_template="{reward}: {input}", reward_words=("bad", "good"))
    prompts = [row["prompt"] for row in method.select([item]).rows]
    assert prompts == ["bad: pack lamp", "good: pack lamp", "good: pack lamp", "bad: pack lamp"]
    tied = Scored("pack lamp", ("a", "b"), (1.0, 1.0), "row 0")
    assert len({row["prompt"] for row in method.select([tied]).rows}) == 1, "equal rewards have one word"
    with pytest.raises(ArgumentError, match="one word tells nothing"):
        Conditional(reward_words=("good",))
