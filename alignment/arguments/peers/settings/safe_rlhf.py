"""safe-rlhf's defaults and conventions, a table an algorithm."""

from __future__ import annotations

from collections.abc import Mapping

from alignment.arguments.peers.settings.setting import CLIPPED, WHOLE_DISTRIBUTION, Setting, Settings, advantages, kl

SETTINGS: Mapping[str, Settings] = {
    "ppo": {
        **CLIPPED,
        **kl(0.02),
        **advantages(0.95, is_white=False),
        **WHOLE_DISTRIBUTION,
        "per_device_prompt_batch_size": Setting(16, unless=("global_batch_size",)),
        "per_device_train_batch_size": Setting(16),
        "max_length": Setting(512),
        "learning_rate": Setting(1e-5),
        "critic_learning_rate": Setting(5e-6),
        "lr_scheduler_type": Setting("cosine"),
        "clip_range_value": Setting(5.0),
        "clip_range_score": Setting(50.0),
        "clip_placement": Setting("token", "the sum of score and KL of each token is clipped"),
        "policy_loss_reduction": Setting("sequence", "losses are means over responses of means over tokens"),
    },
}
