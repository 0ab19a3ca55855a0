"""Translate keys of other suites to keys of this one, such as ``train_dataset_path`` for a JSON lines file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

from alignment.arguments.coerce import coerce
from alignment.arguments.sources import BARE, Given
from alignment.fields import NO_CONSTRAINT

Translation = Callable[[Any], Mapping[str, Any]]
"""Converts the value of the foreign key to keys and values of this suite; ValueError if it has no meaning."""

GSM8K_REWARD = "alignment.rollout.rule_rewards:gsm8k"


def _json_lines(*keys: str) -> Translation:
    """Name the file or folder as a ``jsonl`` dataset under every one of ``keys``."""

    def translate(value: Any) -> Mapping[str, Any]:
        path = coerce(value, str | None, NO_CONSTRAINT)
        return {} if path is None else dict.fromkeys(keys, f"jsonl:1.0:{path}")

    return translate


def _if_true(**keys: Any) -> Translation:
    """Translate true to ``keys``, and false to nothing."""

    def translate(value: Any) -> Mapping[str, Any]:
        return keys if value is BARE or coerce(value, bool, NO_CONSTRAINT) else {}

    return translate


def _never_below_zero(key: str, strategy: str) -> Translation:
    """Translate -1, which is OpenRLHF's word for never, to the strategy ``no``."""
    return lambda value: {strategy: "no"} if str(value) == "-1" else {key: value}


def _overlong_buffer(value: Any) -> Mapping[str, Any]:
    """Translate the length of DAPO's buffer, which OpenRLHF enables by giving it."""
    length = coerce(value, int | None, NO_CONSTRAINT)
    return {} if not length else {"enable_overlong_reward_buffer": True, "overlong_reward_buffer": length}


def _stage(value: Any) -> Mapping[str, Any]:
    stage = coerce(value, Literal["0", "1", "2", "3"], NO_CONSTRAINT)
    return {} if stage == "0" else {"sharding": f"stage{stage}"}


def _quantized_base(value: Any) -> Mapping[str, Any]:
    """Translate PaddleNLP's name of a quantisation."""
    algorithm = coerce(value, str | None, NO_CONSTRAINT)
    if algorithm not in (None, "nf4"):
        raise ValueError("is not built; nf4 is (load_in_4bit=true)")
    return {} if algorithm is None else {"load_in_4bit": True}


TRANSLATIONS: Mapping[str, Translation] = MappingProxyType(
    {
        "train_dataset_path": _json_lines("train_datasets"),
        "dev_dataset_path": _json_lines("eval_datasets"),
        "dataset_name_or_path": _json_lines("train_datasets", "eval_datasets"),
        "use_rule_reward": _if_true(reward_function=GSM8K_REWARD),
        "async_train": _if_true(rollout_ahead=1),
        "enable_vllm_is_correction": _if_true(on_logprob_gap="correct"),
        "vllm_importance_sampling_correction": _if_true(on_logprob_gap="correct"),
        "overlong_buffer_len": _overlong_buffer,
        "weight_quantize_algo": _quantized_base,
        "mask_history": _if_true(loss_on="last"),
        "train_on_prompt": _if_true(loss_on="all"),
        "multiturn": _if_true(loss_on="assistant"),
        "assistant_only_loss": _if_true(loss_on="assistant"),
        "vanilla_loss": _if_true(loss_type="vanilla"),
        "ipo": _if_true(loss_type="ipo", average_logps=False),
        "apply_chat_template": _if_true(chat_template="tokenizer"),
        "zero_stage": _stage,
        "save_steps": _never_below_zero("save_steps", "save_strategy"),
        "eval_steps": _never_below_zero("eval_steps", "evaluation_strategy"),
        "dataset": _json_lines("train_datasets"),
        "dataset_name": _json_lines("train_datasets"),
        "train_dir": _json_lines("train_datasets"),
        "eval_dir": _json_lines("eval_datasets"),
    }
)


def translate(given: Given) -> Iterator[Given]:
    """Yield the translation of ``given``; its place names the original key."""
    for key, value in TRANSLATIONS[given.key](given.value).items():
        yield Given(key, value, given.origin, f"{given.place}, {given.key}")
