"""The decoder's shape, by the keys of a Hugging Face ``config.json`` (llama, mistral, qwen2, qwen3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from alignment.architecture.paddlenlp_config import from_paddlenlp
from alignment.architecture.rope_settings import read_rope
from alignment.architecture.rotary_frequencies import inverse_frequencies
from alignment.errors import ModelFolderError

PLACE = "config.json"

# What a family's configuration class assumes for a key its config.json does not have. An end of sequences is not
# assumed: id 2 is an ordinary token of many tokenizers, and these say what their own is.
_COMMON_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "sliding_window": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1},
    "mistral": {"max_position_embeddings": 131072, "sliding_window": 4096, "bos_token_id": 1},
    "qwen2": {"max_position_embeddings": 32768, "sliding_window": 4096},
    "qwen3": {"max_position_embeddings": 32768, "sliding_window": 4096, "head_dim": 128},
}
_FAMILY_KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}
MODEL_TYPES = tuple(_FAMILY_DEFAULTS)
_SAME_AS = {"internlm": "llama"}
"""Families that are another one under a name of their own."""
TEMPLATE_KEY = "trained_template"
LARGEST_SIZE, MOST_LAYERS, WIDEST_HEAD = 2**31 - 1, 10_000, 2**16
_WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
_SIZES = (*_WIDTHS, "num_hidden_layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Everything the decoder needs to be built; ``raw`` is the dictionary it came from, kept for export."""

    model_type: str
    """One of ``MODEL_TYPES``."""
    vocab_size: int
    """Rows of the embedding; may exceed the tokenizer's length (padding rows)."""
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = field(default=None, hash=False)
    """None (plain rotary embedding), or a mapping with ``rope_type`` in ``SCALINGS`` and that kind's numbers."""
    tie_word_embeddings: bool = False
    """True: the output head is the embedding, and files hold no ``lm_head.weight``."""
    attention_bias: bool = False
    """True: biases on the query, key and value projections."""
    attention_output_bias: bool = False
    """True: a bias on the attention's output projection."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """True: RMS norm on each query and key head (qwen3)."""
    sliding_window: int | None = None
    """Tokens seen by a query; None: all of them."""
    initializer_range: float = 0.02
    """Standard deviation of freshly drawn weights."""
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    generation: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The generation_config.json beside it, kept for export; its end-of-sequence ids count like this file's."""
    trained_template: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """Record of the template that trained the model (``models.tokenizer.trained_template``); None: there is none."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The end-of-sequence ids of both files as a tuple, empty when there is none."""
        both = (self.eos_token_id, self.generation.get("eos_token_id"))
        return tuple(dict.fromkeys(number for ids in both for number in _as_tuple(ids)))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, place: str = PLACE) -> DecoderConfig:
        """Build from Hugging Face keys; ``place`` is named in errors. Raises ModelFolderError."""
        raw = from_paddlenlp(raw, place=place)
        family = raw.get("model_type")
        family = _SAME_AS.get(family, family) if isinstance(family, str) else family
        if not isinstance(family, str) or family not in _FAMILY_DEFAULTS:
            raise ModelFolderError(
                f"{place}: model_type {family!r} is not supported (families: {', '.join(MODEL_TYPES)})"
            )
        given = {**_COMMON_DEFAULTS, **_FAMILY_DEFAULTS[family], **raw, "model_type": family}
        _check(given, place)
        eos, rope = given["eos_token_id"], read_rope(given, place)
        config = cls(
            **{name: int(given[name]) for name in (*_SIZES, "max_position_embeddings")},
            **{name: float(given[name]) for name in ("rms_norm_eps", "initializer_range")},
            **{name: given[name] for name in ("model_type", "bos_token_id", "pad_token_id")},
            **_attention(given, place),
            **rope,
            **_flags(given),
            sliding_window=_window(given, _longest(given["max_position_embeddings"], rope["rope_scaling"]), place),
            eos_token_id=tuple(eos) if isinstance(eos, (list, tuple)) else eos,
            raw=raw,
            trained_template=given.get(TEMPLATE_KEY),
        )
        try:
            config.rotary_frequencies()
        except ModelFolderError as error:
            raise ModelFolderError(f"{place}: {error}") from None
        return config

    @property
    def longest_sequence(self) -> int:
        """The tokens a row may have: the model's positions, stretched where its rotary embedding is scaled.

        ``dynamic`` has another embedding for every length beyond them, and keys of earlier tokens would have to be
        computed again at each; such rows are refused.
        """
        return _longest(self.max_position_embeddings, self.rope_scaling)

    def rotary_frequencies(self) -> tuple[np.ndarray, float]:
        """Return (radians a token [head_dim / 2], factor on cosines and sines); see ``inverse_frequencies``."""
        return inverse_frequencies(
            self.head_dim, self.rope_theta, self.rope_scaling, max_positions=self.max_position_embeddings
        )

    def to_dict(self) -> dict[str, Any]:
        """Return Hugging Face keys: ``raw`` with this object's values laid over it.

        Rotary settings are written as ``rope_theta`` and ``rope_scaling``, which every reader understands.
        """
        names = (*_SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta")
        names += ("model_type", "tie_word_embeddings", "initializer_range", "bos_token_id", "pad_token_id")
        names += () if self.model_type in ("mistral", "qwen2") else ("attention_bias",)
        names += ("mlp_bias",) if self.model_type == "llama" else ()
        kept = {key: value for key, value in self.raw.items() if key != "rope_parameters"}
        kept.update({name: getattr(self, name) for name in names})
        kept["rope_scaling"] = None if self.rope_scaling is None else dict(self.rope_scaling)
        kept["eos_token_id"] = as_json_ids(self.eos_token_id)
        kept["hidden_act"] = "silu"
        kept |= {} if self.trained_template is None else {TEMPLATE_KEY: dict(self.trained_template)}
        kept["sliding_window"] = self.sliding_window
        if self.model_type.startswith("qwen"):
            kept["use_sliding_window"] = self.sliding_window is not None
        return kept


def as_json_ids(ids: int | tuple[int, ...] | None) -> int | list[int] | None:
    """Return end-of-sequence ids as JSON holds them: none, one, or a list of several."""
    ids = list(_as_tuple(ids))
    return ids if len(ids) > 1 else (ids[0] if ids else None)


def _as_tuple(ids: Any) -> tuple[int, ...]:
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, (list, tuple)) else (ids,)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any, largest: int = LARGEST_SIZE) -> bool:
    return _is_integer(value) and 1 <= value <= largest


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def are_ids(value: Any) -> bool:
    """Return whether a value of a JSON file can be the ids of end-of-sequence tokens: one or a list."""
    return all(map(_is_integer, value)) if isinstance(value, (list, tuple)) else _is_integer(value)


def _or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


_RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    ((*_WIDTHS, "max_position_embeddings"), _is_size, "a positive integer"),
    (("num_hidden_layers",), partial(_is_size, largest=MOST_LAYERS), f"an integer from 1 to {MOST_LAYERS}"),
    (("num_key_value_heads", "sliding_window"), _or_null(_is_size), "a positive integer or null"),
    (("head_dim",), _or_null(partial(_is_size, largest=WIDEST_HEAD)), f"an integer from 1 to {WIDEST_HEAD} or null"),
    (("bos_token_id", "pad_token_id"), _or_null(_is_integer), "an integer or null"),
    (("eos_token_id",), _or_null(are_ids), "an integer, a list of integers or null"),
    (("rms_norm_eps", "initializer_range"), _is_number, "a number"),
    (("rope_theta",), _or_null(_is_number), "a number or null"),
    (
        ("rope_scaling", "rope_parameters", TEMPLATE_KEY),
        _or_null(_is_object),
        "an object or null",
    ),
)
"""Keys, what their values must satisfy, and that in words."""


def _check(given: Mapping[str, Any], place: str) -> None:
    """Raise one ModelFolderError with every problem of the sizes and of what the decoder cannot compute."""
    problems = [
        f"{name} must be {wanted}, found {given.get(name)!r}"
        for names, fits, wanted in _RULES
        for name in names
        if not fits(given.get(name))
    ]
    if given["hidden_act"] not in ("silu", "swish"):
        problems.append(f"hidden_act {given['hidden_act']!r} is not supported (only 'silu')")
    if given.get("quantization_config"):
        problems.append("quantization_config: quantized weights are not supported, give an unquantized folder")
    if problems:
        raise ModelFolderError(f"{place}: {'; '.join(problems)}")


def _attention(given: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the head counts, their width and the window."""
    heads, family = int(given["num_attention_heads"]), given["model_type"]
    kv_heads = given.get("num_key_value_heads", _FAMILY_KV_HEADS.get(family, heads))
    kv_heads = heads if kv_heads is None else int(kv_heads)
    head_dim = given.get("head_dim")
    if head_dim is None and given["hidden_size"] % heads:
        raise ModelFolderError(
            f"{place}: hidden_size {given['hidden_size']} is no multiple of num_attention_heads {heads}"
        )
    if kv_heads < 1 or heads % kv_heads:
        raise ModelFolderError(f"{place}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    width = int(given["hidden_size"] // heads if head_dim is None else head_dim)
    if not 1 <= width <= WIDEST_HEAD:
        raise ModelFolderError(f"{place}: heads of {width} numbers (allowed: 2 to {WIDEST_HEAD})")
    if width % 2:
        raise ModelFolderError(f"{place}: head_dim {width} is odd; rotary embeddings turn pairs of numbers")
    return {"num_key_value_heads": kv_heads, "head_dim": width}


def _longest(positions: int, scaling: Mapping[str, Any] | None) -> int:
    """Return the tokens a row may have; see ``DecoderConfig.longest_sequence``."""
    scaling = scaling or {}
    if scaling.get("rope_type") == "dynamic":
        return positions
    trained, factor = scaling.get("original_max_position_embeddings") or positions, scaling.get("factor") or 1
    if not (_is_number(trained) and _is_number(factor)):
        return positions
    return max(positions, int(trained * factor))


def _window(given: Mapping[str, Any], longest: int, place: str) -> int | None:
    """Return how many tokens a query sees in every layer, None where all; layers that differ are refused.

    A window that no row of up to ``longest`` tokens fills is none.
    """
    window, layers, family = given["sliding_window"], given["num_hidden_layers"], given["model_type"]
    if window is None or family == "llama":
        return None
    used = family == "mistral" or given.get("use_sliding_window", False)
    num_windowed = _count_windowed(given) if used else 0
    if num_windowed == 0 or (window >= longest and family != "mistral"):
        return None
    if num_windowed < layers:
        raise ModelFolderError(
            f"{place}: a sliding window of {window} in {num_windowed} of {layers} layers is not supported "
            "(all layers or none; see max_window_layers and layer_types)"
        )
    return window


def _count_windowed(given: Mapping[str, Any]) -> int:
    """Return how many layers have a window: by ``layer_types``, else all (mistral) or those from a number on (qwen)."""
    if given.get("layer_types"):
        return sum(kind == "sliding_attention" for kind in given["layer_types"])
    if given["model_type"] == "mistral":
        return int(given["num_hidden_layers"])
    return max(0, given["num_hidden_layers"] - given.get("max_window_layers", 28))


def _flags(given: Mapping[str, Any]) -> dict[str, bool]:
    """Return which projections carry a bias and whether heads are normalised."""
    family = given["model_type"]
    # InternLM calls it ``bias``; a score model's ``bias`` (safe-rlhf) is that of its head.
    says_bias = given["attention_bias"] or (given.get("bias") and "score_type" not in given)
    declared = bool(says_bias) and family in ("llama", "qwen3")
    return {
        "attention_bias": family == "qwen2" or declared,
        "attention_output_bias": declared,
        "mlp_bias": family == "llama" and bool(given["mlp_bias"]),
        "qk_norm": family == "qwen3",
        "tie_word_embeddings": bool(given["tie_word_embeddings"]),
    }
