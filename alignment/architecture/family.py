"""The form of a model family's table: its weights by role, its keys in config.json, and its names in other suites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

LAYERS = "model.layers."
"""Prefix of a layer's number in tensor names."""
EXPERT = ".experts."
"""What stands before the number of an expert in names of weights, and nowhere else."""
EACH = "{}"
"""The number of an expert in names of weights."""
FLAGS = (
    "attention_bias",
    "attention_output_bias",
    "mlp_bias",
    "norm_bias",
    "qk_norm",
    "scaled_embedding",
    "learned_positions",
    "parallel_block",
    "shared_norm",
    "head_bias",
    "norms_sums",
)
"""Fields of DecoderConfig that a family derives from config.json or fixes."""

Dimension = Literal[
    "vocabulary",
    "hidden",
    "embedding",
    "inner",
    "queries",
    "keys",
    "head",
    "one",
    "positions",
    "experts",
    "expert_inner",
    "shared_inner",
]
"""The meaning of an axis; ``queries`` and ``keys`` are concatenated heads."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight of a decoder, with its optional bias."""

    role: str
    """The name by which decoder and engines look it up."""
    name: str
    """Hugging Face's name without ``.weight``, and without the prefix of the layer. An expert's has ``EACH`` for its
    number: there is one such weight for each expert.
    """
    dimensions: tuple[Dimension, ...]
    """Its axes in memory: a matrix is (inputs, outputs), an embedding (tokens, width)."""
    kind: Literal["matrix", "embedding", "norm"] = "matrix"
    """A ``matrix`` is stored as [outputs, inputs] in files."""
    cut: Literal["columns", "rows", "whole"] = "whole"
    """What a tensor-parallel process holds: some columns (different outputs), some rows (partial sums), or everything.
    Heads are never split; if there are fewer key heads than processes, each process holds one.
    """
    needs: str = ""
    """The flag of DecoderConfig that the weight depends on; empty: it always exists."""
    bias: str = ""
    """The flag of DecoderConfig that the bias depends on; empty: there is none."""
    layers: Literal["all", "dense", "experts"] = "all"
    """The layers that have it: ``dense`` ones have one plain feed-forward block, those with ``experts`` choose."""

    @property
    def is_expert(self) -> bool:
        """Whether there is one such weight for each expert."""
        return EACH in self.name

    def numbered(self, expert: int) -> Weight:
        """Return the weight of one expert; a weight of all tokens is returned as it is."""
        return replace(self, name=self.name.replace(EACH, str(expert)))

    def axis(self, *, is_bias: bool) -> int | None:
        """Return the axis along which the weight or the bias is split; None if it is replicated."""
        if self.cut == "columns":
            return 0 if is_bias else len(self.dimensions) - 1
        return 0 if self.cut == "rows" and not is_bias else None

    @property
    def cut_dimension(self) -> Dimension | None:
        """The dimension that is split, or None."""
        return {"columns": self.dimensions[-1], "rows": self.dimensions[0], "whole": None}[self.cut]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertKeys:
    """The keys of config.json that describe a family's experts."""

    count: tuple[str, ...]
    """The number of experts in a layer, by several versions of transformers."""
    inner: str
    """The width of one expert."""
    shared_inner: str = ""
    """The width of the expert that every token is given to; empty: there is none."""
    asks_normalisation: bool = False
    """Whether ``norm_topk_prob`` says if the weights of a token's experts add up to 1; False: they do."""
    has_dense_layers: bool = False
    """Whether ``decoder_sparse_step`` and ``mlp_only_layers`` say which layers have experts; False: all have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMatrix:
    """A matrix of the layers in files, if it is not one weight as [outputs, inputs]."""

    name: str
    """Its name without ``.weight``, and without the prefix of the layer."""
    roles: tuple[str, ...]
    """The weights that it holds, by role."""
    by_group: bool = False
    """Queries, keys and values: False: all queries, then all keys, then all values; True: of one key head after
    another, its queries, its key and its value.
    """
    inputs_first: bool = False
    """Whether it is [inputs, outputs]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """How the files of a family differ from Llama's."""

    layers: str = LAYERS
    """Prefix of a layer's number."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names outside the layers, and of modules in a layer, by those of the table (without ``.weight``)."""
    matrices: tuple[FileMatrix, ...] = ()
    ignored: tuple[str, ...] = ()
    """Endings of the names of tensors that hold nothing to be learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddleNLP:
    """How PaddleNLP's model of a family differs from Hugging Face's."""

    ties_head: bool = True
    """False: it ignores ``tie_word_embeddings`` and has a separate head."""
    zeroes_padding: bool = False
    """True: it embeds ``pad_token_id`` as zeros everywhere."""
    scales_rope: bool = False
    """True: it reads ``rope_scaling_type`` and ``rope_scaling_factor``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Everything that distinguishes one family from another."""

    name: str
    """``model_type`` in config.json, and PaddleNLP's prefix of tensor names instead of ``model``."""
    class_prefix: str
    """Prefix of ``ForCausalLM`` in the class names of Hugging Face and PaddleNLP."""
    causal_class: str = ""
    """The class of language models, if it is not the prefix and ``ForCausalLM``."""
    aliases: tuple[str, ...] = ()
    """Other values of ``model_type`` for the same model."""
    layer: tuple[Weight, ...]
    """The weights of one layer."""
    flags: Mapping[str, str | bool] = field(default_factory=dict)
    """For each of ``FLAGS``, its key in config.json (after ``not ``: that of its opposite), or a constant.

    Missing: False.
    """
    window: Literal["never", "always", "all or none", "asked", "by layer"] = "never"
    """Whether ``sliding_window`` is used: ``always`` in every layer (transformers ignores ``layer_types``), else in
    those of ``layer_types`` (``asked``: if ``use_sliding_window`` is true).
    """
    has_caps: bool = False
    """Whether config.json has soft-caps of scores and logits, and a scale of scores (Gemma 2)."""
    has_local_rope: bool = False
    """Whether layers with a window have a rotary embedding of their own, ``rope_local_base_freq``."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of the family's configuration class for keys missing in config.json."""
    position_offset: int = 0
    """The row of position 0 among learned positions."""
    default_kv_heads: int | None = None
    """Default of ``num_key_value_heads``; None: ``num_attention_heads``."""
    norm: Literal["rms", "rms+1", "layer"] = "rms"
    """The normalisation of hidden states and heads; ``rms+1`` scales by 1 + weight, ``layer`` has a bias."""
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "silu", "swish": "silu"})
    """The operator (``ops.activations``) of each name that config.json may give the activation."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """The family's keys in config.json where they are not Llama's, by Llama's."""
    absent: tuple[str, ...] = ()
    """Keys that the family does not have: they are neither read nor written."""
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Keys of config.json that change what the model computes, with the values that are supported."""
    also_llama: tuple[str, ...] = ()
    """Keys that have a name of the family's in ``keys`` and may be given under Llama's as well."""
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict
    """Returns the keys of a config.json (Llama's, of the right types) with those that follow from others.

    Its ModelFolderError need not name the place.
    """
    experts: ExpertKeys | None = None
    """None: a feed-forward block is one network."""
    files: Files | Callable[[Any], Files] | None = None
    """None: as Llama's; a function of a DecoderConfig if its keys decide."""
    rotates_neighbours: bool = False
    """Whether numbers 2i and 2i + 1 of a head are rotated together, not those of its halves."""
    partial_rotary_factor: float | None = None
    """The share of a head that is rotated, if config.json does not say it; None: the whole head always."""
    paddlenlp: PaddleNLP | None = None
    """None: PaddleNLP has no such model."""

    def weight(self, role: str) -> Weight:
        """Return the weight of a layer that has ``role``."""
        return next(weight for weight in self.layer if weight.role == role)

    @property
    def is_gated(self) -> bool:
        """Whether the activation of one projection of the feed-forward block multiplies another."""
        return any(weight.role in ("gate", "expert_gate") for weight in self.layer)

    @property
    def norms_all_heads(self) -> bool:
        """Whether queries and keys are normalised over all heads of a token, not head by head."""
        return any(weight.role == "query_norm" and weight.dimensions != ("head",) for weight in self.layer)

    def has_norms(self, place: str) -> bool:
        """Return whether layers have norms ``after`` attention and feed-forward, or have ``none before``."""
        roles = {weight.role for weight in self.layer}
        return "attended_norm" in roles if place == "after" else "input_norm" not in roles

    def class_name(self, kind: str) -> str:
        """Return Hugging Face's class of ``causal`` or ``score`` models."""
        if kind == "score":
            return f"{self.class_prefix}ForSequenceClassification"
        return self.causal_class or f"{self.class_prefix}ForCausalLM"

    def key(self, name: str) -> str:
        """Return the family's key for Llama's key ``name``."""
        return self.keys.get(name, name)

    def activation_name(self, operator: str) -> str:
        """Return the name under which config.json gets ``operator``: the first that means it."""
        return next(name for name, meant in self.activations.items() if meant == operator)
