"""Frequencies of the rotary embedding: the plain series and its extensions to longer contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alignment.errors import ModelFolderError

SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def inverse_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any] | None, *, max_positions: int, is_long: bool = False
) -> tuple[np.ndarray, float]:
    """Return (radians per token [D/2] float32, factor on cosines and sines).

    ``scaling`` has a ``rope_type`` of ``SCALINGS`` and its parameters; None is the plain series theta^(-2i/D).
    ``dynamic`` (NTK-aware) changes nothing up to ``max_positions``, and longer sequences are refused elsewhere.
    ``is_long``: those of rows beyond the old context, which only ``longrope`` turns otherwise.
    Raises ModelFolderError for an unknown type or a missing number.
    """
    plain = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    kind = (scaling or {}).get("rope_type", "default")
    if kind not in SCALINGS:
        raise ModelFolderError(f"rope_type {kind!r} is not supported (kinds: {', '.join(SCALINGS)})")
    scale = 1.0
    try:
        if kind == "linear":
            plain = plain / _factor(scaling)
        elif kind == "dynamic":
            _factor(scaling)
        elif kind == "llama3":
            plain = _llama3(plain, scaling)
        elif kind == "yarn":
            plain, scale = _yarn(plain, theta, scaling, max_positions)
        elif kind == "longrope":
            name = "long_factor" if is_long else "short_factor"
            plain, scale = plain / _factors(scaling, name, len(plain)), _longrope_attention(scaling, max_positions)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelFolderError(f"rope_scaling {dict(scaling)}: missing or bad number {error}") from None
    if not (np.isfinite(plain).all() and math.isfinite(scale)):
        raise ModelFolderError(f"rope_theta {theta} with rope_scaling {dict(scaling or {})} gives infinite angles")
    return plain.astype(np.float32), scale


def _factor(scaling: Mapping[str, Any]) -> float:
    factor = float(scaling["factor"])
    if not 0 < factor < math.inf:
        raise ValueError(f"'factor': {factor}")
    return factor


def _llama3(plain: np.ndarray, scaling: Mapping[str, Any]) -> np.ndarray:
    """Stretch wavelengths beyond the old context by ``factor``, with a smooth transition (Llama 3.1)."""
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_max_position_embeddings"]) * plain / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (keep + (1 - keep) / _factor(scaling))


def _yarn(plain: np.ndarray, theta: float, scaling: Mapping[str, Any], max_positions: int) -> tuple[np.ndarray, float]:
    """Blend plain and stretched series by wavelength (YaRN: Peng et al. 2023, section 3.2; attention factor 3.4)."""
    dim = 2 * len(plain)
    old_context = float(scaling.get("original_max_position_embeddings") or max_positions)
    factor = max_positions / old_context if scaling["factor"] is None else _factor(scaling)

    def dimension_turning(times: float) -> float:
        return dim * math.log(old_context / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = dimension_turning(float(scaling.get("beta_fast") or 32))
    last = dimension_turning(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    stretched = np.clip((np.arange(dim // 2) - first) / ((last - first) or 1e-3), 0.0, 1.0)
    return plain * (1 - stretched) + plain / factor * stretched, _yarn_attention(factor, scaling)


def _factors(scaling: Mapping[str, Any], name: str, count: int) -> np.ndarray:
    factors = np.asarray(scaling[name], np.float64)
    if factors.shape != (count,):
        raise ValueError(f"{name!r}: {len(factors)} numbers, {count} are needed")
    return factors


def _longrope_attention(scaling: Mapping[str, Any], max_positions: int) -> float:
    """Return the factor on cosines and sines (LongRoPE: Ding et al. 2024)."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    old_context = float(scaling["original_max_position_embeddings"])
    factor = max_positions / old_context if scaling.get("factor") is None else _factor(scaling)
    return math.sqrt(1 + math.log(factor) / math.log(old_context)) if factor > 1 else 1.0


def _yarn_attention(factor: float, scaling: Mapping[str, Any]) -> float:
    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return magnitude(float(scaling["mscale"])) / magnitude(float(scaling["mscale_all_dim"]))
    return magnitude(1.0)
