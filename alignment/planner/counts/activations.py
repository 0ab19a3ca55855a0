"""Bytes of the tensors that are alive while layers run, counted at the moments that the largest one is among.

Each moment is named after what runs. How much an operator keeps and makes is in ``operators``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from alignment.planner.counts.operators import FLOAT, FlashOperators, NativeOperators, Operators, PaddleOperators, Sizes


@dataclass(frozen=True, kw_only=True)
class Pass(Sizes):
    """One micro-batch of full rows through layers of one process."""

    native: bool = False
    """Whether compiled operators run: in float32 on a CPU."""
    recompute: str = ""
    """What the backward pass computes again: ``full``, ``full_attn``, ``core_attn``, or nothing."""

    @cached_property
    def _operators(self) -> Operators:
        if self.native:
            return NativeOperators(self)
        if self.item < FLOAT and (self.config.sliding_window or self.length) >= self.length:
            return FlashOperators(self)
        return PaddleOperators(self, keep_weights=self.recompute != "core_attn")

    @cached_property
    def _kept_attention(self) -> int:
        """The norm's output, what attention keeps, and with normed heads queries and keys before their norms."""
        normed_heads = self.queries + self.keys if self.config.qk_norm else 0
        return self.hidden + self._operators.kept_attention + normed_heads

    @cached_property
    def _kept_feed_forward(self) -> int:
        """The norm's input and output, and what the activation keeps."""
        return self.norm_input + self.hidden + self._operators.kept_activation

    @cached_property
    def kept_by_layer(self) -> int:
        """What one layer keeps for its backward pass."""
        if self.recompute == "full":
            return self.boundary
        if self.recompute == "full_attn":
            return self.boundary + self._kept_feed_forward
        return self.norm_input + self._kept_attention + self._kept_feed_forward

    @property
    def shared(self) -> int:
        """What all layers of a pass share."""
        return self._operators.shared

    def scratch(self, threads: int) -> int:
        """Return what operators on ``threads`` threads have of the host's memory beside tensors, once they have run."""
        return self._operators.scratch(threads)

    def kept(self, num_layers: int) -> int:
        """Return what ``num_layers`` layers keep of one micro-batch."""
        return num_layers * self.kept_by_layer + self.shared

    @cached_property
    def _computed_again(self) -> int:
        """The layer as it is kept without recomputing; its output and the gradient of that wait outside."""
        if self.recompute != "full":
            return 0
        return self._kept_attention + self._kept_feed_forward + 2 * self.boundary

    @cached_property
    def going_back(self) -> int:
        """What a layer needs on its way back on top of all that is kept: where the feed-forward block goes back from
        its product, or where attention does, when the block is done.
        """
        feed_forward = self.boundary + 2 * self.inner
        attention = self._operators.attention_back - self._kept_feed_forward + self.boundary
        if self.recompute == "full_attn":
            attention += self._kept_attention + 2 * self.boundary
        return self._computed_again + max(feed_forward, attention)

    def making_gradient(self, raw: int, arriving: int) -> int:
        """Return what is alive at the gradient of the last weight of a layer: ``raw`` bytes when it is made, and
        ``arriving`` bytes when it is added to others; a tensor-parallel sum keeps a copy of its argument.
        """
        copy = self.hidden if self.tensor > 1 else 0
        made, added = 2 * self.boundary + self.inner + raw, self.boundary + arriving
        return self._computed_again + copy + max(made, added)

    @cached_property
    def generating(self) -> int:
        """What reading prompts in the eager engine needs at most, beside what attention made in the layer before."""
        turning = 2 * self.hidden + 3 * self.queries + self.keys
        attention = self.hidden + self._operators.attention
        feed_forward = 2 * self.hidden + 2 * self.inner
        return self.rotations + self._operators.orders + self.queries + max(turning, attention, feed_forward)

    @cached_property
    def forward_only(self) -> int:
        """What a pass without gradients needs at most: inputs of this and of the first layer, and one layer's own."""
        attention = 2 * self.boundary + self.hidden + self._operators.attention
        feed_forward = 4 * self.boundary + self.hidden + self._operators.activation
        return self.shared + max(attention, feed_forward)
