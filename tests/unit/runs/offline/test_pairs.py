"""Pairs become rows whose ends and first differences are those of the answers, and accuracies have the right sign."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters
from alignment.runs.offline.pair_evaluation import PairEvaluation
from alignment.runs.offline.pairs import COST_PAIRS, REWARD_PAIRS, pair_batch
from alignment.runs.offline.train import build_task
from alignment.trainers.objectives import REWARD

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


def test_margins_go_with_their_pairs():
    pairs = [{**pair, "margin": margin} for pair, margin in zip(PAIRS, (1.5, -0.25), strict=True)]
    assert pair_batch(pairs, REWARD_PAIRS).fields["margin"].tolist() == [1.5, -0.25]
    assert "margin" not in pair_batch(PAIRS, REWARD_PAIRS).fields


def test_cost_pairs_carry_their_signs():
    fields = pair_batch([_as_safety(pair) for pair in PAIRS], COST_PAIRS).fields
    assert fields["safer_safety_sign"].tolist() == [1, 1]
    assert fields["unsafer_safety_sign"].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("loss_type", "only_ends"), [("sequence-wise", True), ("logexp", True), ("token-wise", False), ("average", False)]
)
def test_a_loss_on_ends_reads_no_other_scores(loss_type, only_ends):
    asked = []

    def training_scores(batch, only_ends=False):
        asked.append(only_ends)
        return paddle.arange(4.0)

    read = REWARD.read_for(BradleyTerryHyperparameters(loss_type=loss_type))
    better, worse = read(SimpleNamespace(training_scores=training_scores), None)
    assert asked == [only_ends]
    assert better.tolist() == [0, 1] and worse.tolist() == [2, 3]


class _Ends:
    """A model whose score of a row is its number of tokens, less ``offset``."""

    def __init__(self, offset=0.0):
        self._offset = offset

    def forward(self, batches, read):
        return [batch.lengths.astype(np.float32) - self._offset for batch in batches]


def _evaluation(kind, *, offset=0.0, plot_dir=None):
    pairs = PAIRS if kind is REWARD_PAIRS else [_as_safety(pair) for pair in PAIRS]
    options = {"pairs": pairs, "training_pairs": pairs[:1], "rows_per_batch": 2, "decode": str, "plot_dir": plot_dir}
    return PairEvaluation(runner=_Ends(offset), kind=kind, **options)


@pytest.mark.parametrize(("kind", "accuracy"), [(REWARD_PAIRS, 0.0), (COST_PAIRS, 0.5)])
def test_accuracy_asks_for_a_higher_reward_and_a_lower_cost(tmp_path, kind, accuracy):
    metrics, rows = _evaluation(kind, plot_dir=tmp_path / "plots")()
    assert metrics["eval/accuracy"] == accuracy  # a tie is wrong
    # Every score is positive: right for the unsafe sides alone.
    assert metrics.get("eval/sign_accuracy") == (0.5 if kind is COST_PAIRS else None)
    assert metrics["eval/rewards_mean"] == pytest.approx((4 + 3 + 5 + 3) / 4)
    assert metrics["eval/train_rewards_mean"] == pytest.approx((4 + 5) / 2)
    assert metrics["eval/train_rewards_std"] == pytest.approx(0.5)
    assert metrics[f"eval/{kind.sides[1]}_rewards_std"] == pytest.approx(1.0)
    assert [row["score"] for row in rows] == [4.0, 5.0, 3.0, 3.0]
    assert not [*tmp_path.rglob("*.png")], "drawn at the end, by another process"
    with np.load(tmp_path / "plots" / "held_out.npz") as kept:
        assert kept["margins"].tolist() == [-1.0 if kind is REWARD_PAIRS else 1.0, 0.0]
        assert kept["scores"].tolist() == [4.0, 3.0, 5.0, 3.0] and kept["lengths"].tolist() == [2, 1, 3, 1]
        assert kept["chosen"].tolist() == [True, True, False, False]


@pytest.mark.parametrize(("offset", "accuracy"), [(10.0, 0.5), (3.5, 0.5), (4.5, 0.75), (0.0, 0.5)])
def test_a_cost_is_negative_for_a_safe_answer_and_positive_for_an_unsafe_one(offset, accuracy):
    """Scores 4 and 3 of the safe sides, 5 and 3 of the unsafe ones, less the offset."""
    assert _evaluation(COST_PAIRS, offset=offset)()[0]["eval/sign_accuracy"] == accuracy


@pytest.mark.parametrize(("kind", "margins"), [(REWARD_PAIRS, (-1, 0)), (COST_PAIRS, (1, 0))])
def test_the_loss_falls_as_the_preferred_side_wins(kind, margins):
    assert _evaluation(kind)()[0]["eval/loss"] == pytest.approx(np.mean([np.log1p(np.exp(-m)) for m in margins]))


@pytest.mark.parametrize("loss_type", ["sequence-wise", "token-wise"])
def test_equal_scores_cost_log_two_a_pair_however_the_pairs_are_cut(loss_type):
    hyperparameters = BradleyTerryHyperparameters(loss_type=loss_type)
    for cut in ([PAIRS], [PAIRS[:1], PAIRS[1:]]):
        batches = [pair_batch(pairs, REWARD_PAIRS) for pairs in cut]
        objective = build_task(REWARD, hyperparameters, model=None).make_objective(batches)
        zeros = [paddle.zeros([b.num_rows // 2, b.input_ids.shape[1]]) for b in batches]
        losses = [objective.loss((z, z), batch) for z, batch in zip(zeros, batches, strict=True)]
        assert sum(float(loss.value) for loss in losses) == pytest.approx(np.log(2))
        assert sum(float(loss.metrics["preference/loss"].value) for loss in losses) == pytest.approx(np.log(2))


def test_after_an_update_the_model_learns_its_statistics_over_all_processes():
    learned, share = [], object()
    task = build_task(REWARD, BradleyTerryHyperparameters(), model=SimpleNamespace(learn_statistics=learned.append))
    task.after_update(SimpleNamespace(runner=SimpleNamespace(share=share)))
    assert learned == [share]


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_the_size_of_a_batch_changes_no_metric(rows):
    evaluation = PairEvaluation(
        runner=_Ends(),
        kind=REWARD_PAIRS,
        pairs=PAIRS,
        training_pairs=PAIRS,
        rows_per_batch=rows,
        decode=str,
        plot_dir=None,
    )
    assert evaluation()[0] == _evaluation_of_four()[0]


def _evaluation_of_four():
    return PairEvaluation(
        runner=_Ends(),
        kind=REWARD_PAIRS,
        pairs=PAIRS,
        training_pairs=PAIRS,
        rows_per_batch=4,
        decode=str,
        plot_dir=None,
    )()


@pytest.mark.parametrize("offset", [float("inf"), 3.4e38])
def test_scores_that_exploded_are_metrics_that_the_loop_refuses(offset, tmp_path):
    """No warning of numpy's tells it first: one would be an error here."""
    metrics, _ = _evaluation(REWARD_PAIRS, offset=offset, plot_dir=tmp_path)()
    assert not np.isfinite(metrics["eval/rewards_std"]) and (tmp_path / "held_out.npz").is_file()
    assert np.isnan(metrics["eval/loss"]) == np.isinf(offset)
