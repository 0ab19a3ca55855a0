"""Every prompt belongs to one round, and conditioned prompts are put back before answers are scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment.errors import ArgumentError
from alignment.rounds.prompts import condition, count_shared, read_prompts, restore, share_of
from alignment.rounds.reading.loop_arguments import PromptSource
from alignment.selection.conditional import Conditional


@pytest.mark.parametrize(("total", "rounds"), [(11, 3), (10, 3), (3, 3), (100, 7)])
def test_equal_shares_hold_each_prompt_once_and_differ_by_one_at_most(total, rounds):
    shares = [share_of(total, rounds=rounds, number=number + 1, size=None) for number in range(rounds)]
    assert [index for share in shares for index in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_last_of_given_sizes_is_what_is_left_and_none_is_empty():
    shares = [share_of(11, rounds=3, number=number, size=5) for number in (1, 2, 3)]
    assert [[*share] for share in shares] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10]]
    with pytest.raises(ArgumentError, match=r"rollout_batch_size=5 need more than 15 prompts .* up to 3 rounds"):
        share_of(11, rounds=4, number=1, size=5)
    with pytest.raises(ArgumentError, match="only 2 prompts, fewer than rounds"):
        share_of(2, rounds=3, number=1, size=None)


def test_prompts_of_every_layout_become_rows_that_are_read_again(tmp_path):
    rows = [
        {"prompt": "pack lamp", "answer": "lamp done"},
        {"messages": [{"role": "user", "content": "pack tent"}, {"role": "assistant", "content": "tent"}]},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "pack map"}]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts(PromptSource(prompts=f"jsonl:1.0:{path}"), base_dir=tmp_path, seed=1)
    assert found[0] == {"input": "pack lamp", "answer": "lamp done"}
    assert found[1] == {"input": ["pack tent"], "answer": "tent"}
    assert [message["role"] for message in found[2]["input"]] == ["system", "user"]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    again = read_prompts(PromptSource(prompts=f"jsonl:1.0:{path}"), base_dir=Path.cwd(), seed=1)
    assert again == found


def test_answers_to_conditioned_prompts_are_scored_with_the_plain_ones():
    plain = [{"input": "pack lamp"}, {"input": "pack tent"}]
    asked = condition(plain, Conditional(reward_template="{input} ({reward})"), 1.0)
    assert [row["input"] for row in asked] == ["pack lamp (1.00)", "pack tent (1.00)"]
    answered = [{"prompt": "pack tent (1.00)", "responses": ["tent"]}]  # the other was dropped as too long
    assert restore(answered, plain, asked) == [{"prompt": "pack tent", "responses": ["tent"]}]
    words = condition(plain, Conditional(reward_template="{reward} {input}", reward_words=("bad", "good")), None)
    assert words[0]["input"] == "good pack lamp"


def test_held_out_prompts_that_are_trained_on_are_counted():
    assert count_shared([{"input": "a"}, {"input": "b"}], [{"input": "b"}, {"input": "c"}]) == 1
