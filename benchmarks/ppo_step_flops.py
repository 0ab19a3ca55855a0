"""Arithmetic and memory traffic of a step by phase, counted from the lengths of its rows: pure functions.

Arithmetic is that of matrix products and attention, two FLOP per multiply-add; a backward pass costs two forward
passes. Traffic is that of float32 weights, gradients and moments, and of keys and values while decoding; activations
are left out. The minimum computes every distinct token once (a prompt for all its answers), nothing twice that the
update computes anyway (values, old log-probs), the head and the last layer (but for its keys and values) only for
states that are read, and reads the weights once a pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

FLOAT = 4
"""Bytes."""
FORWARD, TRAINING = 1, 3
"""Forward passes that a pass costs."""


class Family(NamedTuple):
    """Tokens of a prompt and of its answers."""

    prompt: int
    answers: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """What one pass over all rows computes."""

    tokens: int
    """Through every layer."""
    pairs: int
    """(token, token that it attends to)."""
    targets: int
    """Through a head over the vocabulary."""
    reads: int = 1
    """How often the weights are read: micro-batches, or steps of decoding."""
    wanted: tuple[int, int] | None = None
    """Tokens, and their pairs, for which the last layer computes more than keys and values; None: all of them."""


@dataclass(frozen=True)
class Pass:
    """One pass over rows by one model."""

    rows: Rows
    factor: int
    """``FORWARD`` or ``TRAINING``."""
    reads_vocabulary: bool
    """Whether the model's head is over the vocabulary, not a score."""
    decodes: bool = False


def shared(families: Sequence[Family], *, reads: int = 1, ends: bool = False) -> Rows:
    """Return rows in which a prompt is computed once for all its answers.

    The states that are read are those before each token of an answer; ``ends``: the last of each row.
    """
    pairs = sum(triangle(f.prompt) + sum(f.prompt * a + triangle(a) for a in f.answers) for f in families)
    answers = sum(sum(f.answers) for f in families)
    wanted = (_ends if ends else _before_answers)(families)
    return Rows(sum(f.prompt for f in families) + answers, pairs, answers, reads, wanted)


def _ends(families: Sequence[Family]) -> tuple[int, int]:
    return sum(len(f.answers) for f in families), sum(f.prompt + a for f in families for a in f.answers)


def _before_answers(families: Sequence[Family]) -> tuple[int, int]:
    tokens = sum(1 + sum(a - 1 for a in f.answers) for f in families)
    return tokens, sum(f.prompt + sum(f.prompt * (a - 1) + triangle(a - 1) for a in f.answers) for f in families)


def apart(families: Sequence[Family], *, reads: int = 1) -> Rows:
    """Return rows without padding that share nothing."""
    return shared([Family(f.prompt, (answer,)) for f in families for answer in f.answers], reads=reads)


def padded(batches: Sequence[Sequence[tuple[int, int]]], *, width: int = 0, is_causal: bool = True) -> Rows:
    """Return micro-batches of (prompt, answer) padded to their longest row, or to ``width``.

    ``is_causal``: attention skips the future; a mask of padding makes it compute the whole square.
    """
    tokens = pairs = targets = 0
    for batch in batches:
        size = width or max(prompt + answer for prompt, answer in batch)
        tokens += len(batch) * size
        pairs += len(batch) * (triangle(size) if is_causal else size * size)
        targets += sum(answer for _, answer in batch)
    return Rows(tokens, pairs, targets, len(batches))


def triangle(tokens: int) -> int:
    """Return the pairs of ``tokens`` that attend to themselves and to all before."""
    return tokens * (tokens + 1) // 2


def count_flops(sizes: Mapping[str, int], passes: Sequence[Pass]) -> int:
    """Return the FLOP of ``passes`` by models of ``sizes`` (``ppo_step_work.MODELS``)."""
    hidden, layers = sizes["hidden_size"], sizes["num_hidden_layers"]
    total = 0
    for one in passes:
        rows, keys = one.rows, 2 * hidden**2
        tokens, pairs = rows.wanted or (rows.tokens, rows.pairs)
        layer = 2 * rows.tokens * layer_weights(sizes) + 4 * rows.pairs * hidden
        last = 2 * (rows.tokens * keys + tokens * (layer_weights(sizes) - keys)) + 4 * pairs * hidden
        head = 2 * rows.targets * hidden * (sizes["vocab_size"] if one.reads_vocabulary else 1)
        total += one.factor * ((layers - 1) * layer + last + head)
    return total


def count_bytes(sizes: Mapping[str, int], passes: Sequence[Pass]) -> int:
    """Return the bytes of ``passes``: weights at every reading; in training their gradients (read and written at every
    micro-batch) and one AdamW (weights, moments read and written, gradients read).
    """
    hidden, layers, total = sizes["hidden_size"], sizes["num_hidden_layers"], 0
    for one in passes:
        weights = layers * layer_weights(sizes) + hidden * (sizes["vocab_size"] if one.reads_vocabulary else 1)
        total += FLOAT * weights * one.rows.reads * (1 if one.factor == FORWARD else 4)
        if one.factor == TRAINING:
            total += FLOAT * 7 * (weights + hidden * sizes["vocab_size"])
        if one.decodes:
            total += FLOAT * 2 * hidden * layers * one.rows.pairs
    return total


def layer_weights(sizes: Mapping[str, int]) -> int:
    """Return the weights of one layer's matrices."""
    return 4 * sizes["hidden_size"] ** 2 + 3 * sizes["hidden_size"] * sizes["intermediate_size"]
