"""Bytes of log-probs on their way from the last hidden states: the vocabulary head, its logits and their gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.parts import even_cut
from alignment.planner.counts.operators import FLOAT

LOGIT_BYTES, DEVICE_LOGIT_BYTES = 64 << 20, 512 << 20
"""As ``ops.head_product``, which needs Paddle: more logits than these, on a CPU or a GPU, are made in pieces."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Log-probs of T targets by Paddle's operators, in the process with the logits of V tokens."""

    config: DecoderConfig
    targets: int
    """T"""
    tensor: int
    item: int
    is_scaled: bool
    """Whether the sampling temperature is not 1."""

    @cached_property
    def _columns(self) -> int:
        start, stop = even_cut(self.config.vocab_size, self.tensor, 0)
        return stop - start

    @cached_property
    def _logits(self) -> int:
        """Bytes of the logits that are made together, in float32."""
        one = self._columns * FLOAT
        limit = LOGIT_BYTES if self.item == FLOAT else DEVICE_LOGIT_BYTES
        return min(self.targets, max(1, limit // one)) * one

    @cached_property
    def in_pieces(self) -> bool:
        """Whether the logits are too many to be made at once."""
        return self._logits < self.targets * self._columns * FLOAT

    @cached_property
    def _states(self) -> int:
        return self.targets * self.config.hidden_size * self.item

    @cached_property
    def hidden(self) -> int:
        """The states of the targets, and those divided by the temperature; in half precision logits are divided."""
        return (1 + (self.is_scaled and self.item == FLOAT)) * self._states

    @cached_property
    def weight(self) -> int:
        """Elements of the head."""
        return self._columns * self.config.hidden_size

    @cached_property
    def _earlier(self) -> int:
        """What is left of the pieces before: the head's gradient, and those of the states."""
        return self.weight * FLOAT + self._states if self.in_pieces else 0

    def forward_only(self, *, with_entropy: bool) -> int:
        """Return what log-probs need without gradients: logits and softmax; for entropies their product too."""
        return (3 if with_entropy else 2) * self._logits + self.hidden

    def logits_back(self, *, with_entropy: bool) -> int:
        """Return what is alive when the logits get their gradient: they or their softmax, and copies on the way."""
        copies = (5 if with_entropy else 3) if self.in_pieces else (8 if with_entropy else 2)
        return copies * self._logits + self.hidden + self._earlier

    @cached_property
    def weight_back(self) -> int:
        """What is alive when a gradient of the head is made: that, and logits of a piece and their gradient."""
        others = 1 if self.in_pieces else 1 + (self.tensor > 1)
        made = self.weight * FLOAT * (2 if self.in_pieces else 1)
        return others * self._logits + made + self.hidden + self._states


class NativeHead(Head):
    """The same by compiled operators: no softmax is made, and logits become their gradient where they are."""

    @cached_property
    def hidden(self) -> int:
        """The states of the targets; the kernels divide by the temperature."""
        return self._states

    def forward_only(self, *, with_entropy: bool) -> int:
        """See ``Head``: logits, those of the piece before not yet gone; entropies cost nothing."""
        return (2 if self.in_pieces else 1) * self._logits + self.hidden

    def logits_back(self, *, with_entropy: bool) -> int:
        """See ``Head``: as ``forward_only``."""
        return self.forward_only(with_entropy=with_entropy) + self._earlier

    @cached_property
    def weight_back(self) -> int:
        """See ``Head``: the logits are their gradient."""
        made = self.weight * self.item * (2 if self.in_pieces else 1)
        return self._logits + made + self.hidden + self._states
