"""Read what every job needs of a run: the shapes of its models, their adapters, and its batches."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.architecture.adapter import Adapter
from alignment.architecture.decoder_config import DecoderConfig
from alignment.arguments.keys.training import TrainingArguments
from alignment.arguments.parsed import Parsed
from alignment.errors import ArgumentError
from alignment.models.adapters.peft_config import CONFIG_FILE as ADAPTER_FILE
from alignment.models.adapters.peft_config import read_adapter
from alignment.models.config import CONFIG_FILE, read_config


def planned_batches(training: TrainingArguments, length: int, *, shared: int = 0) -> tuple[int, int]:
    """Return (rows per micro-batch, micro-batches per update) of one process for rows of ``length`` tokens.

    A token budget is rounded up to whole rows; ``shared`` tokens of a row cost it nothing.
    """
    rows, steps = training.per_device_train_batch_size, training.gradient_accumulation_steps
    budget = training.token_budget(length)
    if budget is None:
        return rows, steps
    fitting = min(-(-budget // (length - shared)), rows * steps)
    return fitting, -(-rows * steps // fitting)


def plan_adapters(parsed: Parsed, models: Mapping[str, DecoderConfig | None]) -> dict[str, Adapter]:
    """Return the adapter of each of the trained ``models``, if the run trains adapters.

    The first model continues ``lora_path``, if it is given.
    """
    asked = parsed.adapter
    if not asked.lora:
        return {}
    found = {role: asked.describe(config) for role, config in models.items() if config is not None}
    if asked.lora_path is not None:
        role, start = next(iter(found)), Path(asked.lora_path).expanduser()
        places = [place for place in (start, start / role) if (place / ADAPTER_FILE).is_file()]
        if not places:
            raise ArgumentError(f"lora_path={start}: no {ADAPTER_FILE} there")
        found[role] = read_adapter(places[0], models[role])
    return found


def read_shape(name: str | None, key: str, parts: Sequence[str] = ()) -> DecoderConfig:
    """Return the configuration in the folder ``name``, of the model in one of its ``parts`` if it is a run's output
    folder, or of the hub's model ``name`` (downloading only config.json).
    """
    if not name:
        raise ArgumentError(
            "a plan needs the critic's shape: give reward_critic_model_name_or_path or reward_model_name_or_path"
        )
    folder = Path(name).expanduser()
    places = (folder, *(folder / part for part in parts))
    found = next((place for place in places if (place / CONFIG_FILE).is_file()), None) or _download(name)
    if found is not None:
        return read_config(found)
    within = f" or its {', '.join(f'{part}/' for part in parts)}" if parts and folder.is_dir() else ""
    raise ArgumentError(
        f"{key}={name}: no {CONFIG_FILE} in {folder.absolute()}{within}, and none was downloaded from the hub "
        f"under that name. A plan reads only {CONFIG_FILE}: put one with the model's shape into a folder and give that"
    )


@functools.lru_cache
def _download(name: str) -> Path | None:
    """Return the folder of the config.json of the hub's model ``name``, None without one; the hub is asked once."""
    with contextlib.suppress(Exception):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, CONFIG_FILE)).parent
    return None
