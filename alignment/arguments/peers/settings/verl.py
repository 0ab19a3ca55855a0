"""verl's defaults and conventions, a table an algorithm."""

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

_OWN = {
    "ppo": {
        **CLIPPED,
        **kl(0.0),
        **advantages(1.0, is_white=True),
        **WHOLE_DISTRIBUTION,
        **EVERY_PROMPT,
        **batches(1024, 256),
        "dual_clip": Setting(3.0),
        "max_dec_len": Setting(512),
        "learning_rate": Setting(1e-6),
        "critic_learning_rate": Setting(1e-5),
        "lr_scheduler_type": Setting("constant"),
        "clip_range_value": Setting(0.5),
        "clip_range_score": Setting(None, "scores are not clipped"),
        "policy_loss_reduction": Setting("token"),
    },
    "grpo": {
        **CLIPPED,
        **WHOLE_DISTRIBUTION,
        **EVERY_PROMPT,
        **batches(1024, 256),
        "dual_clip": Setting(3.0),
        "max_dec_len": Setting(512),
        "learning_rate": Setting(1e-6),
        "lr_scheduler_type": Setting("constant"),
        "kl_coeff": Setting(0.0),
        "kl_loss_coeff": Setting(0.0),
        "clip_range_score": Setting(10.0, "a token's KL in the loss is limited to 10"),
        "scale_rewards": Setting("group"),
        "group_epsilon": Setting(1e-6, "1e-6 is added to the deviation of a group"),
        "normalize_advantage": Setting(False, "advantages are not whitened"),
        "policy_loss_reduction": Setting("token"),
    },
}
_SHARED = {
    *(*CLIPPED, *WHOLE_DISTRIBUTION, *EVERY_PROMPT, "global_batch_size", "global_mini_batch_size"),
    *("max_dec_len", "learning_rate", "lr_scheduler_type", "policy_loss_reduction"),
}
SETTINGS: Mapping[str, Settings] = _OWN | {
    name: {
        **{key: setting for key, setting in _OWN["grpo"].items() if key in _SHARED},
        **kl(0.0),
        "kl_loss_coeff": Setting(0.0),
        "normalize_advantage": Setting(is_white, f"advantages are {'' if is_white else 'not '}whitened"),
    }
    for name, is_white in {
        "rloo": False,
        "remax": False,
        "opo": False,
        "reinforce_plus_plus": True,
        "reinforce_plus_plus_baseline": True,
    }.items()
}
