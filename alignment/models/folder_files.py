"""Safe reading of a model folder: no file outside it is opened, and its JSON is not trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignment.errors import ModelFolderError, why_unreadable

ADAPTER_FILES = ("adapter_config.json", "lora_config.json")
"""The adapter configuration files of peft and PaddleNLP."""


def file_inside(folder: Path, name: str) -> Path:
    """Return the path of the file ``name`` in a model folder; ModelFolderError if it resolves to one outside.

    Only links into the hub's cache (``models--NAME/blobs/HASH``), as its snapshots have them, may lead out.
    """
    path = folder / name
    target = path.resolve()
    is_blob = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    if not (is_blob or target.is_relative_to(folder.resolve())):
        raise ModelFolderError(
            f"{folder}: {name!r} leads to {target}, outside of the model folder, and is not read. "
            "Copy the file into the folder, or give the folder that holds it"
        )
    return path


def refuse_adapter(folder: Path) -> None:
    """Raise ModelFolderError if ``folder`` holds an adapter of peft or PaddleNLP; called when it holds no model."""
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            base = read_object(folder, name).get("base_model_name_or_path") or "another model"
            how = f"alignment merge {folder} MERGED" if name == ADAPTER_FILES[0] else "PaddleNLP's merge_lora_params.py"
            raise ModelFolderError(
                f"{folder}: this is an adapter of {base}, not a whole model; merge it and give the merged folder: {how}"
            )


def parse_json(text: bytes, place: str | Path) -> Any:
    """Return the value of a UTF-8 JSON text; ModelFolderError names ``place`` if it cannot be parsed."""
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{place}: cannot be read as JSON ({error})") from None


def parse_object(text: bytes, place: str | Path) -> dict[str, Any]:
    """Return a JSON object; ModelFolderError names ``place`` if the text is anything else."""
    value = parse_json(text, place)
    if not isinstance(value, dict):
        raise ModelFolderError(f"{place}: expected a JSON object, found {type(value).__name__}")
    return value


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in the file ``name`` of a folder; FileNotFoundError if there is no such file."""
    path = file_inside(folder, name)
    try:
        return parse_object(path.read_bytes(), path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({why_unreadable(error)})") from error
