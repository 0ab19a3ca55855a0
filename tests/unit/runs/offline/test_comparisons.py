"""Micro-batches of comparisons, what is read from the model, and the judgement of held-out pairs."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.models.decoder.logprobs import policy_logprobs
from alignment.parallel.build_runner import build_runner
from alignment.parallel.topology import Topology
from alignment.runs.offline.comparisons import ComparisonEvaluation, comparison_batch, read_letters
from tests.tiny_models import tiny_causal

FIRST, SECOND = 4, 5


def pair(better, worse, **fields):
    return {
        "better_first_input_ids": np.array([1, 6, *better, 3, *worse, FIRST]),
        "worse_first_input_ids": np.array([1, 6, *worse, 3, *better, SECOND]),
        "extra_length": len(better) - len(worse), "margin": None, **fields,
    }  # fmt: skip


def test_only_the_letter_is_a_target_and_the_other_one_is_its_alternative():
    batch = comparison_batch([pair([7, 8], [9]), pair([10], [11])])
    assert batch.target_ids.tolist() == [FIRST, FIRST, SECOND, SECOND]
    assert batch.fields["wrong_letters"].tolist() == [SECOND, SECOND, FIRST, FIRST]
    assert batch.fields["is_first"].tolist() == [1, 1, 0, 0]
    assert batch.target_positions.tolist() == [6, 5, 6, 5]


def test_the_log_probs_are_those_of_either_letter_in_that_place():
    model = tiny_causal(seed=3, std=0.3)
    batch = comparison_batch([pair([7, 8], [9]), pair([10], [11])])
    with paddle.no_grad():
        found = read_letters(model, batch).numpy()
        for column, letters in enumerate((batch.target_ids, batch.fields["wrong_letters"])):
            ids = batch.input_ids.copy()
            ids[batch.target_rows, batch.target_positions] = letters
            other = type(batch).build(
                [row[:length] for row, length in zip(ids, batch.lengths, strict=True)],
                [[position] for position in batch.target_positions],
            )
            alone, _ = policy_logprobs(model, other, temperature=1.0, with_entropy=False)
            np.testing.assert_allclose(found[:, column], alone.numpy(), rtol=1e-5)


class Scripted:
    """Gives the right letter these log-odds over the wrong one, in each order."""

    def __init__(self, better_first, worse_first):
        self.odds = {FIRST: better_first, SECOND: worse_first}

    def forward(self, batches, read):
        odds = [np.array([self.odds[letter] for letter in batch.target_ids]) for batch in batches]
        return [np.stack([-np.logaddexp(0, -one), -np.logaddexp(0, one)], -1) for one in odds]


def evaluation(tmp_path, runner, pairs, **options):
    return ComparisonEvaluation(
        runner=runner, pairs=pairs, training_pairs=pairs[:1], rows_per_batch=4, decode=str, output_dir=tmp_path,
        **options,
    )  # fmt: skip


def test_a_model_that_always_names_the_first_answer_is_no_better_than_guessing(tmp_path):
    pairs = [pair([7, 8], [9]) for _ in range(40)]
    metrics, rows = evaluation(tmp_path, Scripted(2.0, -2.0), pairs)()
    assert metrics["eval/accuracy"] == 0.0, "a tie is wrong"
    assert metrics["eval/first_share"] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert metrics["eval/consistency"] == 0.0 and metrics["eval/letter_mass"] == pytest.approx(1)
    assert rows[0]["score"] == 0.5
    readiness = json.loads((tmp_path / "readiness.json").read_text())
    assert readiness["trust"] == "no"
    assert any("the answer shown first gets 0.881 of the probability" in reason for reason in readiness["reasons"])


def test_a_model_without_position_bias_is_judged_by_margin_and_subset(tmp_path):
    pairs = [pair([7, 8], [9], margin=float(i % 6)) for i in range(60)]
    subsets = ["one"] * 30 + ["two"] * 30
    metrics, rows = evaluation(tmp_path, Scripted(1.0, 1.0), pairs, datasets=subsets)()
    assert metrics["eval/accuracy"] == metrics["eval/consistency"] == 1.0
    assert metrics["eval/first_share"] == pytest.approx(0.5)
    assert metrics["eval/loss"] == pytest.approx(np.log1p(np.exp(-1)))
    assert rows[0]["score"] == pytest.approx(1 / (1 + np.exp(-1)))
    names = [row[0] for row in json.loads((tmp_path / "readiness.json").read_text())["tables"][0]["rows"]]
    assert {"dataset one", "dataset two", "large given margin (to 5)"} <= set(names)
    with np.load(tmp_path / "plots" / "held_out.npz") as kept:
        assert kept.files == ["margins"] and kept["margins"] == pytest.approx(np.ones(60))


def test_a_real_model_is_evaluated_in_batches_of_any_size():
    model = build_runner(tiny_causal(seed=3, std=0.3), Topology(device="cpu"))
    pairs = [pair([7 + i, 8], [9]) for i in range(5)]
    found = []
    for rows in (2, 64):
        one = ComparisonEvaluation(
            runner=model, pairs=pairs, training_pairs=pairs, rows_per_batch=rows, decode=str, output_dir=None
        )
        found.append(one()[0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
