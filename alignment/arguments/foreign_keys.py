"""Keys that other versions of the suite know and this one does not: what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_PROMPTS = "give per_device_prompt_batch_size (prompts a rollout)"
_UPDATES = "give per_device_train_batch_size and gradient_accumulation_steps (rows an update)"
_OVERLONG = "shape the reward in a reward_function"
_JSON_LINES = "name the files in train_datasets and eval_datasets (name:proportion:path)"
_NO_LORA = "adapters are not built; merge them into the model first"

ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "global_batch_size": _PROMPTS,
        "global_gen_batch_size": _PROMPTS,
        "global_mini_batch_size": _UPDATES,
        "rollout_max_num_seqs": "give per_device_rollout_batch_size",
        "rollout_quant_type": "quantised rollouts are not built",
        "balance_batch": "it only matters with the parallel layouts, which are not built",
        "use_remove_padding": "log-probs are always taken on response tokens only",
        "dynamic_sampling": "it belongs to an algorithm that is not built",
        "max_gen_batches": "it belongs to dynamic_sampling, which is not built",
        "enable_overlong_reward_buffer": _OVERLONG,
        "overlong_reward_buffer": _OVERLONG,
        "overlong_penalty_factor": _OVERLONG,
        "prompt_key": _JSON_LINES,
        "response_key": _JSON_LINES,
        "dataset_name_or_path": _JSON_LINES,
        "max_seq_length": "give max_length",
        "max_seq_len": "give max_length",
        "src_length": "give max_prompt_len",
        "max_new_tokens": "give max_dec_len",
        "min_length": "give min_dec_len",
        "lora": _NO_LORA,
        "lora_path": _NO_LORA,
        "lora_rank": _NO_LORA,
        "prefix_tuning": _NO_LORA,
        "zero_padding": "packing is not built; rows are right-padded",
        "greedy_zero_padding": "packing is not built; rows are right-padded",
        "flash_mask": "packing is not built; rows are right-padded",
        "wandb_api_key": "a secret does not belong in a file; run `wandb login`",
        "do_sample": "rollouts always sample; eval_do_sample sets it for evaluation",
    }
)
