"""The plan against real runs: what every phase needs in a layout, predicted and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.commands import plan
from alignment.trainers.registered import TRAINERS

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
OTHERS = ("reference", "reward", "rollout")
COMPARED = {
    "share_prefixes": False,
    "rl_algorithm": "grpo",
    "num_return_sequences": 4,
    "per_device_reward_batch_size": 24,
}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {"recompute": True, "critic_recompute": False}),
    "Paddle's operators": (1, {"use_native_ops": False}),
    "what a preset sets": (
        1,
        {"preset": "recommended", "rl_algorithm": "rloo", "use_ema": True, "share_prefixes": False},
    ),
    "TP2 sequence": (2, {"tensor_parallel_degree": 2, "sequence_parallel": True}),
    "PP2 single": (2, {"pipeline_parallel_degree": 2, "eval_mode": "single"}),
    "Sh2 stage3": (2, {"sharding": "stage3"}),
    "a reward model that compares": (1, {"reward_model_name_or_path": "judge", **COMPARED}),
    "Sh2 stage3 and one that compares": (2, {"sharding": "stage3", "reward_model_name_or_path": "judge", **COMPARED}),
    "critic and engine apart": (2, {"placement": {"policy": [0], **dict.fromkeys(OTHERS, "critic"), "critic": [1]}}),
    "Sh2 stage2 offload": (2, {"sharding": "stage2", "offload_level": "freeze_model optimizer train_model"}),
}


OFFLINE: dict[str, tuple[str, int, dict[str, Any]]] = {
    "sft": ("sft", 1, {"recompute": True, "label_smoothing": 0.1}),
    "rm": ("rm", 1, {}),
    "gating": ("rm", 1, {"objective": "gating"}),
    "pairwise": ("pairwise", 1, {}),
    "dpo": ("dpo", 2, {"offload_level": "freeze_model"}),
    "kto": ("kto", 2, {}),
    "kd": ("kd", 3, {"teacher_offload": True, "beta": 0.5, "lmbda": 1.0, "kd_coef": 1.0, "max_dec_len": 24}),
}
"""Name to (trainer, phases, keys)."""


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


RARE = ("TP2 sequence", "Sh2 stage3 and one that compares")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.rare] if n in RARE else []) for n in CASES])
def test_predictions_are_within_ten_percent_of_what_is_used(name, tmp_path, capsys):
    processes, changes = CASES[name]
    path = write(tmp_path, changes)
    status = plan.main([path, "--gpus", str(processes), "--memory_gib", "4", "--on", "cpu", "--check"])
    captured = capsys.readouterr()
    assert status == 0, captured.out + captured.err
    assert captured.out.count(" ok ") == (6 * processes if "placement" in changes else 6)


@pytest.mark.parametrize("name", OFFLINE)
def test_predictions_for_offline_trainers_are_within_ten_percent(name, tmp_path, capsys):
    trainer, phases, keys = OFFLINE[name]
    labels = {"num_labels": 2, "id2label": {"0": "a", "1": "b"}} if name == "gating" else {}
    for folder, changes in (("model", labels), ("teacher", {"hidden_size": 192})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps({**SHAPE, **changes}))
    batches = {key: GIVEN[key] for key in ("max_length", "per_device_train_batch_size", "gradient_accumulation_steps")}
    models = {key: "teacher" if "teacher" in key else "model" for key in TRAINERS[trainer].model_keys}
    path = tmp_path / f"{trainer}.json"
    path.write_text(json.dumps({**batches, **models, "train_datasets": "d", "output_dir": "output", **keys}))
    status = plan.main([str(path), "--gpus", "1", "--memory_gib", "4", "--on", "cpu", "--check"])
    captured = capsys.readouterr()
    assert status == 0, captured.out + captured.err
    assert captured.out.count(" ok ") == 2 * phases


def test_a_teacher_in_a_layout_of_its_own_is_counted_in_it(tmp_path, capsys):
    for folder, changes in (("model", {}), ("teacher", {"hidden_size": 192})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps({**SHAPE, **changes}))
    batches = {key: GIVEN[key] for key in ("max_length", "per_device_train_batch_size", "gradient_accumulation_steps")}
    models = {"model_name_or_path": "model", "teacher_model_name_or_path": "teacher"}
    layout = {"tensor_parallel_degree": 2, "teacher_tensor_parallel_degree": 1}
    path = tmp_path / "kd.json"
    path.write_text(json.dumps({**batches, **models, **layout, "train_datasets": "d", "output_dir": "output"}))
    status = plan.main([str(path), "--gpus", "2", "--memory_gib", "4", "--on", "cpu", "--check"])
    captured = capsys.readouterr()
    assert status == 0 and captured.out.count(" ok ") == 4, captured.out + captured.err
