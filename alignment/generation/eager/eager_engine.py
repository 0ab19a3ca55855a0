"""The eager engine: prefill, then one token per step for all rows. Faster engines are tested against it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle

from alignment.architecture.family import FLAGS
from alignment.architecture.parts import even_cut
from alignment.architecture.rotary_frequencies import SCALINGS
from alignment.errors import UserError
from alignment.generation.drawing import Drawer
from alignment.generation.eager.decoder_weights import sort_weights
from alignment.generation.eager.forward import DecoderForward
from alignment.generation.eager.kv_cache import KVCache
from alignment.generation.eager.recorded_experts import ExpertsByRow
from alignment.generation.eager.relay import Piece, Relay
from alignment.generation.eager.row_group import RowGroup
from alignment.generation.eager.stopping import Answers
from alignment.generation.engine import GenerationOptions, missing_features
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.generation.prompt_checks import check_prompts
from alignment.generation.random_numbers import uniform
from alignment.ops import device_kernels
from alignment.ops.activations import ACTIVATIONS
from alignment.ops.rms_norm import NORM_OFFSETS
from alignment.ops.rotary import PositionTables
from alignment.records import Completion


class EagerEngine:
    """Generates with the weights of ``model`` (a CausalLM), or with loaded weights of the same shapes.

    The same seed and sequence id give the same tokens in any batch and any order, up to the last bits of the matrix
    products (which differ between one row and several).

    ``placement`` says which part of the model this process has; all processes in it get the same prompts and return
    the same completions. With several stages rows are split into as many groups, so that each stage has one to work on.
    """

    features = frozenset(
        {*FLAGS, "tie_word_embeddings", "embedding_size", "sliding_window", "full_layers", "experts"}
        | {"feed_forward=plain", "norms=after", "norms=none before", "norms=all heads"}
        | {"attention_cap", "logit_cap", "query_pre_attn_scalar", "rope_local_base_freq"}
        | {f"norm={kind}" for kind in NORM_OFFSETS}
        | {f"activation={kind}" for kind in ACTIVATIONS}
        | {f"rope_type={kind}" for kind in SCALINGS}
    )
    """See ``Engine.features``."""

    def __init__(
        self,
        model: Any,
        *,
        placement: EnginePlacement = WHOLE_MODEL,
        max_batch_rows: int | None = None,
        usable_vocab_size: int | None = None,
    ) -> None:
        """``max_batch_rows`` limits the rows run at once; ids from ``usable_vocab_size`` on are never drawn."""
        missing = missing_features(model.config, self.features)
        if missing:
            raise UserError(f"no engine computes {', '.join(missing)} of this {model.config.model_type} model")
        if max_batch_rows is not None and max_batch_rows < 1:
            raise UserError(f"max_batch_rows={max_batch_rows} (allowed: 1 or more)")
        self.version: int | None = None
        self._model = model
        self._placement = placement
        self._max_batch_rows = max_batch_rows
        self._usable = usable_vocab_size
        self._weights = None
        self._rotary = PositionTables(*model.config.rotary_frequencies(), model.config.long_frequencies)
        self._local_rotary = None
        if model.config.rope_local_base_freq is not None:
            self._local_rotary = PositionTables(*model.config.rotary_frequencies(is_local=True))

    def load_weights(self, weights: Iterable[tuple[str, Any]] | None, version: int) -> None:
        """See ``Engine.load_weights``; tensors are shared, only a tied head is copied."""
        # First, so that weights copied from another layout do not exist twice.
        self.release()
        with paddle.no_grad():
            source = self._model.named_parameters() if weights is None else weights
            self._weights = sort_weights(source, self._model.config, self._placement)
        self.version = version

    def release(self) -> None:
        """Release the weights; call ``load_weights`` before the next ``generate``."""
        self._weights = None

    def generate(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, seed: int, sequence_ids: Sequence[int]
    ) -> list[Completion]:
        """See ``Engine.generate``; UserError for a prompt that is empty, outside the vocabulary or too long."""
        assert self._weights is not None, "load_weights comes before generate"
        assert len(prompts) == len(sequence_ids), "one sequence id for each prompt"
        rows = [np.asarray(prompt, np.int64) for prompt in prompts]
        check_prompts(rows, options, self._model.config)
        uniforms = uniform(seed, np.asarray(sequence_ids)[:, None], np.arange(options.max_new_tokens))
        size = self._max_batch_rows or max(1, len(rows))
        completions: list[Completion] = []
        with paddle.no_grad():
            for first in range(0, len(rows), size):
                part = slice(first, first + size)
                completions += self._run(rows[part], options, uniforms[part])
        return completions

    def _run(self, prompts: list[np.ndarray], options: GenerationOptions, uniforms: np.ndarray) -> list[Completion]:
        """Continue prompts that fit in one batch; ``uniforms`` [B, max_new_tokens]."""
        stages, config = self._placement.pipeline, self._model.config
        cuts = (even_cut(len(prompts), stages.size, index) for index in range(stages.size))
        groups = [
            self._group(prompts[start:stop], options, uniforms[start:stop]) for start, stop in cuts if start < stop
        ]
        relay = Relay(
            stages,
            num_passes=len(self._placement.chunks(config.num_hidden_layers)),
            width=config.hidden_size,
            dtype=self._weights.any_matrix.dtype,
        )
        relay.run(itertools.chain.from_iterable(group.read_prompts() for group in groups))
        relay.run(_steps(groups, turns=stages.size))
        return [completion for group in groups for completion in group.completions(stages)]

    def _group(self, prompts: list[np.ndarray], options: GenerationOptions, uniforms: np.ndarray) -> RowGroup:
        config, lengths = self._model.config, np.array([len(prompt) for prompt in prompts])
        limits = options.answer_limits(lengths)
        longest = int(lengths.max() + limits.max())
        record = None
        if options.routed_experts:
            sizes = {"num_rows": len(prompts), "num_layers": config.num_hidden_layers, "longest": longest}
            record = ExpertsByRow(config.experts, **sizes)
        tables = {"local_rotary": self._local_rotary}
        forward = DecoderForward(config, self._weights, self._rotary, self._placement, **tables)
        return RowGroup(
            prompts,
            forward=forward,
            cache=KVCache(forward.cache_shape, lengths, max_length=longest),
            drawer=Drawer(
                options,
                prompts,
                uniforms,
                vocab_size=config.vocab_size,
                usable_vocab_size=self._usable,
                placement=self._placement,
                on_device=device_kernels.on_device(self._weights.any_matrix),
            ),
            answers=Answers(limits, options),
            record=record,
        )


def _steps(groups: list[RowGroup], *, turns: int) -> Iterator[Piece | None]:
    """Yield the next step of every group in turn until all are done; None for a turn without work."""
    while not all(group.answers.done for group in groups):
        for turn in range(turns):
            is_open = turn < len(groups) and not groups[turn].answers.done
            yield groups[turn].next_step() if is_open else None
