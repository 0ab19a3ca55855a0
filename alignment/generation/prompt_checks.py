"""Checks that every engine makes on prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignment.errors import UserError
from alignment.generation.engine import GenerationOptions


def check_prompts(prompts: Sequence[np.ndarray], options: GenerationOptions, config: Any) -> None:
    """Raise UserError for a prompt that is empty, too long, or outside the vocabulary of the model ``config``."""
    vocab, limit = config.vocab_size, config.longest_sequence
    short = min(config.angle_limit or limit, limit)
    if _are_right(prompts, options, vocab, short):
        return
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {row} is empty; a prompt needs at least one token")
        if prompt.min() < 0 or prompt.max() >= vocab:
            bad = int(prompt[(prompt < 0) | (prompt >= vocab)][0])
            raise UserError(f"prompt {row} holds token id {bad}; the model's vocabulary is 0 to {vocab - 1}")
        answer = int(options.answer_limits(np.array([len(prompt)]))[0])
        if answer < 1:
            raise UserError(f"prompt {row} has {len(prompt)} tokens, max_total_tokens={options.max_total_tokens}")
        if short < limit and len(prompt) <= short < len(prompt) + answer:
            raise UserError(
                f"prompt {row} has {len(prompt)} tokens and its answer may have {answer}; together at most {short}, "
                "original_max_position_embeddings, beyond which rope_type longrope turns all tokens otherwise; only "
                "prompts that are longer themselves may have longer answers"
            )
        if len(prompt) + answer > limit:
            raise UserError(
                f"prompt {row} has {len(prompt)} tokens and its answer may have {answer}; "
                f"together at most {limit}, the positions of the model"
            )


def _are_right(prompts: Sequence[np.ndarray], options: GenerationOptions, vocab: int, limit: int) -> bool:
    """Tell whether no prompt breaks a rule: all at once, as looking at each takes longer than a tiny model's step."""
    lengths = np.array([len(prompt) for prompt in prompts])
    if not lengths.size or not lengths.all():
        return not lengths.size
    tokens, answers = np.concatenate(prompts), options.answer_limits(lengths)
    is_known = tokens.min() >= 0 and tokens.max() < vocab
    return bool(is_known and answers.min() >= 1 and (lengths + answers).max() <= limit)
