"""The defaults and conventions of other suites, and those recommended here, set with ``preset``: a table an algorithm.

A key that the user gives wins over a default of the peer; one that contradicts a convention, without which the run
would not compute what the peer computes, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from alignment.arguments.parsed import Parsed
from alignment.arguments.peers.settings import openrlhf, paddlenlp, recommended, safe_rlhf, trl, verl
from alignment.arguments.peers.settings.setting import Setting, Settings
from alignment.fields import show_value

PresetName = Literal["paddlenlp", "trl", "openrlhf", "verl", "safe-rlhf", "recommended"]
PRESETS: Mapping[str, Mapping[str, Settings]] = MappingProxyType(
    {
        "paddlenlp": paddlenlp.SETTINGS,
        "trl": trl.SETTINGS,
        "openrlhf": openrlhf.SETTINGS,
        "verl": verl.SETTINGS,
        "safe-rlhf": safe_rlhf.SETTINGS,
        "recommended": recommended.SETTINGS,
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
        "learning rates. Its batch sizes are those of one process; where several have rows of their own, "
        "global_batch_size=32 and global_mini_batch_size=16 keep rollouts and updates as large",
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
        if key not in given and not _replacing(setting, given)
    }


def _replacing(setting: Setting, given: Mapping[str, Any]) -> list[str]:
    """Return the ``given`` keys that replace ``setting``; one that is -1 leaves the choice to others."""
    return [key for key in setting.unless if key in given and given[key] != -1]


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
    replaced = _describe_replaced(settings_of(preset, algorithm, given), given)
    instead = f"; given instead: {other}" if other else ""
    return f"preset={preset} sets {kept}{replaced}{instead}. {DIFFERENCES[preset]}"


def _describe_replaced(settings: Settings, given: Mapping[str, Any]) -> str:
    """Return which keys of the preset are not set because others are given, and which those are."""
    by = {key: _replacing(setting, given) for key, setting in settings.items()}
    replaced = [key for key, others in by.items() if others and key not in given]
    if not replaced:
        return ""
    beside = ", ".join(dict.fromkeys(other for key in replaced for other in by[key]))
    return f"; not set beside {beside}: {', '.join(f'{key}={show_value(settings[key].value)}' for key in replaced)}"


def show_all() -> Iterator[str]:
    """Yield, for each preset and algorithm, its keys with their values; conventions are marked with a star."""
    for preset, algorithms in PRESETS.items():
        for algorithm, settings in algorithms.items():
            keys = (f"{key}={show_value(s.value)}{'*' if s.convention else ''}" for key, s in settings.items())
            yield f"preset={preset}, rl_algorithm={algorithm}: {'  '.join(keys)}"
        yield f"  {DIFFERENCES[preset]}."
    yield "*: a convention; another value is refused."
