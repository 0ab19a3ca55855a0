"""The model a supervised trainer starts from: a folder, a checkpoint, or random weights."""

from __future__ import annotations

from alignment.errors import ArgumentError
from alignment.loops.launch import Launch
from alignment.models.config import DecoderConfig
from alignment.models.hub import check_fit, resolve_model_folder
from alignment.models.split_plan import check_degrees
from alignment.models.tokenizer import Tokenizer, load_tokenizer


def starting_folder(start: Launch, group, name: str) -> str | None:
    """Return the folder to load ``name`` from (the checkpoint's when resuming), None for random weights."""
    if start.checkpoint is not None:
        return str(start.checkpoint.model_folder(name))
    return str(resolve_model_folder(group.model_name_or_path)) if group.model_name_or_path else None


def starting_tokenizer(start: Launch, folder: str | None) -> Tokenizer:
    """Return the tokenizer named by the arguments, else the model's own."""
    return load_tokenizer(start.parsed.model.tokenizer_name_or_path or folder)


def check_start(start: Launch, group, folder: str | None, tokenizer: Tokenizer) -> None:
    """Refuse a model that is too small for the tokenizer or for ``max_length``, before any data are read."""
    place = folder or group.model_config_name_or_path
    check_layout(start, check_fit(place, tokenizer, max_length=start.parsed.data.max_length), place)


def check_layout(start: Launch, config: DecoderConfig, place: str) -> None:
    """Refuse degrees that the model in ``place`` cannot be cut by."""
    problems = check_degrees(config, start.topology.layout)
    if problems:
        raise ArgumentError(f"{place}: {'; '.join(problems)}")
