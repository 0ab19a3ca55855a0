"""What a table of a model family says: its tensors by role, its keys of config.json, and what other suites call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

LAYERS = "model.layers."
"""Before the number of a layer in the name of a tensor."""
FLAGS = ("attention_bias", "attention_output_bias", "mlp_bias", "qk_norm")
"""Fields of DecoderConfig that a family derives from config.json, or has as constants."""

Dimension = Literal["vocabulary", "hidden", "inner", "queries", "keys", "head", "one"]
"""The size of an axis by its meaning; ``queries`` and ``keys`` are whole heads side by side."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of a decoder, and perhaps the bias that goes with it."""

    role: str
    """What the operators use it for; the word by which decoder and engines ask for it."""
    name: str
    """Hugging Face's name without ``.weight``; in a layer, what follows the layer's number."""
    dimensions: tuple[Dimension, ...]
    """Its axes inside the program: a matrix is (inputs, outputs), an embedding (tokens, width)."""
    kind: Literal["matrix", "embedding", "norm"] = "matrix"
    """``matrix``: files hold it as [outputs, inputs]."""
    cut: Literal["columns", "rows", "whole"] = "whole"
    """What of it a tensor-parallel process holds: some of the columns (other outputs), some of the rows (partial sums),
    or all. Heads are never torn; of fewer key heads than processes everyone holds one.
    """
    needs: str = ""
    """The flag of DecoderConfig without which the model has no such weight; empty: it always has."""
    bias: str = ""
    """The flag of DecoderConfig with which there is a bias; empty: there never is."""

    def axis(self, *, is_bias: bool) -> int | None:
        """Return the axis along which the weight, or the bias, is cut; None where everyone holds all of it."""
        if self.cut == "columns":
            return 0 if is_bias else len(self.dimensions) - 1
        return 0 if self.cut == "rows" and not is_bias else None

    @property
    def cut_dimension(self) -> Dimension | None:
        """What is divided among the processes."""
        return {"columns": self.dimensions[-1], "rows": self.dimensions[0], "whole": None}[self.cut]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddleNLP:
    """How PaddleNLP's model of a family differs from Hugging Face's."""

    ties_head: bool = True
    """False: it ignores ``tie_word_embeddings`` and has a head of its own."""
    zeroes_padding: bool = False
    """True: it embeds the token ``pad_token_id`` as zeros, wherever it stands."""
    scales_rope: bool = False
    """True: it reads ``rope_scaling_type`` and ``rope_scaling_factor``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Everything by which one family differs from another: a new family is one more table."""

    name: str
    """``model_type`` in config.json; with a dot behind it, PaddleNLP's word for ``model.``."""
    class_prefix: str
    """Before ``ForCausalLM`` in the names of Hugging Face's and PaddleNLP's classes."""
    aliases: tuple[str, ...] = ()
    """Values of ``model_type`` that mean the same model."""
    layer: tuple[Weight, ...]
    """The weights of one layer."""
    flags: Mapping[str, str | bool] = field(default_factory=dict)
    """For each of ``FLAGS`` the key of config.json that says so, or a constant; absent: it is false."""
    window: Literal["never", "always", "asked"] = "never"
    """Whether ``sliding_window`` counts: with ``asked`` where ``use_sliding_window`` is true."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the family's configuration class assumes for keys that config.json does not have."""
    default_kv_heads: int | None = None
    """The same for ``num_key_value_heads``; None: as many as ``num_attention_heads``."""
    norm: Literal["rms"] = "rms"
    """What normalises hidden states."""
    activations: tuple[str, ...] = ("silu", "swish")
    """Words of config.json for the activation on the gate; the first is written."""
    paddlenlp: PaddleNLP | None = None
    """None: PaddleNLP has no such model."""

    def weight(self, role: str) -> Weight:
        """Return the weight of a layer that has ``role``."""
        return next(weight for weight in self.layer if weight.role == role)
