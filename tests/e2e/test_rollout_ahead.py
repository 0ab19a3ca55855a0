"""Rollouts one step ahead of the updates: what is learned from which weights, beside or before, and resumed."""

from __future__ import annotations

import pytest
import runs
from refusals import refuse, stop, train_here

from alignment.runs.on_policy import engines

pytestmark = pytest.mark.e2e


def _files(folder):
    """The bytes of all exported models."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("policy", "value", "cost_value", "policy_ema")
        for path in sorted((folder / name).glob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def made(ppo_arguments):
    """Six rollouts of two updates each, and a checkpoint after each."""
    made = {**ppo_arguments, "rollout_ahead": 1, "update_iters": 1, "learning_rate": 0.01, "max_steps": 12}
    return {**made, "save_strategy": "steps", "save_steps": 2}


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The unbroken run of PPO, with an average of the policy and a frozen policy in the first rollout."""
    folder = tmp_path_factory.mktemp("ahead")
    keys = {**made, "use_ema": True, "freezing_actor_steps": 1}
    done = train_here("ppo", {**keys, "output_dir": folder / "whole"}, folder)
    assert "rollout_ahead=1: the next rollout is sampled beside the updates, in a thread" in done.stderr
    return folder / "whole", keys


def test_staleness_counts_the_updates_of_the_policy_since_the_weights_that_sampled(whole):
    """Sampled before updates 1, 1, 3, 5, ... and learned from before 1, 3, 5, ...; the first two leave the policy."""
    records = [record for record in runs.metrics(whole[0]) if "train/reward" in record]
    assert [record["rollout/staleness"] for record in records] == [0, 0, 2, 2, 2, 2]
    assert ["rollout/logprob_gap_max" in record for record in records] == [True, True, False, False, False, False]
    for record in records[1:]:
        # The ratio refers to the policy before the update, whoever sampled.
        assert record["policy/ratio_mean"] == pytest.approx(1.0, abs=0.05)
        assert 0 <= record["rollout/importance_weight_truncated"] < 1
    assert records[1]["rollout/importance_weight_mean"] == pytest.approx(1.0, abs=1e-5)
    assert abs(records[2]["rollout/importance_weight_mean"] - 1) > 1e-4


def test_before_and_beside_the_updates_are_the_same_run_to_the_bit(whole, tmp_path, monkeypatch):
    folder, keys = whole
    monkeypatch.setattr(engines, "_obstacle_beside_updates", lambda *parts: "for the test")
    done = train_here("ppo", {**keys, "output_dir": tmp_path / "out"}, tmp_path)
    assert "sampled before the updates, which saves no time (for the test)" in done.stderr
    assert _files(tmp_path / "out") == _files(folder) and len(_files(folder)) == 3
    assert runs.computed(tmp_path / "out") == runs.computed(folder)


@pytest.mark.parametrize("step", [2, 8])
def test_a_resumed_run_learns_from_the_rollout_in_hand_and_ends_bit_for_bit(step, whole, tmp_path):
    folder, keys = whole
    resumed = {**keys, "output_dir": tmp_path / "out", "resume_from_checkpoint": folder / f"checkpoint-{step}"}
    train_here("ppo", resumed, tmp_path)
    assert _files(tmp_path / "out") == _files(folder)
    assert runs.computed(tmp_path / "out") == [record for record in runs.computed(folder) if record["step"] > step]


def test_what_would_lose_the_rollout_in_hand_or_its_correction_is_refused(whole, made, tmp_path):
    folder, keys = whole
    behind = {**keys, "rollout_ahead": 0, "resume_from_checkpoint": folder / "checkpoint-2"}
    stop(
        "ppo",
        behind,
        tmp_path,
        "a rollout that was sampled ahead, whose prompts would be skipped: give rollout_ahead=1",
    )
    refuse("ppo", {**made, "on_logprob_gap": "recompute"}, tmp_path, "recompute with rollout_ahead=1", "give correct")
