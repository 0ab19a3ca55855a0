"""Bytes for computing log-probs: hidden states, logits, and the gradients of logits and vocabulary head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.parts import even_cut
from alignment.ops.pieces import divergence_tokens, tokens_at_once
from alignment.planner.counts.operators import FLOAT


@dataclass(frozen=True, kw_only=True)
class Head:
    """Log-probs of T targets computed by Paddle's operators in the process with the logits of V tokens."""

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
        """Bytes of the float32 logits computed at once."""
        return min(self.targets, self._at_once) * self._columns * FLOAT

    @property
    def _at_once(self) -> int:
        return tokens_at_once(self._columns, on_device=self.item < FLOAT)

    @cached_property
    def in_pieces(self) -> bool:
        """Whether there are too many logits to compute at once."""
        return self._logits < self.targets * self._columns * FLOAT

    @cached_property
    def _states(self) -> int:
        return self.targets * self.config.head_width * self.item

    @cached_property
    def hidden(self) -> int:
        """Bytes of the targets' hidden states, and of those divided by the temperature (half precision: logits are)."""
        return (1 + (self.is_scaled and self.item == FLOAT)) * self._states

    @cached_property
    def weight(self) -> int:
        """Elements of the head."""
        return self._columns * self.config.head_width

    @cached_property
    def _earlier(self) -> int:
        """Bytes kept from earlier pieces: the gradients of head and hidden states."""
        return self.weight * FLOAT + self._states if self.in_pieces else 0

    def forward_only(self, *, with_entropy: bool) -> int:
        """Return the peak without gradients: logits and softmax; for entropies their product too."""
        return (3 if with_entropy else 2) * self._logits + self.hidden

    def logits_back(self, *, with_entropy: bool) -> int:
        """Return the bytes alive at the gradient of the logits: logits or softmax, and temporary copies."""
        copies = (5 if with_entropy else 3) if self.in_pieces else (8 if with_entropy else 2)
        return copies * self._logits + self.hidden + self._earlier

    @cached_property
    def weight_back(self) -> int:
        """The bytes alive at the gradient of the head: that, and the logits of a piece and their gradient."""
        others = 1 if self.in_pieces else 1 + (self.tensor > 1)
        made = self.weight * FLOAT * (2 if self.in_pieces else 1)
        return others * self._logits + made + self.hidden + self._states


class NativeHead(Head):
    """Log-probs computed by compiled operators: there is no softmax, and gradients overwrite the logits."""

    @cached_property
    def hidden(self) -> int:
        """Bytes of the targets' hidden states; the kernels apply the temperature."""
        return self._states

    def forward_only(self, *, with_entropy: bool) -> int:
        """See ``Head``: logits, and those of the previous piece, not yet freed; entropies cost nothing."""
        return (2 if self.in_pieces else 1) * self._logits + self.hidden

    def logits_back(self, *, with_entropy: bool) -> int:
        """See ``Head``: as ``forward_only``."""
        return self.forward_only(with_entropy=with_entropy) + self._earlier

    @cached_property
    def weight_back(self) -> int:
        """See ``Head``: the gradient is in the logits' memory."""
        made = self.weight * self.item * (2 if self.in_pieces else 1)
        return self._logits + made + self.hidden + self._states


@dataclass(frozen=True, kw_only=True)
class DistilledHead(Head):
    """Log-probs and the divergence from a teacher, whose logits have about as many columns.

    Logits are always computed again in the backward pass, and the gradients of the pieces added.
    """

    tensors: int
    """The tensors of the logits' size that a divergence holds."""

    @cached_property
    def hidden(self) -> int:
        """Bytes of the targets' hidden states; the logits are divided by the temperature."""
        return self._states

    @property
    def _at_once(self) -> int:
        return divergence_tokens(self._columns)

    @cached_property
    def in_pieces(self) -> bool:
        """See ``Head``."""
        return True

    def forward_only(self, *, with_entropy: bool) -> int:
        """See ``Head``."""
        return self.tensors * self._logits + self.hidden

    def logits_back(self, *, with_entropy: bool) -> int:
        """See ``Head``: one more for the gradient."""
        return (self.tensors + 1) * self._logits + self.hidden + self._earlier
