"""Keys of TRL's trainers that have no near match here: which of ours does the same, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from alignment.arguments.peers.peer_key import PeerKey

_TRL = "TRL"


def _without(why: str) -> PeerKey:
    """Return the answer to a key that has no counterpart."""
    return PeerKey(_TRL, (), f"leave it out: {why}")


_PADDING = _without("rows are computed without padding")
_JOINED = _without("packing_samples joins whole rows, which do not see each other")
_DIVERGENCE = _without("the divergence is the reverse KL (reverse_kl), no other is built")
_ENGINE = PeerKey(_TRL, ("use_fusemt",), "leave it out: the suite's own engines make the rollouts; use_fusemt chooses")
_SAMPLES = _without("samples are kept in samples.jsonl")
_UNBUILT = _without("this is not built")

TRL_KEYS: Mapping[str, PeerKey] = MappingProxyType(
    {
        "padding_free": _PADDING,
        "pad_to_multiple_of": _PADDING,
        "pad_token": _PADDING,
        "packing": _JOINED,
        "packing_strategy": _JOINED,
        "eval_packing": _JOINED,
        "truncation_mode": PeerKey(
            _TRL,
            ("on_overlong",),
            "give on_overlong: keep_start is right, keep_end is left; the default drops rows",
        ),
        "f_divergence_type": _DIVERGENCE,
        "f_alpha_divergence_coef": _DIVERGENCE,
        "use_weighting": _without("the weights of WPO are not built"),
        "precompute_ref_batch_size": PeerKey(_TRL, ("per_device_eval_batch_size",)),
        "activation_offloading": PeerKey(_TRL, ("recompute",), "give recompute=true, which keeps fewer activations"),
        "model_init_kwargs": _without("a model is built as the config.json of its folder says"),
        "trust_remote_code": _without("no code of a model folder is run"),
        "shuffle_dataset": PeerKey(_TRL, ("dataloader_shuffle",)),
        "dataset_num_proc": PeerKey(_TRL, ("dataloader_num_workers",)),
        "dataset_text_field": PeerKey(
            _TRL, ("input_key", "pretrain_mode"), "give input_key, the column of the text, and pretrain_mode=true"
        ),
        "completion_only_loss": PeerKey(_TRL, ("loss_on",), "give loss_on=assistant (true) or all (false)"),
        "chat_template_path": PeerKey(
            _TRL,
            ("tokenizer_chat_template", "chat_template"),
            "give tokenizer_chat_template, and chat_template=tokenizer",
        ),
        "cast_lm_head_to_fp32": _without("log-probs are computed in float32"),
        "loss_type": PeerKey(
            f"{_TRL} (GRPO)",
            ("rl_algorithm", "policy_loss_reduction"),
            "give rl_algorithm=grpo and policy_loss_reduction (grpo is sequence, dapo and bnpo are token, dr_grpo is "
            "constant), or rl_algorithm=cispo or sapo",
        ),
        "num_generations_eval": _without("an evaluation makes one response to each prompt"),
        "min_p": PeerKey(_TRL, ("top_p", "top_k"), "leave it out: the sampler has temperature, top_p and top_k"),
        "use_vllm": _ENGINE,
        "vllm_mode": _ENGINE,
        "cache_implementation": _ENGINE,
        "use_transformers_continuous_batching": _ENGINE,
        "use_transformers_paged": _ENGINE,
        "vllm_gpu_memory_utilization": PeerKey(
            _TRL, ("rollout_kv_memory",), "give rollout_kv_memory, for example 2GiB"
        ),
        "ds3_gather_for_generation": _without("rollouts have the weights they need in every layout"),
        "vllm_importance_sampling_mode": PeerKey(
            _TRL, ("on_logprob_gap",), "give on_logprob_gap=correct, which is token_truncate; no other is built"
        ),
        "multi_objective_aggregation": _without("weighted rewards are summed, then normalised (sum_then_normalize)"),
        "top_entropy_quantile": _UNBUILT,
        "off_policy_mask_threshold": _UNBUILT,
        "max_tool_calling_iterations": _UNBUILT,
        "log_completions": _SAMPLES,
        "num_completions_to_print": _SAMPLES,
    }
)
