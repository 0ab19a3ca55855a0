"""Files of a model folder: nothing outside of it is read, and its JSON may be anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignment.errors import ModelFolderError, why_unreadable

ADAPTER_FILES = ("adapter_config.json", "lora_config.json")
"""What peft and PaddleNLP call the description of an adapter."""


def file_inside(folder: Path, name: str) -> Path:
    """Return the path of the file ``name`` of a model folder; ModelFolderError where that leads out of the folder.

    The hub's cache keeps files as ``models--NAME/blobs/HASH``, and snapshots and local downloads hold links to them;
    no other link may lead out.
    """
    path = folder / name
    target = path.resolve()
    is_blob = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    if not (is_blob or target.is_relative_to(folder.resolve())):
        raise ModelFolderError(
            f"{folder}: {name!r} leads to {target}, outside of the model folder, and is not read. "
            "Copy the file into the folder, or name the folder where it is"
        )
    return path


def refuse_adapter(folder: Path) -> None:
    """Raise ModelFolderError where a folder without a model of its own holds an adapter (peft's or PaddleNLP's)."""
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            base = read_object(folder, name).get("base_model_name_or_path") or "another model"
            raise ModelFolderError(
                f"{folder}: this is an adapter of {base}, not a whole model; merge it into that model and name the "
                "merged folder"
            )


def parse_json(text: str | bytes, place: str | Path) -> Any:
    """Return the value of a JSON text; ModelFolderError names ``place`` where it is none, or nested too deeply."""
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{place}: cannot be read as JSON ({error})") from None


def parse_object(text: str | bytes, place: str | Path) -> dict[str, Any]:
    """Return a JSON object; anything else is a ModelFolderError."""
    value = parse_json(text, place)
    if not isinstance(value, dict):
        raise ModelFolderError(f"{place}: expected a JSON object, found {type(value).__name__}")
    return value


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in the file ``name`` of a folder; FileNotFoundError where there is none."""
    path = file_inside(folder, name)
    try:
        return parse_object(path.read_bytes(), path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({why_unreadable(error)})") from error
