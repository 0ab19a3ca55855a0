"""The plan against real runs: what every phase needs in a layout, predicted and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.commands import plan

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SHAPE = {
    "model_type": "qwen2",
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
GIVEN = {
    "train_datasets": "packing-prompts/train",
    "actor_model_name_or_path": "policy",
    "reward_model_name_or_path": "reward",
    "output_dir": "output",
    "max_length": 96,
    "max_dec_len": 24,
    "per_device_prompt_batch_size": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "use_fusemt": False,
}
COMPARED = {"rl_algorithm": "grpo", "num_return_sequences": 4, "per_device_reward_batch_size": 24}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {"recompute": True, "critic_recompute": False}),
    "Paddle's operators": (1, {"use_native_ops": False}),
    "TP2 sequence": (2, {"tensor_parallel_degree": 2, "sequence_parallel": True}),
    "PP2 single": (2, {"pipeline_parallel_degree": 2, "eval_mode": "single"}),
    "Sh2 stage3": (2, {"sharding": "stage3"}),
    "a reward model that compares": (1, {"reward_model_name_or_path": "judge", **COMPARED}),
    "Sh2 stage3 and one that compares": (2, {"sharding": "stage3", "reward_model_name_or_path": "judge", **COMPARED}),
    "Sh2 stage2 offload": (2, {"sharding": "stage2", "offload_level": "freeze_model optimizer train_model"}),
}


OFFLINE: dict[str, dict[str, Any]] = {
    "sft": {"recompute": True},
    "rm": {},
    "pairwise": {},
    "dpo": {"offload_level": "freeze_model"},
    "kto": {},
    "kd": {"teacher_model_name_or_path": "teacher", "teacher_offload": True, "beta": 0.5},
}


def write(folder: Path, changes: dict[str, Any]) -> str:
    """Write arguments and the models' shapes; return the path of the arguments."""
    for name, own in (
        ("policy", {}),
        ("reward", {"num_hidden_layers": 3}),
        ("judge", {"pairwise_comparison": {"turn": "{content}"}}),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({**SHAPE, **own}))
    path = folder / "ppo.json"
    path.write_text(json.dumps({**GIVEN, **changes}))
    return str(path)


@pytest.mark.parametrize("name", CASES)
def test_predictions_are_within_ten_percent_of_what_is_used(name, tmp_path, capsys):
    processes, changes = CASES[name]
    path = write(tmp_path, changes)
    status = plan.main([path, "--gpus", str(processes), "--memory_gib", "4", "--on", "cpu", "--check"])
    captured = capsys.readouterr()
    assert status == 0, captured.out + captured.err
    assert captured.out.count(" ok ") == 6


@pytest.mark.parametrize("trainer", OFFLINE)
def test_predictions_for_offline_trainers_are_within_ten_percent(trainer, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(SHAPE))
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text(json.dumps({**SHAPE, "hidden_size": 192}))
    batches = {key: GIVEN[key] for key in ("max_length", "per_device_train_batch_size", "gradient_accumulation_steps")}
    models = {"train_datasets": "d", "model_name_or_path": "model", "output_dir": "output"}
    path = tmp_path / f"{trainer}.json"
    path.write_text(json.dumps({**batches, **models, **OFFLINE[trainer]}))
    status = plan.main([str(path), "--gpus", "1", "--memory_gib", "4", "--on", "cpu", "--check"])
    captured = capsys.readouterr()
    assert status == 0, captured.out + captured.err
    assert captured.out.count(" ok ") == (2 if trainer in ("sft", "rm", "pairwise") else 4)
