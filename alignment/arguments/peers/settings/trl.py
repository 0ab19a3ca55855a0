"""TRL's defaults and conventions, a table an algorithm."""

from __future__ import annotations

from collections.abc import Mapping

from alignment.arguments.peers.settings.setting import (
    CLIPPED,
    EVERY_PROMPT,
    TOKENS,
    WHOLE_DISTRIBUTION,
    Setting,
    Settings,
    advantages,
    kl,
)

SETTINGS: Mapping[str, Settings] = {
    "ppo": {
        **CLIPPED,
        **kl(0.05),
        **advantages(0.95, is_white=True),
        **WHOLE_DISTRIBUTION,
        **EVERY_PROMPT,
        "update_iters": Setting(4),
        "temperature": Setting(0.7),
        "max_dec_len": Setting(53),
        "learning_rate": Setting(3e-6),
        "critic_learning_rate": Setting(3e-6, unless=("learning_rate",)),
        "lr_scheduler_type": Setting("linear"),
        "clip_range_value": Setting(0.2),
        "clip_range_score": Setting(None, "scores are not clipped"),
        "policy_loss_reduction": TOKENS,
    },
    "grpo": {
        **CLIPPED,
        **WHOLE_DISTRIBUTION,
        **EVERY_PROMPT,
        "num_return_sequences": Setting(8),
        "max_dec_len": Setting(512),
        "learning_rate": Setting(1e-6),
        "lr_scheduler_type": Setting("linear"),
        "kl_coeff": Setting(0.0, "the KL is in the loss"),
        "kl_loss_coeff": Setting(0.0),
        "clip_range_score": Setting(None, "the KL in the loss is not limited"),
        "scale_rewards": Setting("group"),
        "group_epsilon": Setting(1e-4, "1e-4 is added to the deviation of a group"),
        "normalize_advantage": Setting(False, "advantages are not whitened"),
        "policy_loss_reduction": Setting("token"),
    },
    "rloo": {
        **CLIPPED,
        **WHOLE_DISTRIBUTION,
        **EVERY_PROMPT,
        **kl(0.05),
        "num_return_sequences": Setting(2),
        "max_dec_len": Setting(512),
        "learning_rate": Setting(1e-6),
        "lr_scheduler_type": Setting("linear"),
        "kl_loss_coeff": Setting(0.0, "the KL is in the reward"),
        "normalize_advantage": Setting(False),
        "importance_sampling_level": Setting("sequence_product", "a response has one ratio, that of its probabilities"),
        "policy_loss_reduction": Setting("sequence", "responses weigh the same"),
    },
}
