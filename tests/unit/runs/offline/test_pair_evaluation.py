"""Pairs rendered with another template are compared with themselves, also where a template leaves rows out."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np

from alignment.runs.offline.pair_evaluation import PairEvaluation, Rerendered, answers_of, same_pairs
from alignment.runs.offline.pairs import REWARD_PAIRS

TOKENIZER = SimpleNamespace(decode=lambda ids, skip_special_tokens: " " + "-".join(map(str, ids)))
CONTENT = partial(answers_of, kind=REWARD_PAIRS, tokenizer=TOKENIZER)


def pair(better, worse, prompt=(1,)):
    ids = {"better_input_ids": np.array([*prompt, *better]), "worse_input_ids": np.array([*prompt, *worse])}
    return {**ids, "prompt_length": len(prompt)}


def test_pairs_are_matched_by_their_answers_in_order():
    """The first list lacks the pair 3, the second the pairs 1 and 4; the prompts are rendered in another way."""
    first = [pair([n], [n + 10]) for n in (1, 2, 4, 2, 5)]
    second = [pair([n], [n + 10], prompt=(7, 7)) for n in (2, 3, 2, 5)]
    assert same_pairs(first, second, CONTENT) == [(1, 0), (3, 2), (4, 3)]
    assert same_pairs(first, [pair([8], [9])], CONTENT) == []


class _ByAnswer:
    """A runner that scores a row by its last token, negated if its prompt has two tokens."""

    def forward(self, batches, read):
        ends = [(b.input_ids, b.lengths, b.fields["answer_starts"]) for b in batches]
        return [
            np.array([row[n - 1] * (1.0 if start == 1 else -1.0) for row, n, start in zip(*parts, strict=True)])
            for parts in ends
        ]


def test_its_accuracy_is_that_of_the_pairs_that_were_rendered(tmp_path):
    """Five pairs of which three are ranked right; two of the others were rendered, where the order is turned round."""
    better = [([5], [1]), ([6], [2]), ([7], [3]), ([1], [8]), ([2], [9])]
    pairs = [pair(*answers) for answers in better]
    other = Rerendered("none", [pair(*better[3], prompt=(1, 1)), pair(*better[0], prompt=(1, 1))], [3, 0])
    evaluation = PairEvaluation(
        runner=_ByAnswer(), kind=REWARD_PAIRS, pairs=pairs, training_pairs=pairs, rows_per_batch=4, decode=str,
        plot_dir=None, other_template=other,
    )  # fmt: skip
    found = evaluation._judge(np.array([4.0, 4, 4, -7, -7]), 0.6)
    rows = {row[0]: row[1:3] for row in found.tables[0]["rows"]}
    assert rows["all"] == [5, 0.6]
    assert rows["2 of them, as they are"] == [2, 0.5]
    assert rows["2 of them, rendered with the template none"] == [2, 0.5]
