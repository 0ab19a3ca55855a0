"""How long a run is, when an epoch ends, and which of two evaluations is better."""

import pytest

from alignment.arguments.training import TrainingArguments
from alignment.data.loader import BatchLoader
from alignment.errors import DataError
from alignment.runs.assembly import Horizon, build_best, stream_batches


def _training(**keys):
    return TrainingArguments(output_dir="out", **keys)


def test_an_epoch_ends_with_its_last_batch():
    batches = stream_batches(BatchLoader(list(range(5)), batch_size=2, seed=0))
    assert [next(batches)[1] for _ in range(6)] == [False, False, True] * 2


def test_a_fraction_of_an_epoch_is_rounded_up_and_max_steps_wins():
    assert Horizon.of(_training(num_train_epochs=1.5), 3, "data") == Horizon(total_updates=5, updates_per_epoch=3)
    assert Horizon.of(_training(num_train_epochs=1.5, max_steps=2), 3, "data").total_updates == 2
    assert Horizon.of(_training(num_train_epochs=2), 1, "data").total_updates == 2


def test_an_epoch_without_an_update_is_refused():
    with pytest.raises(DataError, match="train_datasets gives no update"):
        Horizon.of(_training(), 0, "train_datasets")


@pytest.mark.parametrize(
    ("keys", "metric", "greater"),
    [
        ({}, "eval/reward", True),
        ({"metric_for_best_model": "loss"}, "eval/loss", False),
        ({"metric_for_best_model": "eval_loss"}, "eval/loss", False),
        ({"metric_for_best_model": "eval/kl_divergence", "greater_is_better": False}, "eval/kl_divergence", False),
        ({"metric_for_best_model": "loss", "greater_is_better": True}, "eval/loss", True),
    ],
)
def test_a_smaller_loss_is_better_and_the_user_has_the_last_word(keys, metric, greater):
    best = build_best(_training(load_best_model_at_end=True, **keys), default="reward", keep=lambda: None)
    assert (best.metric, best.greater_is_better) == (metric, greater)
    assert build_best(_training(**keys), default="reward", keep=lambda: None) is None
