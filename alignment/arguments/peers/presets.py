"""The defaults and conventions of other suites, and those recommended here, set with ``preset``: a table an algorithm.

A key that the user gives wins over a default of the peer; one that contradicts a convention, without which the run
would not compute what the peer computes, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from alignment.arguments.parsed import Parsed
from alignment.fields import show_value

PresetName = Literal["paddlenlp", "trl", "openrlhf", "verl", "safe-rlhf", "recommended"]


class Setting(NamedTuple):
    """The value of a key in a preset."""

    value: Any
    convention: str = ""
    """What the peer always does: another value is refused. Empty: a default, which the user may change."""
    unless: tuple[str, ...] = ()
    """Keys whose values the user gave replace this one too."""


Settings = Mapping[str, Setting]

_BATCHES = ("per_device_prompt_batch_size", "gradient_accumulation_steps")
_WHOLE_DISTRIBUTION = {
    "temperature": Setting(1.0),
    "top_p": Setting(1.0),
    "top_k": Setting(0),
    "min_dec_len": Setting(0),
}
_EVERY_PROMPT = {"remove_same_inputs": Setting(False)}
"""What suites do that leave equal prompts in: a prompt is as frequent in training as in its file."""
_CLIPPED = {"clip_range_ratio": Setting(0.2), "dual_clip": Setting(None), "update_iters": Setting(1)}
_TOKENS = Setting("token", "losses are means over tokens")


def _batches(prompts: int, mini: int, *also: str) -> dict[str, Setting]:
    """Return the prompts of a rollout and of an update over all processes; they yield to the keys ``also`` too."""
    return {
        "global_batch_size": Setting(prompts, unless=(*_BATCHES, *also, "global_mini_batch_size")),
        "global_mini_batch_size": Setting(mini, unless=(*_BATCHES, *also, "global_batch_size")),
    }


def _kl(coefficient: float) -> dict[str, Setting]:
    return {"kl_coeff": Setting(coefficient), "kl_estimator": Setting("k1")}


def _advantages(gae_lambda: float, *, is_white: bool, variance: str = "unbiased") -> dict[str, Setting]:
    how = f"are whitened with the {variance} variance" if is_white else "are not whitened"
    white = {"normalize_advantage": Setting(is_white, f"advantages {how}")}
    if is_white:
        white["advantage_variance"] = Setting(variance, f"advantages {how}")
    return {"gamma": Setting(1.0), "gae_lambda": Setting(gae_lambda), **white}


_PADDLENLP = {
    "ppo": {
        **_CLIPPED,
        **_kl(0.02),
        "gamma": Setting(1.0),
        "gae_lambda": Setting(0.95),
        "normalize_advantage": Setting(False),
        "clip_range_value": Setting(5.0),
        "clip_range_score": Setting(50.0),
        "clip_placement": Setting("score", "the score is clipped before the KL is subtracted"),
        "policy_loss_reduction": _TOKENS,
    },
    "grpo": {
        **_CLIPPED,
        "kl_coeff": Setting(0.0),
        "kl_loss_coeff": Setting(0.001),
        "clip_range_score": Setting(10.0),
        "scale_rewards": Setting("group", "scores are divided by the deviation of their group"),
        "group_epsilon": Setting(1e-6, "1e-6 is added to that deviation"),
        "policy_loss_reduction": _TOKENS,
    },
}
_TRL = {
    "ppo": {
        **_CLIPPED,
        **_kl(0.05),
        **_advantages(0.95, is_white=True),
        **_WHOLE_DISTRIBUTION,
        **_EVERY_PROMPT,
        "update_iters": Setting(4),
        "temperature": Setting(0.7),
        "max_dec_len": Setting(53),
        "learning_rate": Setting(3e-6),
        "critic_learning_rate": Setting(3e-6, unless=("learning_rate",)),
        "lr_scheduler_type": Setting("linear"),
        "clip_range_value": Setting(0.2),
        "clip_range_score": Setting(None, "scores are not clipped"),
        "policy_loss_reduction": _TOKENS,
    },
    "grpo": {
        **_CLIPPED,
        **_WHOLE_DISTRIBUTION,
        **_EVERY_PROMPT,
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
        **_CLIPPED,
        **_WHOLE_DISTRIBUTION,
        **_EVERY_PROMPT,
        **_kl(0.05),
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
_OPENRLHF = {
    "ppo": {
        **_CLIPPED,
        **_kl(0.01),
        **_advantages(1.0, is_white=True, variance="biased"),
        **_WHOLE_DISTRIBUTION,
        **_EVERY_PROMPT,
        **_batches(1024, 128, "num_return_sequences"),
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
_VERL = {
    "ppo": {
        **_CLIPPED,
        **_kl(0.0),
        **_advantages(1.0, is_white=True),
        **_WHOLE_DISTRIBUTION,
        **_EVERY_PROMPT,
        **_batches(1024, 256),
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
        **_CLIPPED,
        **_WHOLE_DISTRIBUTION,
        **_EVERY_PROMPT,
        **_batches(1024, 256),
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
_VERL_SHARED = {
    *(*_CLIPPED, *_WHOLE_DISTRIBUTION, *_EVERY_PROMPT, "global_batch_size", "global_mini_batch_size"),
    *("max_dec_len", "learning_rate", "lr_scheduler_type", "policy_loss_reduction"),
}
_VERL |= {
    name: {
        **{key: setting for key, setting in _VERL["grpo"].items() if key in _VERL_SHARED},
        **_kl(0.0),
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
_SAFE_RLHF = {
    "ppo": {
        **_CLIPPED,
        **_kl(0.02),
        **_advantages(0.95, is_white=False),
        **_WHOLE_DISTRIBUTION,
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
_BATCH_OF_128 = ("global_batch_size", "global_mini_batch_size", *_BATCHES)
_FAST = {
    **_CLIPPED,
    **_WHOLE_DISTRIBUTION,
    "per_device_train_batch_size": Setting(128, unless=_BATCH_OF_128),
    "lr_scheduler_type": Setting("cosine"),
    "policy_loss_reduction": Setting("token"),
}
_FAST_GROUPS = {
    **_FAST,
    "per_device_prompt_batch_size": Setting(32, unless=_BATCH_OF_128),
    "num_return_sequences": Setting(4),
    "learning_rate": Setting(2e-3),
    "warmup_ratio": Setting(0.3),
}
_RECOMMENDED = {
    "ppo": {
        **_FAST,
        "per_device_prompt_batch_size": Setting(128, unless=(*_BATCH_OF_128, "num_return_sequences")),
        "learning_rate": Setting(4e-3),
        "critic_learning_rate": Setting(4e-3, unless=("learning_rate",)),
        **_kl(0.2),
        "gae_lambda": Setting(0.95),
        "normalize_advantage": Setting(True),
    },
    "grpo": {**_FAST_GROUPS, "kl_coeff": Setting(0.0), "kl_loss_coeff": Setting(0.1)},
    "rloo": {**_FAST_GROUPS, **_kl(0.1), "normalize_advantage": Setting(True)},
}
PRESETS: Mapping[str, Mapping[str, Settings]] = MappingProxyType(
    {
        "paddlenlp": _PADDLENLP,
        "trl": _TRL,
        "openrlhf": _OPENRLHF,
        "verl": _VERL,
        "safe-rlhf": _SAFE_RLHF,
        "recommended": _RECOMMENDED,
    }
)
assert tuple(PRESETS) == get_args(PresetName)

DIFFERENCES: Mapping[str, str] = MappingProxyType(
    {
        "paddlenlp": "PaddleNLP divides losses by the tokens of a micro-batch; here by those of the update. PPO's "
        "clip_range_score of 50 is that of its ppo_argument.json; its own default became 10 in 2025",
        "trl": "TRL's PPO whitens per process, divides losses by the tokens of a micro-batch, has one optimizer for "
        "both models, and puts the score one position after the last token; here whitening and means are global, "
        "each model has its optimizer, and the score is on the last token. TRL's GRPO (1.16) weighs the KL in the loss "
        "by the probability ratio, if there is one",
        "openrlhf": "OpenRLHF's mini-batch counts responses, which are as many as prompts with one response each. With "
        "use_kl_loss=true the KL is in the loss instead of the reward, with the same weight and estimate",
        "verl": "verl divides the value loss by the tokens of a micro-batch; here by those of the update",
        "safe-rlhf": "safe-rlhf does not divide logits by the temperature in training, which matters only beside 1",
        "recommended": "Found with models of 100,000 parameters (docs/how-to/presets.md): larger models need smaller "
        "learning rates",
    }
)
"""What a preset does not change, because it would make results depend on how rows are split."""


def settings_of(preset: str | None, algorithm: str | None, given: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """Return the settings of ``preset`` for ``algorithm`` beside ``given`` values, empty if there are none."""
    settings = PRESETS[preset].get(algorithm, {}) if preset in PRESETS else {}
    return _with_kl_loss(settings, given) if preset == "openrlhf" and given.get("use_kl_loss") is True else settings


def _with_kl_loss(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """Return OpenRLHF's settings with its switch, which moves the KL, its weight and its estimate into the loss."""
    estimator = given.get("kl_estimator", settings["kl_estimator"].value)
    none = Setting(0.0, "use_kl_loss moves the KL from the reward into the loss (kl_loss_coeff)")
    in_loss = {"kl_loss_coeff": settings["kl_coeff"], "kl_loss_estimator": Setting(estimator)}
    return {**settings, "kl_coeff": none, **in_loss}


def choose(preset: str | None, algorithm: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that ``preset`` sets: those of keys that are neither ``given`` nor replaced by given ones."""
    return {
        key: setting.value
        for key, setting in settings_of(preset, algorithm, given).items()
        if key not in given and set(setting.unless).isdisjoint(given)
    }


def find_problems(preset: str, algorithm: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message if ``preset`` has no such algorithm, and for each ``given`` value against a convention of it."""
    if algorithm not in PRESETS[preset]:
        others = ", ".join(name for name in PRESETS if algorithm in PRESETS[name]) or "none"
        yield (
            f"preset={preset} has no values for rl_algorithm={algorithm}, only for {', '.join(PRESETS[preset])} "
            f"(presets with {algorithm}: {others})"
        )
    for key, setting in settings_of(preset, algorithm, given).items():
        if setting.convention and key in given and given[key] != setting.value:
            yield (
                f"{key}={show_value(given[key])} contradicts preset={preset}, in which {setting.convention}: give "
                f"{key}={show_value(setting.value)} or leave it out, or leave out preset and give the other keys "
                "(--help preset shows them)"
            )


def describe(parsed: Parsed) -> str | None:
    """Return which keys the preset of a run sets, and which of its keys were given otherwise; None without one."""
    values = parsed.as_dict()
    if (preset := values.get("preset")) is None:
        return None
    algorithm = values.get("rl_algorithm")
    given = {key: value for key, value in values.items() if parsed.given(key)}
    kept = ", ".join(f"{key}={show_value(value)}" for key, value in choose(preset, algorithm, given).items())
    other = ", ".join(
        f"{key}={show_value(values[key])} ({preset}: {show_value(setting.value)})"
        for key, setting in settings_of(preset, algorithm, given).items()
        if key in given and values[key] != setting.value
    )
    return f"preset={preset} sets {kept}{f'; given instead: {other}' if other else ''}. {DIFFERENCES[preset]}"


def show_all() -> Iterator[str]:
    """Yield, for each preset and algorithm, its keys with their values; conventions are marked with a star."""
    for preset, algorithms in PRESETS.items():
        for algorithm, settings in algorithms.items():
            keys = (f"{key}={show_value(s.value)}{'*' if s.convention else ''}" for key, s in settings.items())
            yield f"preset={preset}, rl_algorithm={algorithm}: {'  '.join(keys)}"
        yield f"  {DIFFERENCES[preset]}."
    yield "*: a convention; another value is refused."
