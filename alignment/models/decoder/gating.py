"""A network that weighs the attributes of an answer by its prompt (Wang et al. 2024, ArmoRM)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from alignment.errors import ModelFolderError
from alignment.models.decoder.layers import Linear

GATING = "gating"
"""The network's key in config.json, and the prefix of its parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatingOptions:
    """The settings of a gating network, saved in config.json."""

    hidden_size: int = 1024
    num_layers: int = 3
    """Hidden layers; 0: the weights are linear in the prompt's hidden state."""
    temperature: float = 10.0
    """Divides what the softmax gets."""
    scale: float = 1.0
    """Multiplies the weights, whose sum it is."""
    length_penalties: tuple[float, ...] = ()
    """What each token of an answer takes from each of its k scores; empty: nothing."""

    def sizes(self, width: int, num_labels: int) -> tuple[int, ...]:
        """Return the widths from the prompt's hidden state [``width``] to the weights [``num_labels``]."""
        return (width, *[self.hidden_size] * self.num_layers, num_labels)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of config.json."""
        return {**asdict(self), "length_penalties": list(self.length_penalties)}

    @classmethod
    def from_dict(cls, raw: Any) -> GatingOptions | None:
        """Read the entry of config.json; None: there is no network. ModelFolderError if it is incomplete."""
        if raw is None:
            return None
        fields = cls.__dataclass_fields__
        if not isinstance(raw, Mapping) or set(raw) != set(fields):
            raise ModelFolderError(f"config.json has {GATING}={raw!r:.200} (allowed: an object of {', '.join(fields)})")
        return cls(**{**raw, "length_penalties": tuple(raw["length_penalties"])})


class GatingNetwork(nn.Layer):
    """A multilayer perceptron with ReLU between its layers; its weights are positive and sum to ``scale``."""

    def __init__(self, options: GatingOptions, width: int, num_labels: int) -> None:
        super().__init__(dtype="float32")
        self._options = options
        sizes = options.sizes(width, num_labels)
        for number, pair in enumerate(zip(sizes, sizes[1:], strict=False)):
            self.add_sublayer(str(number), Linear(*pair, bias=True, dtype="float32"))

    def forward(self, prompts: paddle.Tensor) -> paddle.Tensor:
        """Return the weights [n, k] for the hidden states [n, H] at the last tokens of prompts."""
        hidden = prompts.astype("float32")
        for number, layer in enumerate(self.children()):
            hidden = layer(F.relu(hidden) if number else hidden)
        return F.softmax(hidden / self._options.temperature, axis=-1) * self._options.scale

    def corrected(self, scores: paddle.Tensor, lengths: np.ndarray, penalties: tuple[float, ...]) -> paddle.Tensor:
        """Return scores [n, k] of answers with ``lengths`` [n] tokens, less what their length is worth."""
        if not penalties:
            return scores
        worth = np.asarray(lengths, np.float64)[:, None] * np.asarray(penalties)
        return scores - paddle.to_tensor(worth.astype(np.float32))
