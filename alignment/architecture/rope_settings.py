"""Read the rotary embedding of a config.json; files with old and new keys follow the rules of transformers 5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alignment.architecture.rotary_frequencies import SCALINGS
from alignment.errors import ModelFolderError

DEFAULT_THETA = 10000.0


def read_rope(given: Mapping[str, Any], place: str, *, partial: float = 1.0) -> dict[str, Any]:
    """Return ``rope_theta``, ``rope_scaling`` (None: plain) and ``partial_rotary_factor`` (if it is not given:
    ``partial``) from ``rope_scaling``, else from ``rope_parameters``.

    What is not supported is a ModelFolderError that names ``place``.
    """
    newer = given.get("rope_parameters") or {}
    scaling = dict(given.get("rope_scaling") or newer)
    nested = [name for name, value in scaling.items() if isinstance(value, Mapping)]
    if nested:
        raise ModelFolderError(
            f"{place}: rotary embeddings that differ by layer ({', '.join(nested)}) are not supported"
        )
    theta = _theta(scaling, newer, given, place)
    old_kind = scaling.pop("type", "default")
    kind = scaling.setdefault("rope_type", old_kind)
    if kind not in SCALINGS:
        raise ModelFolderError(f"{place}: rope_type {kind!r} is not supported (kinds: {', '.join(SCALINGS)})")
    partial = scaling.pop("partial_rotary_factor", given.get("partial_rotary_factor", partial))
    if not is_number(partial) or not 0 < partial <= 1:
        raise ModelFolderError(f"{place}: partial_rotary_factor must be a number above 0 up to 1, found {partial!r}")
    if kind in ("llama3", "yarn", "longrope"):
        trained = scaling.get("original_max_position_embeddings") or given["max_position_embeddings"]
        scaling["original_max_position_embeddings"] = given.get("original_max_position_embeddings", trained)
    scaling = None if kind == "default" else scaling
    return {"rope_theta": theta, "rope_scaling": scaling, "partial_rotary_factor": float(partial)}


def _theta(scaling: dict[str, Any], newer: Mapping[str, Any], given: Mapping[str, Any], place: str) -> float:
    """Return the base, removing it from ``scaling`` if it is there."""
    theta = scaling.pop("rope_theta", None) or given.get("rope_theta")
    dropped = newer.get("rope_theta")
    if theta is None and dropped not in (None, DEFAULT_THETA):
        raise ModelFolderError(
            f"{place}: rope_scaling replaces rope_parameters, whose rope_theta {dropped} would be lost; "
            "write rope_theta into rope_scaling"
        )
    theta = DEFAULT_THETA if theta is None else theta
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or not 0 < theta < float("inf"):
        raise ModelFolderError(f"{place}: rope_theta must be a number above 0, found {theta!r}")
    return float(theta)


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def longest_row(positions: int, scaling: Mapping[str, Any] | None) -> int:
    """Return the maximum number of tokens in a row; see ``DecoderConfig.longest_sequence``."""
    scaling = scaling or {}
    if scaling.get("rope_type") in ("dynamic", "longrope"):
        return positions
    trained, factor = scaling.get("original_max_position_embeddings") or positions, scaling.get("factor") or 1
    if not (is_number(trained) and is_number(factor)):
        return positions
    return max(positions, int(trained * factor))
