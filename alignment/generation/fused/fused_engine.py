"""The fused engine: compiled kernels with continuous batching; it draws the same tokens as ``EagerEngine``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import paddle

from alignment.errors import UserError
from alignment.generation.engine import GenerationOptions
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.generation.fused.blocks import blocks_for
from alignment.generation.fused.capabilities import FEATURES
from alignment.generation.fused.decode_loop import Progress, run
from alignment.generation.fused.drafts import PreviousAnswers
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.kernels import CPU_KERNELS, Kernels, PackedModel
from alignment.generation.fused.live_batch import LiveBatch
from alignment.generation.fused.live_scheduler import LiveScheduler
from alignment.generation.fused.paging import Counts, Paging
from alignment.generation.fused.recorded_experts import ExpertsBySequence
from alignment.generation.fused.sequences import Sequence as SequenceInFlight
from alignment.generation.fused.sequences import make_sequences
from alignment.generation.fused.speculation import Speculation
from alignment.generation.prompt_checks import check_prompts
from alignment.records import Completion


class FusedEngine:
    """Generates with the weights of ``model`` (a CausalLM), or with loaded weights of the same shapes.

    The same seed and sequence id give the same bits whatever the slots, memory and order of the prompts: a row's sums
    have the same order whatever the other rows are.
    """

    features = FEATURES
    """See ``Engine.features``."""

    def __init__(
        self,
        model: Any,
        settings: FusedSettings | None = None,
        *,
        placement: EnginePlacement = WHOLE_MODEL,
        kernels: Kernels = CPU_KERNELS,
        usable_vocab_size: int | None = None,
        progress: Progress | None = None,
        previous: PreviousAnswers | None = None,
    ) -> None:
        """Ids from ``usable_vocab_size`` on are never drawn; UserError if the kernels have an ``obstacle``.

        With ``speculative_method="previous"`` drafts come from ``previous``, where the engine records its answers
        (None: it keeps them to itself).

        Processes that split the layers (``placement.tensor``) get the same prompts and return the same completions.
        """
        obstacle = kernels.obstacle(model.config, placement)
        if obstacle is not None:
            raise UserError(obstacle)
        self.version: int | None = None
        self.counts = Counts()
        """Counts of the last call of ``generate``."""
        self._model = model
        self._placement = placement
        self._settings = settings or FusedSettings()
        self._usable = usable_vocab_size
        self._progress = progress
        self._kernels = kernels
        self._packed: PackedModel | None = None
        self._loaded = False
        self._speculation = Speculation(self._settings, is_possible=kernels.checks_drafts, previous=previous)

    @property
    def num_bytes(self) -> int:
        """Bytes of packed weights and key-value cache; 0 before loading and after ``release``."""
        return 0 if self._packed is None else self._packed.num_bytes

    def load_weights(self, weights: Iterable[tuple[str, Any]] | None, version: int) -> None:
        """See ``Engine.load_weights``; tensors are copied into the kernels' layout, over the old ones."""
        self._loaded = False
        if self._packed is None:
            self._packed = self._kernels.pack(self._model.config, self._settings, self._placement)
        with paddle.no_grad():
            self._packed.load(self._model.named_parameters() if weights is None else weights)
        self._loaded = True
        self.version = version

    def release(self) -> None:
        """Free weights and blocks; call ``load_weights`` before the next ``generate``."""
        if self._packed is not None:
            self._packed.close()
        self._packed, self._loaded = None, False

    def generate(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, seed: int, sequence_ids: Sequence[int]
    ) -> list[Completion]:
        """See ``Engine.generate``; UserError for a prompt that is empty, outside the vocabulary or too long."""
        assert len(prompts) == len(sequence_ids), "one sequence id for each prompt"
        rows = [np.asarray(prompt, np.int64) for prompt in prompts]
        check_prompts(rows, options, self._model.config)
        limits = options.answer_limits(np.array([len(row) for row in rows], np.int64))
        return self.run_sequences(make_sequences(rows, limits, sequence_ids=sequence_ids), options, seed=seed)

    def run_sequences(
        self, sequences: Sequence[SequenceInFlight], options: GenerationOptions, *, seed: int
    ) -> list[Completion]:
        """Return completions of ``sequences``, which have checked prompts and their own limits, in order of arrival."""
        assert self._packed is not None and self._loaded, "load_weights comes before generate"
        if not sequences:
            return []
        self._check_room(sequences)
        settings, vocab = self._settings, self._model.config.vocab_size
        paging = Paging(self._packed.pool.num_blocks, settings.block_tokens)
        stops = np.zeros(vocab, bool)
        stops[[token for token in options.stop_token_ids if token < vocab]] = True
        limits = {"num_slots": settings.num_slots, "max_rows": settings.max_rows, "stops": stops}
        scheduler = self._speculation.scheduler(sequences, paging, options, **limits)
        drawer = self._kernels.drawer(options, settings, seed=seed, vocab_size=vocab, usable=self._usable)
        self.counts = paging.counts
        record = self._recorder(sequences) if options.routed_experts else None
        completions = run(scheduler, self._packed, drawer, progress=self._progress, record=record)
        assert paging.num_free == paging.num_blocks, "blocks leaked"
        self._speculation.learn(sequences, completions, paging.counts)
        return completions

    def _recorder(self, sequences: Sequence[SequenceInFlight]) -> ExpertsBySequence:
        config = self._model.config
        assert config.experts is not None, "only models with experts choose any"
        sizes = {"num_layers": config.num_hidden_layers, "num_slots": self._settings.num_slots}
        return ExpertsBySequence(sequences, config.experts, **sizes)

    def open_batch(self, stop_token_ids: Sequence[int]) -> LiveBatch | None:
        """Return a batch that requests join and leave while it runs; it reads the weights of this engine.

        ``stop_token_ids`` end every answer. None: the kernels draw all rows with the same options.
        """
        assert self._packed is not None and self._loaded, "load_weights comes before open_batch"
        settings, vocab, longest = self._settings, self._model.config.vocab_size, self._packed.pool.max_length
        drawer = self._kernels.request_drawer(settings, vocab_size=vocab, usable=self._usable, max_answer=longest)
        if drawer is None:
            return None
        stops = np.zeros(vocab, bool)
        stops[[token for token in stop_token_ids if token < vocab]] = True
        scheduler = LiveScheduler(
            Paging(self._packed.pool.num_blocks, settings.block_tokens),
            num_slots=settings.num_slots,
            max_rows=settings.max_rows,
            max_length=longest,
            stops=stops,
        )
        return LiveBatch(scheduler, self._packed, drawer, check=self._check_ask)

    def _check_ask(self, sequences: Sequence[SequenceInFlight], options: GenerationOptions) -> None:
        check_prompts([sequence.prompt for sequence in sequences], options, self._model.config)
        self._check_room(sequences)

    def _check_room(self, sequences: Sequence[SequenceInFlight]) -> None:
        """Raise UserError for a sequence that could exceed the pool or ``max_length`` even on its own."""
        pool, settings = self._packed.pool, self._settings
        for sequence in sequences:
            prompt, length = len(sequence.prompt), len(sequence.prompt) + sequence.limit
            # An answer's last token is not fed through the model.
            needed = blocks_for(length - 1, settings.block_tokens)
            if length <= pool.max_length and needed <= pool.num_blocks:
                continue
            what = f"prompt {sequence.index} has {prompt} tokens and its answer may have {sequence.limit}"
            if length > pool.max_length:
                raise UserError(f"{what}; together at most max_length={pool.max_length}")
            raise UserError(
                f"{what}; their keys and values need {needed * pool.block_bytes} bytes, "
                f"rollout_kv_memory={settings.kv_memory} holds {pool.num_blocks * pool.block_bytes}"
            )
