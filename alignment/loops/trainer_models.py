"""The model a supervised trainer starts from: a folder, a checkpoint, or random weights."""

from __future__ import annotations

from alignment.loops.launch import Launch
from alignment.models.hub import check_fit, resolve_model_folder
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
    check_fit(folder or group.model_config_name_or_path, tokenizer, max_length=start.parsed.data.max_length)
