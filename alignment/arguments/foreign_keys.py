"""Keys that other versions of the suite know and this one does not: what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_JSON_LINES = "name the files in train_datasets and eval_datasets (name:proportion:path)"

ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "max_new_tokens": "give max_dec_len",
        "min_length": "give min_dec_len",
        "wandb_api_key": "a secret does not belong in a file; run `wandb login`",
        "do_sample": "rollouts always sample; eval_do_sample sets it for evaluation",
    }
)
