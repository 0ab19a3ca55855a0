"""Bytes of activations while layers run, at the moments that may be the peak.

What each operator keeps and allocates is in ``operators``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from alignment.planner.counts.operators import FLOAT, FlashOperators, NativeOperators, PaddleOperators, Sizes


@dataclass(frozen=True, kw_only=True)
class Pass(Sizes):
    """One micro-batch of full rows passing through the layers of one process."""

    native: bool = False
    """Whether compiled operators run (float32 on a CPU)."""
    recompute: str = ""
    """What the backward pass recomputes: ``full``, ``full_attn``, ``core_attn``, or nothing (empty)."""
    adapter: int = 0
    """Bytes that the adapter of one layer keeps for its backward pass."""

    @property
    def has_head_norms(self) -> bool:
        """Whether queries and keys are normalised."""
        return self.config.qk_norm or self.config.family.norms_all_heads

    @cached_property
    def _operators(self) -> PaddleOperators | FlashOperators | NativeOperators:
        if self.native:
            return NativeOperators(self)
        if self.item < FLOAT:
            return FlashOperators(self)
        return PaddleOperators(self, keep_weights=self.recompute != "core_attn")

    @cached_property
    def _kept_attention(self) -> int:
        """The norm's output, what attention keeps, and with query and key norms their inputs."""
        normed_heads = self.queries + self.keys if self.has_head_norms else 0
        return self.hidden + self._operators.kept_attention + normed_heads

    @cached_property
    def _kept_feed_forward(self) -> int:
        """What norms and the activation keep, and with experts their inputs and outputs."""
        return self.norms_around_feed_forward + self._operators.kept_activation + 2 * self.copies

    @cached_property
    def kept_by_layer(self) -> int:
        """Bytes that one layer keeps for its backward pass."""
        if self.recompute == "full":
            return self.boundary
        if self.recompute == "full_attn":
            return self.boundary + self._kept_feed_forward
        return self.norm_input + self._kept_attention + self._kept_feed_forward + self.adapter

    @property
    def shared(self) -> int:
        """Bytes shared by all layers of a pass."""
        return self._operators.shared

    def scratch(self, threads: int) -> int:
        """Return the host memory, besides tensors, that operators hold on ``threads`` threads from their first use."""
        return self._operators.scratch(threads)

    def kept(self, num_layers: int) -> int:
        """Return the bytes that ``num_layers`` layers keep for one micro-batch."""
        return num_layers * self.kept_by_layer + self.shared

    @cached_property
    def _computed_again(self) -> int:
        """What recomputing a whole layer keeps again, with its output and that output's gradient."""
        if self.recompute != "full":
            return 0
        return self._kept_attention + self._kept_feed_forward + self.adapter + 2 * self.boundary

    @cached_property
    def going_back(self) -> int:
        """The peak of a layer's backward pass on top of everything kept.

        It is in the feed-forward block, at the gradient of its product, or later in attention.
        """
        feed_forward = self.boundary + 2 * self.inner + 2 * self.copies
        attention = self._operators.attention_back - self._kept_feed_forward + self.boundary
        if self.recompute == "full_attn":
            attention += self._kept_attention + 2 * self.boundary
        return self._computed_again + max(feed_forward, attention)

    def making_gradient(self, raw: int, arriving: int) -> int:
        """Return the bytes alive at the gradient of a layer's last weight, on top of everything kept.

        The gradient takes ``raw`` bytes when computed and ``arriving`` bytes when added to earlier ones; a
        tensor-parallel sum keeps a copy of its argument.
        """
        copy = self.hidden if self.tensor > 1 else 0
        made, added = 2 * self.boundary + self.inner + raw, self.boundary + arriving
        return self._computed_again + copy + max(made, added)

    @cached_property
    def generating(self) -> int:
        """The peak of prefill in the eager engine, including the previous layer's attention output."""
        turning = 2 * self.hidden + 3 * self.queries + self.keys
        attention = self.hidden + self._operators.attention
        feed_forward = 2 * self.hidden + 2 * self.inner + 3 * self.copies
        return self.rotations + self._operators.orders + self.queries + max(turning, attention, feed_forward)

    @cached_property
    def forward_only(self) -> int:
        """The peak of a pass without gradients: the inputs of this and the first layer, and one layer's activations."""
        attention = 2 * self.boundary + self.hidden + self._operators.attention
        feed_forward = 4 * self.boundary + self.hidden + self._operators.activation + 3 * self.copies
        return self.shared + max(attention, feed_forward)

    def last(self, read: int) -> LastLayer:
        """Return the last layer where ``read`` tokens of each row are read; with experts it computes all tokens."""
        if self.config.experts is not None:
            read = self.length
        return LastLayer(self, replace(self, length=read, saved=0))


@dataclass(frozen=True)
class LastLayer:
    """The last layer of a pass, which computes only the tokens that are read, but keys and values of all.

    The tokens that are read in a row have no gaps: the attention of tokens in gaps is neglected.
    """

    whole: Pass
    read: Pass
    """A pass of these tokens alone."""

    @cached_property
    def _kept_attention(self) -> int:
        whole, read = self.whole, self.read
        normed_heads = read.queries + whole.keys if whole.has_head_norms else 0
        return whole.hidden + read.hidden + whole._operators.kept_for(read) + normed_heads

    @cached_property
    def kept(self) -> int:
        """Bytes that it keeps for its backward pass."""
        if self.whole.recompute == "full":
            return self.whole.boundary
        if self.whole.recompute == "full_attn":
            return self.whole.boundary + self.read._kept_feed_forward
        return self.whole.norm_input + self._kept_attention + self.read._kept_feed_forward + self.whole.adapter

    @cached_property
    def _computed_again(self) -> int:
        if self.whole.recompute != "full":
            return 0
        return self._kept_attention + self.read._kept_feed_forward + self.whole.adapter + 2 * self.read.boundary

    @cached_property
    def going_back(self) -> int:
        """The peak of its backward pass on top of everything kept."""
        whole, read = self.whole, self.read
        feed_forward = read.boundary + 2 * read.inner + 2 * read.copies
        attention = whole._operators.back_for(read) - read._kept_feed_forward + whole.boundary
        if whole.recompute == "full_attn":
            attention += self._kept_attention + 2 * read.boundary
        return self._computed_again + max(feed_forward, attention)

    def making_gradient(self, raw: int, arriving: int) -> int:
        """See ``Pass``."""
        read = self.read
        copy = read.hidden if read.tensor > 1 else 0
        return self._computed_again + copy + max(2 * read.boundary + read.inner + raw, read.boundary + arriving)

    @cached_property
    def forward_only(self) -> int:
        """The peak of a pass without gradients: in a layer before, or in this one, which gathers what is read."""
        whole, read = self.whole, self.read
        inputs = 2 * whole.boundary + whole.hidden + read.hidden
        return max(whole.forward_only, whole.shared + inputs + whole._operators.attention_for(read))
