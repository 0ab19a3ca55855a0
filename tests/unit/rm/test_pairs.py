"""Pairs become rows whose ends and first differences are those of the answers, and accuracies have the right sign."""

import numpy as np
import pytest

from alignment.rm.evaluation import PairEvaluation
from alignment.rm.pairs import COST_PAIRS, REWARD_PAIRS, pair_batch

PAIRS = [
    {"better_input_ids": np.array([1, 5, 7, 2]), "worse_input_ids": np.array([1, 5, 8, 9, 2]), "prompt_length": 2},
    {"better_input_ids": np.array([1, 6, 7]), "worse_input_ids": np.array([1, 6, 2]), "prompt_length": 2},
]


def _as_safety(pair):
    return {
        "safer_input_ids": pair["better_input_ids"],
        "unsafer_input_ids": pair["worse_input_ids"],
        "safer_safety_sign": 1,
        "unsafer_safety_sign": -1,
        "prompt_length": 2,
    }


def test_preferred_sides_come_first():
    batch = pair_batch(PAIRS, REWARD_PAIRS)
    np.testing.assert_array_equal(batch.input_ids, [[1, 5, 7, 2, 0], [1, 6, 7, 0, 0], [1, 5, 8, 9, 2], [1, 6, 2, 0, 0]])
    assert batch.fields["better_ends"].tolist() == [3, 2]
    assert batch.fields["worse_ends"].tolist() == [4, 2]
    assert batch.fields["first_difference"].tolist() == [2, 2]


def test_cost_pairs_carry_their_signs():
    fields = pair_batch([_as_safety(pair) for pair in PAIRS], COST_PAIRS).fields
    assert fields["safer_safety_sign"].tolist() == [1, 1]
    assert fields["unsafer_safety_sign"].tolist() == [-1, -1]


class _Ends:
    """A model whose score of a row is its number of tokens."""

    def forward(self, batches, read):
        return [batch.lengths.astype(np.float32) for batch in batches]


@pytest.mark.parametrize(("kind", "accuracy"), [(REWARD_PAIRS, 0.0), (COST_PAIRS, 0.5)])
def test_accuracy_asks_for_a_higher_reward_and_a_lower_cost(tmp_path, kind, accuracy):
    pairs = PAIRS if kind is REWARD_PAIRS else [_as_safety(pair) for pair in PAIRS]
    evaluation = PairEvaluation(
        runner=_Ends(),
        kind=kind,
        pairs=pairs,
        training_pairs=pairs[:1],
        rows_per_batch=2,
        decode=str,
        plot_dir=tmp_path / "plots",
    )
    metrics, rows = evaluation()
    assert metrics["eval/accuracy"] == accuracy  # a tie is wrong
    # Every score is positive: right for the unsafe sides alone.
    assert metrics.get("eval/sign_accuracy") == (0.5 if kind is COST_PAIRS else None)
    assert metrics["eval/rewards_mean"] == pytest.approx((4 + 3 + 5 + 3) / 4)
    assert metrics["eval/train_rewards_mean"] == pytest.approx((4 + 5) / 2)
    assert metrics["eval/train_rewards_std"] == pytest.approx(0.5)
    assert metrics[f"eval/{kind.sides[1]}_rewards_std"] == pytest.approx(1.0)
    assert [row["score"] for row in rows] == [4.0, 5.0, 3.0, 3.0]
    assert (tmp_path / "plots" / "calibration.png").is_file()
