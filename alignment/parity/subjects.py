"""The runs that are compared: real trainers on small random models and shipped data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import FAMILIES
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.trainers.registered import TRAINERS

TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "shipped" / "packing" / "tokenizer"
SMALL_MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
}
LARGE_STD = 0.2
"""Standard deviation of the random weights: with the usual 0.02, nearly equal log-probs would hide differences."""

COMMON: dict[str, Any] = {
    "chat_template": "tokenizer",
    "max_length": 64,
    "max_steps": 5,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "device": "cpu",
    "seed": 7,
}
LAYOUT_KEYS = (
    "tensor_parallel_degree",
    "pipeline_parallel_degree",
    "virtual_pp_degree",
    "sharding",
    "sharding_parallel_degree",
    "sequence_parallel",
    "expert_parallel_degree",
    "eval_mode",
    "rollout_tensor_parallel_degree",
    "teacher_tensor_parallel_degree",
    "offload_level",
    "placement",
)
PACKING_KEYS = ("packing_samples", "max_tokens_per_batch")
"""Keys that, like those of a layout, must not change the numbers."""


ADAPTER = {"lora": True, "lora_dropout": 0.1, "recompute": True, "learning_rate": 3e-3, "adam_epsilon": 1e-2}
"""An adapter's B starts at zero, where Adam would turn gradients as small as their rounding into whole steps: hence
the large epsilon."""
KL = {"kl_coeff": 0.05, "kl_loss_coeff": 0.1}


class Subject(NamedTuple):
    """A run to compare."""

    label: str
    """Its name in the table."""
    trainer: str
    changes: Mapping[str, Any] = MappingProxyType({})
    """Changes of the trainer's ``small_run``."""


def _subjects() -> Iterator[Subject]:
    """Yield every registered trainer as it is, with its variants, and with an adapter; then every algorithm."""
    for name in TRAINERS:
        trainer = TRAINERS[name]
        yield Subject(trainer.label, name)
        yield from (Subject(label, name, changes) for label, changes in trainer.variants.items())
        yield Subject(f"LoRA {trainer.label}", name, ADAPTER)
        for chosen in ALGORITHMS if trainer.is_on_policy else ():
            algorithm = ALGORITHMS[chosen]
            judged = {"cost_model_name_or_path": "cost", "threshold": -0.5} if algorithm.needs_cost else {}
            free = {} if algorithm.needs_critic else KL
            if algorithm.title != trainer.label:
                yield Subject(algorithm.title, name, {"rl_algorithm": chosen, **judged, **free})


SUBJECTS = {subject.label: subject for subject in _subjects()}
"""Label to run."""


def make_models(folder: Path, shape: Mapping[str, Any] = SMALL_MODEL) -> None:
    """Write ``actor``, a wider ``teacher`` and three score models with random weights to ``folder``.

    ``shape`` has keys of a config.json.
    """
    tokenizer = load_tokenizer(TOKENIZER)
    raw = {**shape, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    raw |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = DecoderConfig.from_dict(raw, place="the small model")
    width = FAMILIES[config.model_type].key("hidden_size")
    wider = {name: value for name, value in raw.items() if name != "hidden_size"} | {width: 2 * config.hidden_size}
    for seed, name, model in (
        (1, "actor", CausalLM(config)),
        (2, "reward", ScoreModel(config, ScoreOptions(score_type="reward"))),
        (3, "teacher", CausalLM(DecoderConfig.from_dict(wider, place="the small teacher"))),
        (4, "attributes", ScoreModel(config, ScoreOptions(labels=("a", "b")))),
        (5, "cost", ScoreModel(config, ScoreOptions(score_type="cost"))),
    ):
        draw_weights(model, seed=seed, std=LARGE_STD)
        save_model(folder / name, model, tokenizer)


def write_arguments(folder: Path, trainer: str, output: str, changes: Mapping[str, Any]) -> Path:
    """Write the JSON file of one run to ``folder``, which has the models of ``make_models``; return its path."""
    arguments = {**COMMON, **TRAINERS[trainer].small_run, **changes, "output_dir": str(folder / output)}
    path = folder / f"{output}.json"
    path.write_text(json.dumps(arguments, indent=1), encoding="utf-8")
    return path


def as_one_process(changes: Mapping[str, Any], *, batch_ranks: int, trainer: str) -> dict[str, Any]:
    """Return the changes that make one process do the work of ``batch_ranks`` processes with different rows."""
    kept = {key: value for key, value in changes.items() if key not in (*LAYOUT_KEYS, *PACKING_KEYS)}
    merged = {**COMMON, **TRAINERS[trainer].small_run, **kept}
    kept["gradient_accumulation_steps"] = merged["gradient_accumulation_steps"] * batch_ranks
    if "per_device_prompt_batch_size" in merged:
        kept["per_device_prompt_batch_size"] = merged["per_device_prompt_batch_size"] * batch_ranks
    return kept
