"""What every assembled run has whatever its keys: names, an account of rows, room on the disk, what is evaluated."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from alignment.errors import CheckpointError
from alignment.runs import datasets as data_start
from alignment.runs import state as run_state
from alignment.runs.on_policy import roles
from alignment.trainers.objectives import OBJECTIVES
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import assemble, make_models
from tests.contract.keys.data_rows import ROLE_SCORES
from tests.contract.keys.rows import ALL, EIGHT_ROWS, EVALUATED, held_out

NAMES = {
    "sft": ("SFT", "eval/loss", False, "sft/loss", "eval/loss", ["policy"]),
    "rm": ("reward model", "eval/accuracy", True, "preference/loss", "eval/accuracy", ["reward"]),
    "dpo": ("DPO", "eval/loss", False, "dpo/loss", "eval/rewards/accuracies", ["policy"]),
    "ppo": ("PPO", "eval/reward", True, "train/reward", "eval/reward", ["policy", "value"]),
}


def row_of(trainer):
    """What the row of an offline objective says of its run."""
    row = OBJECTIVES[trainer]
    metric = f"eval/{row.best_metric}"
    return row.title, metric, not metric.endswith("loss"), row.shown[0], row.cards[0], [row.model.name]


BEST = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 3, "eval_steps": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the tiny models."""
    place = tmp_path_factory.mktemp("runs")
    make_models(place)
    return place


def _assemble(trainer, folder, **keys):
    chosen = {**EVALUATED, **keys}
    return assemble(trainer, {k: v[trainer] if isinstance(v, dict) else v for k, v in chosen.items()}, folder)


@pytest.mark.parametrize("trainer", ALL)
def test_title_best_metric_display_and_models(trainer, folder):
    run = _assemble(trainer, folder, **BEST)
    title, metric, greater, shown, card, models = NAMES.get(trainer) or row_of(trainer)
    end = run.call("finish_run")
    best = run.session.hooks.best
    assert (end["title"], best.metric, best.greater_is_better) == (title, metric, greater)
    assert run.session.shown[0] == shown and end["cards"][0] == card
    assert sorted(run.state.models) == sorted(run.state.learners) == models
    assert best.keep == run.state.keep_best and run.session.hooks.save == run.state.save
    assert run.session.counters is run.state.counters
    assert [learner.name for learner in run.state.learners.values()] == [{"value": "critic"}.get(m, m) for m in models]


@pytest.mark.parametrize("trainer", ALL)
def test_the_account_of_rows_and_the_arguments_stand_in_the_folder(trainer, folder):
    run = _assemble(trainer, folder, learning_rate=0.125)
    output = run.launch.output_dir
    ledger = json.loads((output / "ledger.json").read_text())
    assert {role for role, account in ledger.items() if account} >= {"train", "eval"}
    assert json.loads((output / "arguments.json").read_text())["learning_rate"]["value"] == 0.125
    assert (len(run.dataset), len(held_out(run))) == (24, 8)


def test_as_many_training_pairs_are_evaluated_as_held_out_ones(folder):
    run = _assemble("rm", folder)
    assert len(run.evaluation.training_pairs) == len(run.evaluation.pairs) == 8
    more = _assemble("rm", folder, train_datasets="packing-preference/train:6/-1")
    assert (len(more.evaluation.training_pairs), len(more.evaluation.pairs)) == (6, 8)


@pytest.mark.parametrize("trainer", ALL)
def test_a_full_disk_is_told_before_the_first_update(trainer, folder, monkeypatch):
    monkeypatch.setattr(run_state.shutil, "disk_usage", lambda place: SimpleNamespace(free=10))
    with pytest.raises(CheckpointError, match="one checkpoint needs about"):
        _assemble(trainer, folder)


@pytest.mark.parametrize("strategy", ["no", "steps"])
@pytest.mark.parametrize("trainer", ALL)
def test_evaluation_data_are_read_only_where_they_are_used(trainer, strategy, folder):
    run = _assemble(trainer, folder, evaluation_strategy=strategy, eval_datasets=EIGHT_ROWS)
    assert (run.evaluation is not None) == (strategy == "steps")


def test_the_supervised_rows_beside_ppo_come_in_micro_batches_of_the_same_size(folder):
    keys = {"ptx_datasets": "packing-sft/test:8/-1", "ptx_coeff": 0.5, "per_device_train_batch_size": 2}
    run = _assemble("ppo", folder, **keys)
    assert [batch.num_rows for batch in run.loop.updater.next_ptx(4)] == [2, 2]
    assert _assemble("ppo", folder).loop.updater.next_ptx is None


@pytest.mark.parametrize("trainer", ALL)
def test_keys_of_columns_that_no_dataset_reads_are_told(trainer, folder, monkeypatch):
    told = []
    monkeypatch.setattr(data_start.log, "warn", told.append)
    _assemble(trainer, folder)
    assert told == []
    _assemble(trainer, folder, label_key="mine")
    assert told == ["label_key has no effect: no dataset of this run reads named columns (jsonl does)"]


def test_batch_sizes_of_ppo_that_are_not_given_are_the_micro_batch(folder):
    run = _assemble("ppo", folder, per_device_train_batch_size=2, per_device_eval_batch_size=3)
    judge = run.loop.judge
    assert (judge.logprob_rows, judge.value_rows, judge.scorer._rows_per_batch) == (2, 2, 2)
    assert run.evaluation.judge.logprob_rows == 3
    assert run.loop.engine.engine._settings.num_slots == 4, "all sequences of a rollout"


LOADERS = {
    "policy": ["runs.offline.models.load_causal_lm"],
    "reward": ["runs.offline.models.load_score_model"],
    "pairwise": ["runs.offline.models.load_causal_lm"],
    "ppo": ["runs.on_policy.roles.load_causal_lm", *ROLE_SCORES],
}
"""By the trainer, or by the one model that it trains."""


@pytest.mark.parametrize("trainer", ALL)
def test_every_model_is_loaded_in_the_dtype_and_place_of_the_run(trainer, folder):
    run = _assemble(trainer, folder)
    for name in LOADERS.get(trainer) or LOADERS[TRAINERS[trainer].models[0]]:
        for _, keywords in run.given[name]:
            assert keywords["dtype"] == run.launch.dtype and keywords["placement"].is_first


def test_sequences_generated_one_at_a_time(folder):
    run = _assemble("ppo", folder, per_device_rollout_batch_size=1)
    assert run.loop.engine.engine._settings.num_slots == 1


def test_every_model_of_ppo_is_compared_with_the_layout(folder, monkeypatch):
    compared = []
    monkeypatch.setattr(roles, "check_layout", lambda launch, config, place, role: compared.append(place))
    names = {"actor_model_name_or_path": "{other}", "reward_critic_model_name_or_path": "{other reward}"}
    _assemble("ppo", folder, **names)
    assert {str(place) for place in compared} == {str(folder / name) for name in ("other", "other reward", "reward")}
