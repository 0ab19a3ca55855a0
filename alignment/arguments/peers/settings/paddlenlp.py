"""PaddleNLP's defaults and conventions, a table an algorithm."""

from __future__ import annotations

from collections.abc import Mapping

from alignment.arguments.peers.settings.setting import CLIPPED, TOKENS, Setting, Settings, kl

SETTINGS: Mapping[str, Settings] = {
    "ppo": {
        **CLIPPED,
        **kl(0.02),
        "gamma": Setting(1.0),
        "gae_lambda": Setting(0.95),
        "normalize_advantage": Setting(False),
        "clip_range_value": Setting(5.0),
        "clip_range_score": Setting(50.0),
        "clip_placement": Setting("score", "the score is clipped before the KL is subtracted"),
        "policy_loss_reduction": TOKENS,
    },
    "grpo": {
        **CLIPPED,
        "kl_coeff": Setting(0.0),
        "kl_loss_coeff": Setting(0.001),
        "clip_range_score": Setting(10.0),
        "scale_rewards": Setting("group", "scores are divided by the deviation of their group"),
        "group_epsilon": Setting(1e-6, "1e-6 is added to that deviation"),
        "policy_loss_reduction": TOKENS,
    },
}
