"""How much the operators compute at once. Plain numbers: the planner counts with them, and needs no Paddle."""

from __future__ import annotations

LOGIT_BYTES = 64 << 20
"""Logits held at once on a CPU; beyond it tokens go in pieces and the backward pass computes the logits again."""
DEVICE_LOGIT_BYTES = 512 << 20
"""The same in half precision on a GPU, where a small piece does not fill the processors."""
DIVERGENCE_SHARE = 4
"""So many times fewer tokens than of a log-prob go together in a divergence, which takes more tensors of their size."""
SCORE_BYTES = 64 << 20
"""Attention scores held at once; beyond it heads go in pieces, and backward computes the probabilities again."""
WIDE_KEY_BYTES = 512 << 20
"""Half precision keys, or values, that decoding widens to float32 at once."""
QUERY_TILE = 48
"""Queries whose scores a thread of compiled attention holds at once (``csrc/core/training_kernels.h``)."""

_FLOAT = 4


def tokens_at_once(columns: int, *, on_device: bool) -> int:
    """Return how many tokens have their float32 logits of ``columns`` ids made together.

    ``on_device``: in half precision on a GPU.
    """
    return max(1, (DEVICE_LOGIT_BYTES if on_device else LOGIT_BYTES) // (_FLOAT * columns))


def divergence_tokens(columns: int) -> int:
    """Return how many tokens have the logits of student and teacher, and what is made of them, in memory together."""
    return max(1, tokens_at_once(columns, on_device=False) // DIVERGENCE_SHARE)


def divergence_tensors(beta: float, temperature: float) -> int:
    """Return how many tensors of the logits' size a divergence holds at its peak; one more for gradients.

    They are the logits and log-probs of both models (and the logits over the temperature), and the terms of the sum.
    """
    return 7 + 2 * (temperature != 1) + (0 if beta == 0 else 1 if beta == 1 else 2)


def keys_at_once(key_bytes: int) -> int:
    """Return how many keys are widened together to decode when one takes ``key_bytes`` in float32."""
    return max(1, WIDE_KEY_BYTES // key_bytes)


def heads_at_once(score_bytes: int) -> int:
    """Return how many key heads have their scores made together when those of one take ``score_bytes``."""
    return max(1, SCORE_BYTES // score_bytes)
