"""Read the rotary embedding of a config.json; files with old and new keys follow the rules of transformers 5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alignment.architecture.rotary_frequencies import SCALINGS
from alignment.errors import ModelFolderError

DEFAULT_THETA = 10000.0
_TRAINED = "original_max_position_embeddings"
_LISTS = ("short_factor", "long_factor")
_NUMBERS = (
    *("factor", "attention_factor", "low_freq_factor", "high_freq_factor"),
    *("beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
)


def read_rope(given: Mapping[str, Any], place: str, *, partial: float | None = None) -> dict[str, Any]:
    """Return ``rope_theta``, ``rope_scaling`` (None: plain) and ``partial_rotary_factor`` (if it is not given:
    ``partial``; None: only 1 is supported) from ``rope_scaling``, else from ``rope_parameters``.

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
    partial = _partial(scaling, given, place, partial)
    if kind in ("llama3", "yarn", "longrope"):
        found = [where.get(_TRAINED) for where in (given, scaling)] + [given["max_position_embeddings"]]
        scaling[_TRAINED] = next(value for value in found if value is not None)
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None, "partial_rotary_factor": partial}
    _check_numbers(scaling, place)
    return {"rope_theta": theta, "rope_scaling": scaling, "partial_rotary_factor": partial}


def _partial(scaling: dict[str, Any], given: Mapping[str, Any], place: str, default: float | None) -> float:
    """Return the share of a head that is rotated, removing it from ``scaling`` if it is there."""
    found = scaling.pop("partial_rotary_factor", given.get("partial_rotary_factor", default))
    if default is None and found not in (None, 1):
        raise ModelFolderError(
            f"{place}: partial_rotary_factor={found!r} is not supported for {given['model_type']} (allowed: 1.0)"
        )
    found = 1.0 if default is None else found
    if not is_number(found) or not 0 < found <= 1:
        raise ModelFolderError(f"{place}: partial_rotary_factor must be a number above 0 up to 1, found {found!r}")
    return float(found)


def _check_numbers(scaling: Mapping[str, Any], place: str) -> None:
    """Refuse text, true and false where ``inverse_frequencies`` needs numbers."""
    for key, value in scaling.items():
        if key in _LISTS:
            fits, wanted = isinstance(value, (list, tuple)) and all(map(is_number, value)), "a list of numbers"
        elif key == _TRAINED:
            fits, wanted = is_number(value) and value > 0, "a number above 0"
        else:
            fits, wanted = key not in _NUMBERS or value is None or is_number(value), "a number"
        if not fits:
            raise ModelFolderError(f"{place}: {key} of the rotary embedding must be {wanted}, found {value!r}")


def _theta(scaling: dict[str, Any], newer: Mapping[str, Any], given: Mapping[str, Any], place: str) -> float:
    """Return the base, removing it from ``scaling`` if it is there."""
    nested, outer = scaling.pop("rope_theta", None), given.get("rope_theta")
    theta = outer if nested is None else nested
    dropped = newer.get("rope_theta")
    if theta is None and dropped not in (None, DEFAULT_THETA):
        raise ModelFolderError(
            f"{place}: rope_scaling replaces rope_parameters, whose rope_theta {dropped} would be lost; "
            "write rope_theta into rope_scaling"
        )
    theta = DEFAULT_THETA if theta is None else theta
    if not is_number(theta) or theta <= 0:
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
