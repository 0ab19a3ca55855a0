"""What a preset sets: the values of keys, and what several suites share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """The value of a key in a preset."""

    value: Any
    convention: str = ""
    """What the peer always does: another value is refused. Empty: a default, which the user may change."""
    unless: tuple[str, ...] = ()
    """Keys whose values the user gave replace this one too."""


Settings = Mapping[str, Setting]
"""Key to what a preset sets it to."""

BATCHES = ("per_device_prompt_batch_size", "gradient_accumulation_steps")
WHOLE_DISTRIBUTION = {
    "temperature": Setting(1.0),
    "top_p": Setting(1.0),
    "top_k": Setting(0),
    "min_dec_len": Setting(0),
}
EVERY_PROMPT = {"remove_same_inputs": Setting(False)}
"""What suites do that leave equal prompts in: a prompt is as frequent in training as in its file."""
CLIPPED = {"clip_range_ratio": Setting(0.2), "dual_clip": Setting(None), "update_iters": Setting(1)}
TOKENS = Setting("token", "losses are means over tokens")


def batches(prompts: int, mini: int, *also: str) -> dict[str, Setting]:
    """Return the prompts of a rollout and of an update over all processes; they yield to the keys ``also`` too."""
    return {
        "global_batch_size": Setting(prompts, unless=(*BATCHES, *also, "global_mini_batch_size")),
        "global_mini_batch_size": Setting(mini, unless=(*BATCHES, *also, "global_batch_size")),
    }


def kl(coefficient: float) -> dict[str, Setting]:
    """Return the weight of the KL in the reward and its plain estimate."""
    return {"kl_coeff": Setting(coefficient), "kl_estimator": Setting("k1")}


def advantages(gae_lambda: float, *, is_white: bool, variance: str = "unbiased") -> dict[str, Setting]:
    """Return how advantages are estimated, without a discount, and whether they are whitened, as a convention."""
    how = f"are whitened with the {variance} variance" if is_white else "are not whitened"
    white = {"normalize_advantage": Setting(is_white, f"advantages {how}")}
    if is_white:
        white["advantage_variance"] = Setting(variance, f"advantages {how}")
    return {"gamma": Setting(1.0), "gae_lambda": Setting(gae_lambda), **white}
