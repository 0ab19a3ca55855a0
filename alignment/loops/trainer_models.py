"""The models a run starts from: folders, a checkpoint, or random weights; and whether they fit."""

from __future__ import annotations

from pathlib import Path

from alignment.errors import ArgumentError, CheckpointError, ModelFolderError
from alignment.loops.launch import Launch
from alignment.models.config import DecoderConfig
from alignment.models.hub import check_fit, resolve_model_folder
from alignment.models.split_plan import check_degrees
from alignment.models.tokenizer import Tokenizer, load_tokenizer
from alignment.telemetry import log

_ARCHITECTURE = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling"),
    *("attention_bias", "attention_output_bias", "mlp_bias", "qk_norm", "sliding_window"),
)
"""What training never changes of a configuration."""


def starting_folder(start: Launch, group, name: str) -> str | None:
    """Return the folder to load ``name`` from (the checkpoint's when resuming), None for random weights."""
    if start.checkpoint is not None:
        return resumed_folder(start, name, group.model_name_or_path or group.model_config_name_or_path)
    return str(resolve_model_folder(group.model_name_or_path)) if group.model_name_or_path else None


def resumed_folder(start: Launch, name: str, initial: str) -> str:
    """Return the folder of the trained model ``name``: the checkpoint's when resuming, else ``initial``.

    ``initial`` is what the arguments name. A checkpoint of another architecture is refused, because it would silently
    take the place of what they ask for.
    """
    if start.checkpoint is None:
        return initial
    folder = start.checkpoint.model_folder(name)
    try:
        place = Path(initial).parent if Path(initial).is_file() else resolve_model_folder(initial)
    except ModelFolderError as error:
        log.warn(f"the architecture of {folder} cannot be compared: {error}")
        return str(folder)
    wanted, found = (DecoderConfig.read(path) for path in (place, folder))
    pairs = {key: (getattr(found, key), getattr(wanted, key)) for key in _ARCHITECTURE}
    differences = [f"{key} is {there} there and {here} here" for key, (there, here) in pairs.items() if there != here]
    if differences:
        raise CheckpointError(
            f"cannot resume from {start.checkpoint.folder}: its model {name!r} has another architecture than "
            f"{initial}: {', '.join(differences)}. Name the model it was trained from, or another output_dir"
        )
    return str(folder)


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
