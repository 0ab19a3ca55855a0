"""The decoder of every model family, built from the family's table of parameters.

Layers work on the M real tokens of a batch, packed as [M, H]: padding costs nothing. A ``Placement`` says which layers,
and which share of each, this process holds. Outside attention and feed-forward a process has all M tokens, or its share
of them under sequence parallelism.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from alignment.architecture.adapter import Adapter
from alignment.architecture.cuts import layer_sizes, local_layer_shapes, whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import LM_HEAD
from alignment.architecture.parts import even_cut
from alignment.errors import DataError
from alignment.models.decoder.adapter_use import ADAPTED, AdapterState
from alignment.models.decoder.balancing import ExpertBalance
from alignment.models.decoder.decoder_layer import DecoderLayer, SequencePlan
from alignment.models.decoder.forest import PASSED, Forest, pack, sharing_tokens
from alignment.models.decoder.layers import (
    Embedding,
    Linear,
    NumberedLayers,
    Positions,
    build_norm,
)
from alignment.models.decoder.packed_tokens import PackedTokens, unpack
from alignment.models.decoder.placement import WHOLE, Placement
from alignment.models.decoder.replay import ExpertReplay, RecordedRoutes
from alignment.models.decoder.wanted_tokens import WantedTokens
from alignment.ops.head_product import HeadProduct
from alignment.ops.host_arrays import from_host
from alignment.ops.products import product
from alignment.ops.rotary import PositionTables
from alignment.ops.rotary_attention import RotaryAttention
from alignment.ops.softmax import soft_cap
from alignment.parallel.tensor.regions import TensorRegion, enter, split_rows
from alignment.records import TokenBatch

NORMS = ("input_norm", "attended_norm")
"""Roles of which a layer has at least one."""


class Decoder(nn.Layer):
    """Maps token ids to final hidden states, or runs one pipeline stage of that."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        dtype: str = "float32",
        placement: Placement = WHOLE,
        with_embedding: bool | None = None,
    ) -> None:
        """``with_embedding``: whether this stage holds the embedding (None: only the first stage does)."""
        super().__init__(dtype=dtype)
        self.config = config
        self.placement = placement
        self._dtype_name = dtype
        self.recompute = False
        """Whether training recomputes the activations named by ``recompute_granularity`` instead of keeping them."""
        self.recompute_granularity = "full"
        """``full`` (whole layers), ``full_attn`` (attention blocks) or ``core_attn`` (attention weights)."""
        self.adapter: AdapterState | None = None
        """The adapter of the model; None: it has none (``models.adapters.attach``)."""
        self.balance: ExpertBalance | None = None
        """What counts and balances the choices of experts in training; None: nothing does."""
        self.replay: ExpertReplay | None = None
        """What makes it give tokens to the experts that batches name; None: nothing does."""
        self.is_frozen = False
        """Whether only what is above the decoder is trained."""
        self.chunks = placement.layers(config.num_hidden_layers)
        """The layer numbers of each chunk of this stage."""
        self._starts: list[paddle.Tensor] = []
        self._rotation = PositionTables(*config.rotary_frequencies(), config.long_frequencies)
        self._local_rotation = self._rotation
        if config.rope_local_base_freq is not None:
            self._local_rotation = PositionTables(*config.rotary_frequencies(is_local=True))
        size, index, width = placement.tensor.size, placement.tensor.index, config.hidden_size
        self._sizes = layer_sizes(config, tensor_degree=size, tensor_index=index)
        self.embed_tokens = self.project_in = self.project_out = None
        if placement.is_first if with_embedding is None else with_embedding:
            first, last = even_cut(config.vocab_size, size, index)
            scale = config.embedding_scale
            narrow = config.head_width
            self.embed_tokens = Embedding(last - first, narrow, first_row=first, dtype=dtype, scale=scale)
        if config.embedding_size is not None and placement.is_first:
            self.project_in = Linear(config.embedding_size, width, bias=False, dtype=dtype)
        self.embed_positions = None
        if config.learned_positions and placement.is_first:
            offset = config.family.position_offset
            rows = config.dimensions["positions"]
            self.embed_positions = Positions(rows, width, offset=offset, dtype=dtype)
        numbers = [number for chunk in self.chunks for number in chunk]
        form = {"dtype": dtype, "four_bit": placement.four_bit}
        layers = {}
        for n in numbers:
            shapes = local_layer_shapes(config, **placement.tensor_place, has_experts=config.has_experts(n))
            layers[n] = DecoderLayer(config, shapes, number=n, **form)
        self.layers = NumberedLayers(layers)
        self.norm = build_norm(width, config, dtype=dtype) if placement.is_last and not config.norms_sums else None
        if config.embedding_size is not None and placement.is_last:
            self.project_out = Linear(width, config.embedding_size, bias=False, dtype=dtype)

    def forward(
        self,
        input_ids: np.ndarray | paddle.Tensor,
        position_ids: np.ndarray | paddle.Tensor | None = None,
        *,
        lengths: np.ndarray | None = None,
    ) -> paddle.Tensor:
        """Return hidden states [n, S, H] of right-padded ``input_ids`` [n, S], the same on all tensor processes.

        With ``lengths`` [n] padding is skipped and returned as zeros. ``position_ids`` [n, S] default to 0, 1, 2, ...
        in each row. For the last of several pipeline stages see ``starting_from``.
        """
        ids = np.asarray(input_ids)
        tokens = self._read(ids, np.full(len(ids), ids.shape[1]) if lengths is None else lengths, position_ids)
        return unpack(self._final(tokens, self._plan(tokens)), tokens)

    def at(self, batch: TokenBatch, rows: np.ndarray, positions: np.ndarray) -> paddle.Tensor:
        """Return the hidden states [T, H] of the tokens at ``positions`` [T] of ``rows`` [T] of ``batch``.

        The last layer computes only these. Otherwise see ``forward``.
        """
        tokens = self._read(batch.input_ids, batch.lengths)
        plan = self._plan(tokens, batch.routed_experts)
        wanted = WantedTokens.build(tokens.forest, rows, positions)
        routes_all = self.balance is not None and self.balance.reads_all
        if plan.region.rows == plan.region.num_tokens and not routes_all:
            return self._final(tokens, plan, wanted)
        # Sequence parallelism: each process holds only its share of the tokens between layers.
        return paddle.gather(self._final(tokens, plan), wanted.rows)

    def _final(self, tokens: PackedTokens, plan: SequencePlan, wanted: WantedTokens | None = None) -> paddle.Tensor:
        """Return the final hidden states of the real ones of ``tokens``, [M, H], or of the ``wanted`` ones, [T, H]."""
        if not self._starts:
            assert self.placement.num_stages == 1, "call run_chunk, or call this inside starting_from"
            hidden = self._embed(tokens, plan)
            numbers = [number for chunk in self.chunks for number in chunk]
        else:
            hidden, numbers = self._starts[-1], self.chunks[-1]
        *before, last = numbers
        hidden = self._run_layer(last, self._run(before, hidden, plan), plan, wanted)
        for layer in (self.norm, self.project_out):
            hidden = hidden if layer is None else layer(hidden)
        return plan.region.collect(hidden)

    @property
    def dtype(self) -> paddle.dtype:
        """The dtype of weights and hidden states."""
        held = [number for chunk in self.chunks for number in chunk]
        if not held:
            return getattr(paddle, self._dtype_name)
        norms = (self.layers[held[0]].get(role) for role in NORMS)
        return next(norm.weight.dtype for norm in norms if norm is not None)

    @property
    def last_layer(self) -> nn.Layer:
        """What runs last on the last stage."""
        last = [layer for layer in (self.norm, self.project_out) if layer is not None]
        return last[-1] if last else self.layers[self.chunks[-1][-1]]

    def run_chunk(self, index: int, batch: TokenBatch, hidden: paddle.Tensor | None) -> paddle.Tensor:
        """Return the output [m, H] of chunk ``index`` of this stage, before the final norm; m is ``boundary_rows``.

        ``hidden`` [m, H] is the output of the previous chunk; None: start from the token embeddings.
        """
        tokens = self._read(batch.input_ids, batch.lengths)
        plan = self._plan(tokens, batch.routed_experts)
        hidden = self._embed(tokens, plan) if hidden is None else hidden
        return self._run(self.chunks[index], hidden, plan)

    @contextlib.contextmanager
    def starting_from(self, hidden: paddle.Tensor) -> Iterator[None]:
        """Make calls inside the block run only the last chunk, from the previous chunk's output ``hidden`` [m, H]."""
        self._starts.append(hidden)
        try:
            yield
        finally:
            self._starts.pop()

    def boundary_rows(self, batch: TokenBatch) -> int:
        """Return the rows of a hidden state between chunks: all computed tokens, or this process's share of them."""
        num_tokens = self._forest(batch.input_ids, batch.lengths).num_tokens
        return split_rows(num_tokens, self.placement.tensor.size) if self.placement.sequence_parallel else num_tokens

    def _embed(self, tokens: PackedTokens, plan: SequencePlan) -> paddle.Tensor:
        PASSED.add(tokens.forest, obstacle=self._sharing_obstacle)
        hidden = self.embed_tokens(from_host(tokens.packed.astype(np.int64, copy=False)), plan.region)
        if self.project_in is not None:
            hidden = self.project_in(hidden)
        if self.embed_positions is not None:
            positions = paddle.to_tensor(plan.attention.positions, "int64")
            hidden = hidden + self.embed_positions(positions, plan.region)
        passes_on = self.adapter is not None or (self.is_frozen and self.placement.num_stages > 1)
        if passes_on and hidden.stop_gradient and paddle.is_grad_enabled():
            # The embedding is frozen: recomputed layers and later stages get gradients only through their input.
            hidden = hidden.detach()
            hidden.stop_gradient = False
        return hidden

    def _run(self, numbers: range | list[int], hidden: paddle.Tensor, plan: SequencePlan) -> paddle.Tensor:
        for number in numbers:
            hidden = self._run_layer(number, hidden, plan)
        return hidden

    def _run_layer(
        self, number: int, hidden: paddle.Tensor, plan: SequencePlan, wanted: WantedTokens | None = None
    ) -> paddle.Tensor:
        layer = self.layers[number]
        if plan.recomputed == "full":
            return recompute(layer, hidden, plan, wanted, preserve_rng_state=False)
        return layer(hidden, plan, wanted)

    def _forest(self, ids: np.ndarray, lengths: np.ndarray) -> Forest:
        """Pack rows ``ids`` [n, S] of ``lengths`` [n]; they share with those that have the same rotary angles."""
        if not self.shares_tokens:
            return Forest.plain(lengths, ids.shape[1])
        limit = self.config.angle_limit
        return pack(ids, lengths, None if limit is None else lengths > limit)

    @property
    def shares_tokens(self) -> bool:
        """Whether rows of a pass share the tokens they begin with."""
        return sharing_tokens() and self._sharing_obstacle is None

    @property
    def _sharing_obstacle(self) -> str | None:
        """Why rows of a pass cannot share the tokens they begin with; None: they can."""
        if self.config.experts is not None:
            return "none with experts: their balance counts the tokens of every row"
        if self.adapter is not None and self.adapter.dropout > 0:
            return "none with lora_dropout: every row drops other numbers"
        return None

    def _read(self, ids: np.ndarray, lengths: np.ndarray, position_ids: np.ndarray | None = None) -> PackedTokens:
        if position_ids is not None:
            forest = Forest.plain(lengths, ids.shape[1])
            return PackedTokens(ids, lengths, forest, np.asarray(position_ids).reshape(-1)[forest.cells])
        forest = self._forest(ids, lengths)
        return PackedTokens(ids, lengths, forest, forest.cells % ids.shape[1])

    def _plan(self, tokens: PackedTokens, recorded: np.ndarray | None = None) -> SequencePlan:
        config, placement, positions = self.config, self.placement, tokens.positions
        limit = config.longest_sequence
        rope_type = (config.rope_scaling or {}).get("rope_type")
        if rope_type == "dynamic" and positions.max(initial=0) >= limit:
            raise DataError(
                f"a row of {positions.max() + 1} tokens: rope_type dynamic changes the rotary angles of rows "
                f"longer than max_position_embeddings={limit}, which is not supported; shorten the rows"
            )
        attention = RotaryAttention(
            lengths=tokens.forest.lengths,
            shared=tokens.forest.shared,
            positions=positions,
            rotation=self._rotation,
            is_long=tokens.in_rows_beyond(config.angle_limit),
            num_heads=self._sizes.heads,
            num_kv_heads=self._sizes.kv_heads,
            window=None if config.has_local_layers else config.sliding_window,
            cap=config.attention_cap,
            dtype=self.dtype,
        )
        local = None
        if config.has_local_layers:
            local = replace(attention, window=config.sliding_window, rotation=self._local_rotation)
        region = TensorRegion(placement.tensor, len(positions), placement.sequence_parallel)
        active = self.recompute and self.training and paddle.is_grad_enabled()
        use = ADAPTED
        if self.adapter is not None:
            use = self.adapter.use(tokens.ids, tokens.lengths, training=self.training)
        # Decided here, because a layer that is recomputed runs again when other rows pass forward.
        balance = None if self.balance is None or self.balance.is_filler else self.balance
        routes = None
        if self.replay is not None and recorded is not None:
            routes = RecordedRoutes.of(recorded, tokens.forest.cells, self.replay)
        return SequencePlan(
            attention, region, self.recompute_granularity if active else "", use, balance, routes, local
        )


class CausalLM(nn.Layer):
    """A decoder with a vocabulary head; with tied embeddings ``lm_head`` is None and the embedding is the head."""

    kind = "causal"

    def __init__(self, config: DecoderConfig, *, dtype: str = "float32", placement: Placement = WHOLE) -> None:
        super().__init__(dtype=dtype)
        self.config = config
        self.placement = placement
        self.adapter: Adapter | None = None
        """What ``models.adapters.attach`` attached."""
        self.whole_shapes = whole_shapes(config, self.kind)
        """The shape of every parameter of the unsplit model, by name."""
        self.parts = placement.parts(config, self.kind)
        """The part of each parameter that this process holds, by name."""
        tied = config.tie_word_embeddings
        embeds = placement.is_first or (tied and placement.is_last)
        self.model = Decoder(config, dtype=dtype, placement=placement, with_embedding=embeds)
        self.lm_head = None
        if placement.is_last and not tied:
            width, columns = self.parts[LM_HEAD].extent
            self.lm_head = Linear(width, columns, bias=config.head_bias, dtype=dtype)

    def forward(
        self,
        input_ids: np.ndarray | paddle.Tensor,
        position_ids: np.ndarray | paddle.Tensor | None = None,
        *,
        lengths: np.ndarray | None = None,
    ) -> paddle.Tensor:
        """Return logits [n, S, V]; if the vocabulary is split, those of this process's tokens.

        For training use ``models.decoder.logprobs``, which computes only the logits it needs.
        """
        weight, transposed = self.head()
        hidden = enter(self.model(input_ids, position_ids, lengths=lengths), self.placement.tensor)
        logits = product(self.head_inputs(hidden), weight, transpose_weight=transposed)
        return soft_cap(logits, self.config.logit_cap)

    def head(self) -> tuple[paddle.Tensor, bool]:
        """Return (head weight, whether it is [V, H] and must be transposed); last pipeline stage only.

        A bias is the last row of the weight, [H + 1, V].
        """
        assert self.placement.is_last, "the head is on the last stage"
        if self.lm_head is None:
            return self.model.embed_tokens.weight, True
        if self.lm_head.bias is None:
            return self.lm_head.weight, False
        return paddle.concat([self.lm_head.weight, self.lm_head.bias.unsqueeze(0)]), False

    def head_product(self) -> HeadProduct:
        """Return the product of ``head_inputs`` and ``head`` with its soft-cap."""
        return HeadProduct(*self.head(), cap=self.config.logit_cap)

    def head_inputs(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Return hidden states [..., H] as the head reads them: followed by a 1 where it has a bias, its last row."""
        if self.lm_head is None or self.lm_head.bias is None:
            return hidden
        return paddle.concat([hidden, paddle.ones([*hidden.shape[:-1], 1], hidden.dtype)], axis=-1)

    @property
    def first_token(self) -> int:
        """The first token id whose logits this process computes."""
        group = self.placement.tensor
        return even_cut(self.config.vocab_size, group.size, group.index)[0]
