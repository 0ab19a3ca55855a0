"""A run of an algorithm without critic: what it leaves, what it reports, and that it goes on bit for bit."""

from __future__ import annotations

import pytest
import runs
from refusals import stop, train_here

pytestmark = pytest.mark.e2e


def test_grpo_has_no_critic_anywhere_and_goes_on_bit_for_bit(ppo_arguments, tmp_path):
    made = {**ppo_arguments, "rl_algorithm": "grpo", "kl_coeff": 0.05, "kl_loss_coeff": 0.1, "max_steps": 8}
    made |= {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 2}
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    train_here("ppo", {**made, "output_dir": whole}, tmp_path)
    train_here("ppo", {**made, "output_dir": rest, "resume_from_checkpoint": whole / "checkpoint-4"}, tmp_path)
    saved = sorted(path.name for path in (whole / "checkpoint-4").iterdir())
    assert saved == ["complete.json", "policy", "policy_optimizer.safetensors", "state.json"]
    assert not (whole / "value").exists()
    weights = [(folder / "policy" / "model.safetensors").read_bytes() for folder in (whole, rest)]
    assert weights[0] == weights[1]
    records, later = runs.computed(whole), runs.computed(rest)
    assert later == [record for record in records if record["step"] > 4]
    names = set().union(*records)
    assert not [name for name in names if name.startswith("critic/") or name in ("train/values", "train/returns")]
    assert {"reward/degenerate_share", "policy/kl_loss", "train/kl_divergence"} <= names
    with_critic = {key: value for key, value in made.items() if key not in ("rl_algorithm", "kl_loss_coeff")}
    with_critic |= {"output_dir": tmp_path / "other", "resume_from_checkpoint": whole / "checkpoint-4"}
    stop("ppo", with_critic, tmp_path, "it holds no model 'value' (its models: policy)", "algorithm")


def test_without_a_kl_no_reference_is_loaded_and_none_is_reported(ppo_arguments, tmp_path):
    made = {**ppo_arguments, "rl_algorithm": "grpo", "kl_loss_coeff": 0.0, "max_steps": 2, "kl_target": None}
    made = {key: value for key, value in made.items() if value is not None}
    train_here("ppo", {**made, "output_dir": tmp_path / "out"}, tmp_path)
    names = set().union(*runs.metrics(tmp_path / "out"))
    assert not [name for name in names if name.startswith("kl/") or "kl_divergence" in name or "kl_loss" in name]
