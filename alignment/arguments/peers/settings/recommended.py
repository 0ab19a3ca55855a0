"""What learned fastest here (docs/how-to/presets.md), a table an algorithm."""

from __future__ import annotations

from collections.abc import Mapping

from alignment.arguments.peers.settings.setting import BATCHES, CLIPPED, WHOLE_DISTRIBUTION, Setting, Settings, kl

_BATCH_OF_128 = ("global_batch_size", "global_mini_batch_size", *BATCHES)
_FAST = {
    **CLIPPED,
    **WHOLE_DISTRIBUTION,
    "per_device_train_batch_size": Setting(64, unless=_BATCH_OF_128),
    "per_device_prompt_batch_size": Setting(32, unless=_BATCH_OF_128),
    "num_return_sequences": Setting(4),
    "learning_rate": Setting(3e-3),
    "lr_scheduler_type": Setting("cosine"),
    "warmup_ratio": Setting(0.1),
    "policy_loss_reduction": Setting("token"),
}
SETTINGS: Mapping[str, Settings] = {
    "ppo": {
        **_FAST,
        "critic_learning_rate": Setting(3e-3, unless=("learning_rate",)),
        **kl(0.3),
        "gae_lambda": Setting(0.95),
        "normalize_advantage": Setting(True),
    },
    "grpo": {**_FAST, "learning_rate": Setting(2e-3), "kl_coeff": Setting(0.0), "kl_loss_coeff": Setting(0.3)},
    "rloo": {**_FAST, **kl(0.3), "update_iters": Setting(2), "normalize_advantage": Setting(True)},
}
