"""The plain engine: prefill, then one token a step for all rows in flight. Faster engines are tested against it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import paddle

from alignment.errors import UserError
from alignment.generation.decoder_weights import sort_weights
from alignment.generation.engine import GenerationOptions
from alignment.generation.forward import DecoderForward
from alignment.generation.kv_cache import KVCache
from alignment.generation.random_numbers import uniform
from alignment.generation.sampling import Sampler
from alignment.generation.stopping import Answers
from alignment.records import Completion

_COMPACT_BELOW = 0.75
"""Share of unfinished rows under which the finished ones are dropped, which copies the cache once."""


class EagerEngine:
    """Generates with the weights of ``model`` (a CausalLM), or with weights of the same shape handed to it.

    The same seed and sequence id give the same tokens alone, in any batch and in any order, up to the last bits of
    the matrix products (they differ between one row and several).
    """

    def __init__(self, model: Any, *, max_batch_rows: int | None = None, usable_vocab_size: int | None = None) -> None:
        """``max_batch_rows`` rows run at once (None: all); ids from ``usable_vocab_size`` on are never drawn."""
        if max_batch_rows is not None and max_batch_rows < 1:
            raise UserError(f"max_batch_rows={max_batch_rows} (allowed: 1 or more)")
        self.version: int | None = None
        self._model = model
        self._max_batch_rows = max_batch_rows
        self._usable = usable_vocab_size
        self._weights = None

    def load_weights(self, weights: Iterable[tuple[str, Any]] | None, version: int) -> None:
        """See ``Engine.load_weights``; tensors are shared, only a tied head is copied."""
        with paddle.no_grad():
            source = self._model.named_parameters() if weights is None else weights
            self._weights = sort_weights(source, self._model.config.num_hidden_layers)
        self.version = version

    def release(self) -> None:
        """Let go of the weights; ``load_weights`` comes before the next ``generate``."""
        self._weights = None

    def generate(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, seed: int, sequence_ids: Sequence[int]
    ) -> list[Completion]:
        """See ``Engine.generate``; raises UserError for a prompt that is empty, out of the vocabulary or too long."""
        assert self._weights is not None, "load_weights comes before generate"
        assert len(prompts) == len(sequence_ids), "one sequence id for each prompt"
        rows = [np.asarray(prompt, np.int64) for prompt in prompts]
        self._check(rows, options)
        uniforms = uniform(seed, np.asarray(sequence_ids)[:, None], np.arange(options.max_new_tokens))
        size = self._max_batch_rows or len(rows)
        completions: list[Completion] = []
        with paddle.no_grad():
            for first in range(0, len(rows), size):
                part = slice(first, first + size)
                completions += self._run(rows[part], options, uniforms[part])
        return completions

    def _run(self, prompts: list[np.ndarray], options: GenerationOptions, uniforms: np.ndarray) -> list[Completion]:
        """Continue prompts that fit in one batch; ``uniforms`` [B, max_new_tokens]."""
        config, lengths = self._model.config, np.array([len(prompt) for prompt in prompts])
        limits = options.answer_limits(lengths)
        longest = int(lengths.max() + limits.max())
        forward = DecoderForward(config, self._weights, max_length=longest)
        cache = KVCache(forward.cache_shape, lengths, max_length=longest)
        sampler = Sampler(options, prompts, uniforms, vocab_size=config.vocab_size, usable_vocab_size=self._usable)
        answers = Answers(limits, options)
        logits = forward.read_prompts(prompts, cache)
        while True:
            tokens, logprobs = sampler.draw(logits, answers.step)
            answers.add(tokens, logprobs)
            if answers.done:
                return answers.completions()
            if answers.open.mean() < _COMPACT_BELOW:
                kept = np.flatnonzero(answers.open)
                tokens = tokens[kept]
                for part in (cache, sampler, answers):
                    part.keep(kept)
            logits = forward.step(tokens, cache)

    def _check(self, prompts: list[np.ndarray], options: GenerationOptions) -> None:
        vocab, limit = self._model.config.vocab_size, self._model.config.max_position_embeddings
        for row, prompt in enumerate(prompts):
            if not len(prompt):
                raise UserError(f"prompt {row} is empty; a prompt needs at least one token")
            if prompt.min() < 0 or prompt.max() >= vocab:
                bad = int(prompt[(prompt < 0) | (prompt >= vocab)][0])
                raise UserError(f"prompt {row} holds token id {bad}; the model's vocabulary is 0 to {vocab - 1}")
            answer = int(options.answer_limits(np.array([len(prompt)]))[0])
            if answer < 1:
                raise UserError(f"prompt {row} has {len(prompt)} tokens, max_total_tokens={options.max_total_tokens}")
            if len(prompt) + answer > limit:
                raise UserError(
                    f"prompt {row} has {len(prompt)} tokens and its answer may have {answer}; "
                    f"together at most max_position_embeddings={limit}"
                )
