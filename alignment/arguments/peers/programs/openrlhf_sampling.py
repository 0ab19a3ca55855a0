"""OpenRLHF's ``batch_inference``: it generates answers, or scores them and chooses among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alignment.arguments.peers.programs.openrlhf import SHARED, SUITE, module
from alignment.arguments.peers.programs.program import (
    Answers,
    Flags,
    NoCounterpart,
    NoNeed,
    PeerStep,
    Program,
    ReadWith,
    jsonl,
    switch,
)

_SAMPLED: Answers = MappingProxyType(
    {
        **SHARED,
        "dataset": jsonl("prompts"),
        "dataset_split": "split",
        "bf16": NoNeed("the model is read in the type of its files"),
        "zero_stage": NoNeed("each of num_workers processes has a copy of the model"),
        "tp_size": NoCounterpart("each of num_workers processes has a copy of the model"),
        "enable_prefix_caching": NoNeed("it changes no answers"),
        "greedy_sampling": switch(do_sample=False),
        "micro_batch_size": lambda value, flags: (
            {} if flags.get("max_num_seqs") else {"per_device_rollout_batch_size": value}
        ),
        "max_len": NoNeed("prompt_max_len and max_new_tokens limit both parts"),
        "output_key": NoNeed("answers stand under responses"),
        "eval_task": NoNeed("generate and score are two commands"),
        "value_head_prefix": NoNeed("a policy has no score head"),
        "enable_csft": NoCounterpart("write the reward into the prompts"),
        "csft_prompt": NoCounterpart("write the reward into the prompts"),
    }
)
_GENERATE = PeerStep(
    "generate",
    _SAMPLED,
    {"max_new_tokens": 1024, "prompt_max_len": 1024, "seed": 1234, "input_template": None},
)


def _scored(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Name what is scored after what is selected from it, if something is."""
    return {"output_file": f"{value}.scored.jsonl" if flags.get("post_processor") else value}


_SCORE = PeerStep(
    "score",
    {
        **_SAMPLED,
        "dataset": "answers_file",
        "pretrain": "reward_sources",
        "output_path": _scored,
        "value_head_prefix": "value_head_prefix",
        "micro_batch_size": "per_device_reward_batch_size",
        "max_len": NoCounterpart("answers are scored whole"),
        "max_samples": NoCounterpart("score a file of that many rows"),
        "seed": NoNeed("scores are not random"),
        "input_key": NoCounterpart("write rows with prompt and response, or input and output"),
        "apply_chat_template": NoNeed("a reward model reads the template it was trained with"),
        "input_template": NoNeed("a reward model reads the template it was trained with"),
        "post_processor": ReadWith("output_path", "select reads what is scored"),
    },
    {"micro_batch_size": 16},
)
_SELECT = PeerStep(
    "select",
    {
        "output_path": lambda value, flags: {"scored_file": f"{value}.scored.jsonl", "output_file": value},
        "normalize_reward": lambda value, flags: (
            {"normalize_reward": True} if flags.get("post_processor") == "csft" else {}
        ),
    },
    takes=frozenset({"post_processor", "output_path", "normalize_reward", "reward_template"}),
)


def _batch_inference(given: Mapping[str, Any]) -> Sequence[PeerStep]:
    if given.get("eval_task") != "rm":
        return (_GENERATE,)
    is_selected = given.get("post_processor") not in (None, "None", "null")
    return (_SCORE._replace(takes=None), _SELECT) if is_selected else (_SCORE,)


PROGRAMS = (Program(SUITE, "openrlhf.cli.batch_inference", module("batch_inference"), _batch_inference),)
