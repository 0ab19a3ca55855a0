"""The decoder's configuration, read from a Hugging Face ``config.json`` by the table of its family."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignment.architecture.config_keys import complete_keys
from alignment.architecture.config_rules import (
    CAPS,
    COMPARISON_KEY,
    OPPOSITE,
    SIZES,
    TEMPLATE_KEY,
    read_attention,
    read_flags,
    read_heads,
    read_window,
)
from alignment.architecture.experts import Experts, read_experts, write_experts
from alignment.architecture.families import FAMILIES
from alignment.architecture.family import FLAGS, Dimension, Family
from alignment.architecture.paddlenlp_config import from_paddlenlp
from alignment.architecture.rope_settings import longest_row, read_rope
from alignment.architecture.rotary_frequencies import inverse_frequencies
from alignment.errors import ModelFolderError

PLACE = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Everything needed to build the decoder; ``raw`` is the original dictionary, kept for export."""

    model_type: str
    """The name of its family, one of ``FAMILIES``."""
    vocab_size: int
    """Rows of the embedding; may exceed the tokenizer's length (padding rows)."""
    hidden_size: int
    embedding_size: int | None = None
    """The width of the embedding, if a matrix makes hidden states of it and another makes it of them for the heads.
    None: ``hidden_size``.
    """
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = field(default=None, hash=False)
    """None (plain rotary embedding), or a mapping with a ``rope_type`` of ``SCALINGS`` and its parameters."""
    tie_word_embeddings: bool = False
    """True: the output head is the embedding, and files hold no ``lm_head.weight``."""
    attention_bias: bool = False
    """True: biases on the query, key and value projections."""
    attention_output_bias: bool = False
    """True: a bias on the attention's output projection."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """True: RMS norm on each query and key head (qwen3)."""
    activation: str = "silu"
    """The operator between the projections of the feed-forward block (``ops.activations``)."""
    norm_bias: bool = False
    learned_positions: bool = False
    """True: a learned vector for each position is added to the embeddings, and nothing is rotated."""
    parallel_block: bool = False
    """True: attention and feed-forward read the same hidden states, and both are added to them."""
    shared_norm: bool = False
    """True: they read the same normalised hidden states."""
    head_bias: bool = False
    """True: a bias on the vocabulary head."""
    partial_rotary_factor: float = 1.0
    """The share of each head that is rotated; the rest stays."""
    norms_sums: bool = False
    """True: the norms of a layer are those of the sums that it passes on, and there is no norm after the last layer."""
    scaled_embedding: bool = False
    """True: embeddings are multiplied by the square root of their width (gemma)."""
    sliding_window: int | None = None
    """Tokens seen by a query; None: all of them."""
    full_layers: tuple[int, ...] = ()
    """The layers that have no window although others do."""
    rope_local_base_freq: float | None = None
    """The base of the rotary embedding, not scaled, of layers with a window; None: that of all layers."""
    attention_cap: float = 0.0
    """Scores x of attention become cap tanh(x / cap); 0: they stay."""
    logit_cap: float = 0.0
    """The same of logits."""
    query_pre_attn_scalar: float | None = None
    """Scores of attention are divided by its square root; None: ``head_dim``."""
    experts: Experts | None = None
    """The feed-forward blocks that choose among experts; None: there are none."""
    initializer_range: float = 0.02
    """Standard deviation of randomly initialised weights."""
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    generation: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The generation_config.json, kept for export; its EOS ids are used in addition to those of config.json."""
    trained_template: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """Record of the template used in training (``models.tokenizer.trained_template``); None: not recorded."""
    comparison: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """Of a pairwise preference model: how it compares (``data.comparison``); None: it is no such model."""

    @property
    def family(self) -> Family:
        """The table of its family."""
        return FAMILIES[self.model_type]

    @property
    def dimensions(self) -> dict[Dimension, int]:
        """The sizes of the dimensions used in the family's table."""
        return {
            "vocabulary": self.vocab_size,
            "hidden": self.hidden_size,
            "embedding": self.head_width,
            "inner": self.intermediate_size,
            "queries": self.num_attention_heads * self.head_dim,
            "keys": self.num_key_value_heads * self.head_dim,
            "head": self.head_dim,
            "one": 1,
            "experts": self.experts.count if self.experts else 0,
            "expert_inner": self.experts.inner if self.experts else 0,
            "shared_inner": self.experts.shared_inner if self.experts else 0,
            "positions": self.max_position_embeddings + self.family.position_offset,
        }

    def has_experts(self, layer: int) -> bool:
        """Return whether the layer of this number chooses among experts."""
        return self.experts is not None and layer not in self.experts.dense_layers

    def is_local(self, layer: int) -> bool:
        """Return whether the layer of this number has the window."""
        return self.sliding_window is not None and layer not in self.full_layers

    def window_of(self, layer: int) -> int | None:
        """Return the tokens that a query sees in the layer of this number; None: all of them."""
        return self.sliding_window if self.is_local(layer) else None

    @property
    def has_local_layers(self) -> bool:
        """Whether the attention of layers with a window needs other preparation than that of those without."""
        return bool(self.full_layers) or self.rope_local_base_freq is not None

    @property
    def head_width(self) -> int:
        """The numbers of a final hidden state, which the vocabulary head or a score head reads."""
        return self.embedding_size or self.hidden_size

    @property
    def query_scale(self) -> float:
        """The factor of queries beyond 1 / sqrt(head_dim)."""
        return math.sqrt(self.head_dim / (self.query_pre_attn_scalar or self.head_dim))

    @property
    def embedding_scale(self) -> float:
        """The factor of the embeddings where they enter the first layer."""
        return math.sqrt(self.hidden_size) if self.scaled_embedding else 1.0

    @property
    def features(self) -> frozenset[str]:
        """The names of the features that an engine must support to run this model."""
        flags = {name for name in (*FLAGS, "tie_word_embeddings") if getattr(self, name)}
        windowed = {"embedding_size"} if self.embedding_size else set()
        windowed |= {"sliding_window"} if self.sliding_window is not None else set()
        windowed |= {"full_layers"} if self.full_layers else set()
        windowed |= {name for name in ("rope_local_base_freq", *CAPS.values()) if getattr(self, name)}
        windowed |= {"query_pre_attn_scalar"} if self.query_scale != 1.0 else set()
        windowed |= {"experts"} if self.experts is not None else set()
        kind = (self.rope_scaling or {}).get("rope_type", "default")
        family = self.family
        plain = set() if family.is_gated else {"feed_forward=plain"}
        plain |= {f"norms={name}" for name in ("after", "none before") if family.has_norms(name)}
        plain |= {"norms=all heads"} if family.norms_all_heads else set()
        return frozenset(
            {*flags, *windowed, *plain, f"norm={family.norm}", f"activation={self.activation}", f"rope_type={kind}"}
        )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The EOS ids of both files, possibly none."""
        both = (self.eos_token_id, self.generation.get("eos_token_id"))
        return tuple(dict.fromkeys(number for ids in both for number in _as_tuple(ids)))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, place: str = PLACE) -> DecoderConfig:
        """Build from Hugging Face keys; raises ModelFolderError, which names ``place``."""
        raw = from_paddlenlp(raw, place=place)
        model_type = raw.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise ModelFolderError(
                f"{place}: model_type {model_type!r} is not supported (families: {', '.join(FAMILIES)})"
            )
        family = FAMILIES[model_type]
        given = complete_keys(raw, family, place)
        eos, rope = given["eos_token_id"], read_rope(given, place, partial=family.partial_rotary_factor)
        longest = longest_row(given["max_position_embeddings"], rope["rope_scaling"])
        config = cls(
            **{name: int(given[name]) for name in (*SIZES, "max_position_embeddings")},
            **{name: float(given[name]) for name in ("rms_norm_eps", "initializer_range")},
            **{name: given[name] for name in ("model_type", "bos_token_id", "pad_token_id", "embedding_size")},
            **read_heads(given, family, place),
            **rope,
            **read_flags(given, family),
            activation=family.activations[given["hidden_act"]],
            **read_window(given, family, longest, place),
            **read_attention(given, family),
            experts=read_experts(given, family.experts, place),
            eos_token_id=tuple(eos) if isinstance(eos, (list, tuple)) else eos,
            raw=raw,
            trained_template=given.get(TEMPLATE_KEY),
            comparison=given.get(COMPARISON_KEY),
        )
        try:
            for is_long in (False, True):
                config.rotary_frequencies(is_long=is_long)
        except ModelFolderError as error:
            raise ModelFolderError(f"{place}: {error}") from None
        return config

    @property
    def longest_sequence(self) -> int:
        """The maximum number of tokens in a row: the model's positions, extended if its rotary embedding is scaled.

        Not extended for ``dynamic``, whose embedding changes with every length beyond the positions, so that all
        earlier keys would have to be recomputed.
        """
        return longest_row(self.max_position_embeddings, self.rope_scaling)

    @property
    def angle_limit(self) -> int | None:
        """The length beyond which all tokens of a row have other rotary angles (longrope); None: there is none.

        transformers takes the longest row of a batch; here each row has its own length, so that no row's numbers depend
        on others.
        """
        scaling = self.rope_scaling or {}
        return int(scaling["original_max_position_embeddings"]) if scaling.get("rope_type") == "longrope" else None

    def longest_answered(self, prompt_tokens: int) -> int:
        """Return the maximum number of tokens of a prompt of ``prompt_tokens`` tokens and its answer.

        An answer must not grow beyond ``angle_limit``: its keys have the angles of a shorter row, and its first tokens
        would have other log-probs in training. A prompt that is longer itself has the long angles from the start.
        """
        is_long = self.angle_limit is None or prompt_tokens > self.angle_limit
        return self.longest_sequence if is_long else min(self.angle_limit, self.longest_sequence)

    def unanswerable(self, answer: int, longest: int) -> range:
        """Return the lengths of prompts whose answers of up to ``answer`` tokens would cross ``angle_limit``.

        ``longest``: the maximum number of tokens of prompt and answer together.
        """
        limit = self.angle_limit
        if limit is None or longest <= limit:
            return range(0)
        return range(max(1, limit - answer + 1), limit + 1)

    @property
    def long_frequencies(self) -> np.ndarray | None:
        """The frequencies [head_dim / 2] of rows beyond ``angle_limit``; None: all rows have the same."""
        return None if self.angle_limit is None else self.rotary_frequencies(is_long=True)[0]

    def rotary_frequencies(self, *, is_local: bool = False, is_long: bool = False) -> tuple[np.ndarray, float]:
        """Return (radians per token [head_dim / 2], factor on cosines and sines); see ``inverse_frequencies``.

        ``is_local``: of layers with a window; ``is_long``: of rows beyond ``angle_limit``.
        """
        if self.learned_positions:
            return np.zeros(self.head_dim // 2, np.float32), 1.0
        if not self.rotary_dim or self.rotary_dim % 2:
            raise ModelFolderError(
                f"partial_rotary_factor {self.partial_rotary_factor} rotates {self.rotary_dim} of a head's "
                f"{self.head_dim} numbers (allowed: an even number)"
            )
        base = self.rope_theta, self.rope_scaling
        if is_local and self.rope_local_base_freq is not None:
            base = self.rope_local_base_freq, None
        lengths = {"max_positions": self.max_position_embeddings, "is_long": is_long}
        frequencies, scale = inverse_frequencies(self.rotary_dim, *base, **lengths)
        still = (self.head_dim - self.rotary_dim) // 2
        if still and scale != 1.0:
            raise ModelFolderError(f"rope_scaling with a factor of {scale} on {self.rotary_dim} of {self.head_dim}")
        return np.concatenate([frequencies, np.zeros(still, np.float32)]), scale

    @property
    def rotary_dim(self) -> int:
        """How many numbers of a head are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def head_order(self) -> np.ndarray | None:
        """The number in files of each of a head's numbers in memory, [head_dim]; None: the same.

        In memory number i of the first half is rotated with number i of the second, and those that are not rotated
        stand at the ends of both halves.
        """
        turned, still = np.arange(self.rotary_dim), np.arange(self.rotary_dim, self.head_dim)
        halves = (turned[0::2], turned[1::2]) if self.family.rotates_neighbours else np.split(turned, 2)
        order = np.concatenate([piece for pair in zip(halves, np.split(still, 2), strict=True) for piece in pair])
        return None if (order == np.arange(self.head_dim)).all() else order

    def to_dict(self) -> dict[str, Any]:
        """Return Hugging Face keys: ``raw`` updated with this object's values.

        Rotary settings are written as ``rope_theta`` and ``rope_scaling``, which every library understands.
        """
        names = (*SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta")
        names += ("model_type", "tie_word_embeddings", "initializer_range", "bos_token_id", "pad_token_id")
        kept = {key: value for key, value in self.raw.items() if key not in ("rope_parameters", COMPARISON_KEY)}
        family = self.family
        kept.update({family.key(name): getattr(self, name) for name in names})
        for flag, says in family.flags.items():
            if isinstance(says, str):
                key = says.removeprefix(OPPOSITE)
                kept[key] = getattr(self, flag) != says.startswith(OPPOSITE)
        if "embedding_size" in family.keys:
            kept[family.key("embedding_size")] = self.head_width
        if family.partial_rotary_factor is not None:
            kept[family.key("partial_rotary_factor")] = self.partial_rotary_factor
        kept["rope_scaling"] = None if self.rope_scaling is None else dict(self.rope_scaling)
        kept["sliding_window"] = self.sliding_window
        kept |= self._written_attention()
        kept |= write_experts(self.experts, family.experts)
        kept["eos_token_id"] = as_json_ids(self.eos_token_id)
        kept[family.key("hidden_act")] = family.activation_name(self.activation)
        kept |= {} if self.trained_template is None else {TEMPLATE_KEY: dict(self.trained_template)}
        kept |= {} if self.comparison is None else {COMPARISON_KEY: dict(self.comparison)}
        if family.window == "asked":
            kept["use_sliding_window"] = self.sliding_window is not None
        return {key: value for key, value in kept.items() if key not in family.absent}

    def _written_attention(self) -> dict[str, Any]:
        """Return the keys of what differs between layers, of soft-caps and of the scale of scores."""
        found: dict[str, Any] = {}
        if self.full_layers or self.raw.get("layer_types"):
            kinds = {True: "sliding_attention", False: "full_attention"}
            found["layer_types"] = [kinds[self.is_local(number)] for number in range(self.num_hidden_layers)]
        if self.family.has_caps:
            found |= {key: getattr(self, field) or None for key, field in CAPS.items()}
            found["query_pre_attn_scalar"] = self.query_pre_attn_scalar
        if self.family.has_local_rope:
            found["rope_local_base_freq"] = self.rope_local_base_freq
        return found


def as_json_ids(ids: int | tuple[int, ...] | None) -> int | list[int] | None:
    """Return EOS ids as stored in JSON: null, an integer, or a list of several."""
    ids = list(_as_tuple(ids))
    return ids if len(ids) > 1 else (ids[0] if ids else None)


def _as_tuple(ids: Any) -> tuple[int, ...]:
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, (list, tuple)) else (ids,)
