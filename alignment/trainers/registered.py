"""The registry of trainers, used by the parser, key reference, parity checks, demo and commands."""

from __future__ import annotations

from alignment.errors import ArgumentError
from alignment.registry import Registry
from alignment.trainers.trainer import OfflineTrainer, PreferenceTrainer, Trainer

TRAINERS: Registry[Trainer] = Registry("trainer", ArgumentError)

for _trainer in (
    OfflineTrainer(
        name="sft",
        label="SFT",
        title="Supervised fine-tuning",
        door="alignment/sft/run_sft.py",
        small_run={"train_datasets": "packing-sft/train:200/-1", "model_name_or_path": "actor"},
        variants={"SFT smoothed": {"label_smoothing": 0.2}},
    ),
    Trainer(
        name="rm",
        label="RM",
        title="Reward model",
        package="alignment.trainers.reward",
        door="alignment/rm/run_reward.py",
        models=("reward",),
        small_run={
            "train_datasets": "packing-preference/train:200/-1",
            "model_name_or_path": "actor",
            "regularization": 0.01,
        },
        variants={
            "RM average": {"loss_type": "average", "center_rewards_coefficient": 0.01},
            "RM head": {"train_head_only": True, "recompute": True},
            "Cost": {"objective": "cost", "train_datasets": "packing-safety/train:200/-1"},
            "Regression": {
                "objective": "regression",
                "train_datasets": "packing-attributes/train:200/-1",
                "attributes": ["coverage", "excess", "closed", "chatter"],
                "regularization": 0.0,
            },
            "Gating": {"objective": "gating", "model_name_or_path": "attributes", "gating_hidden_size": 6},
            "Process": {
                "objective": "process",
                "train_datasets": "packing-steps/train:200/-1",
                "placeholder_token": "and",
                "regularization": 0.0,
            },
        },
    ),
    OfflineTrainer(
        name="pairwise",
        label="Pairwise",
        title="Pairwise preference model",
        models=("reward",),
        small_run={
            "train_datasets": "packing-preference/train:200/-1",
            "model_name_or_path": "actor",
            "pairwise_template": "{context} <eos> {response_A} <eos> {response_B}",
            "pairwise_turn": "{content}",
            "pairwise_letters": ["apple", "boots"],
        },
    ),
    PreferenceTrainer(
        name="dpo",
        label="DPO",
        title="Direct preference optimization",
        algorithm="alignment.algorithms.preference.dpo:DPO",
        door="alignment/dpo/run_dpo.py",
        variants={
            "SimPO": {"loss_type": "simpo", "beta": 2.0},
            "ORPO": {"loss_type": "orpo"},
            "LD-DPO": {"ld_alpha": 0.5},
            "DPO losses": {
                "loss_type": ["sigmoid", "aot_unpaired", "bco_pair", "sft"],
                "loss_weights": [1, 1, 0.5, 0.1],
            },
        },
    ),
    PreferenceTrainer(
        name="kto",
        label="KTO",
        title="Kahneman-Tversky optimization",
        algorithm="alignment.algorithms.preference.kto:KTO",
        door="alignment/kto/run_kto.py",
        small_run={"train_datasets": "packing-kto/train:200/-1", "model_name_or_path": "actor"},
    ),
    OfflineTrainer(
        name="kd",
        label="KD",
        title="Distillation",
        door="alignment/kd/run_kd.py",
        small_run={
            "train_datasets": "packing-sft/train:200/-1",
            "model_name_or_path": "actor",
            "teacher_model_name_or_path": "teacher",
            "beta": 0.5,
            "temperature": 1.5,
            "kd_coef": 1.0,
            "lmbda": 0.5,
            "max_dec_len": 8,
            "use_fusemt": False,
        },
    ),
    Trainer(
        name="ppo",
        label="PPO",
        title="PPO, GRPO, RLOO, REINFORCE++ and others (rl_algorithm)",
        package="alignment.trainers.ppo",
        door="alignment/ppo/run_ppo.py",
        models=("policy", "value", "cost_value"),
        is_on_policy=True,
        small_run={
            "train_datasets": "packing-prompts/train:100/-1",
            "actor_model_name_or_path": "actor",
            "reward_model_name_or_path": "reward",
            "ptx_datasets": "packing-sft/train:60/-1",
            "ptx_coeff": 0.5,
            "num_return_sequences": 2,
            "per_device_prompt_batch_size": 2,
            "max_dec_len": 8,
            "normalize_advantage": True,
            "use_fusemt": False,
        },
    ),
):
    TRAINERS.register(_trainer.name, _trainer)
