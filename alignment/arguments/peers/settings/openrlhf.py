"""OpenRLHF's defaults and conventions, a table an algorithm."""

from __future__ import annotations

from collections.abc import Mapping

from alignment.arguments.peers.settings.setting import (
    CLIPPED,
    EVERY_PROMPT,
    WHOLE_DISTRIBUTION,
    Setting,
    Settings,
    advantages,
    batches,
    kl,
)

SETTINGS: Mapping[str, Settings] = {
    "ppo": {
        **CLIPPED,
        **kl(0.01),
        **advantages(1.0, is_white=True, variance="biased"),
        **WHOLE_DISTRIBUTION,
        **EVERY_PROMPT,
        **batches(1024, 128, "num_return_sequences"),
        "max_length": Setting(2048),
        "kl_limit": Setting(10.0, "a token's KL is limited to +-10"),
        "learning_rate": Setting(1e-6),
        "critic_learning_rate": Setting(9e-6),
        "adam_beta2": Setting(0.95),
        "clip_range_value": Setting(0.5),
        "clip_range_score": Setting(10.0),
        "clip_placement": Setting("score", "the score is clipped before the KL is subtracted"),
        "policy_loss_reduction": Setting("token"),
    },
}
