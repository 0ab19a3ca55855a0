"""Read config.json and generation_config.json of a model folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.architecture.config_rules import are_ids
from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ModelFolderError
from alignment.models.folder_files import read_object, refuse_adapter

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"


def read_config(folder: str | Path) -> DecoderConfig:
    """Return the configuration in ``folder``, generation settings included; ModelFolderError if it is unusable."""
    config = DecoderConfig.from_dict(read_config_dict(folder), place=str(Path(folder) / CONFIG_FILE))
    return replace(config, generation=_read_generation(Path(folder)))


def read_config_dict(folder: str | Path) -> dict[str, Any]:
    """Return ``folder/config.json`` as a dictionary; ModelFolderError names a missing or damaged file."""
    try:
        return read_object(Path(folder), CONFIG_FILE)
    except FileNotFoundError:
        refuse_adapter(Path(folder))
        raise ModelFolderError(
            f"{Path(folder) / CONFIG_FILE}: no such file; a model folder needs a {CONFIG_FILE}"
        ) from None


def _read_generation(folder: Path) -> dict[str, Any]:
    """Return generation_config.json; empty if there is none."""
    try:
        generation = read_object(folder, GENERATION_FILE)
    except FileNotFoundError:
        return {}
    ids = generation.get("eos_token_id")
    if ids is not None and not are_ids(ids):
        raise ModelFolderError(
            f"{folder / GENERATION_FILE}: eos_token_id must be an integer, a list of integers or null, found {ids!r}"
        )
    return generation
