"""How many multiplications with weights each side of ``offline.py`` needs for its rows. Needs no framework.

Attention's own products are left out: a few percent at these lengths. A peer computes every layer, and the head if
there is one, for every token of its padded micro-batches. This package skips padding, computes the tokens with which
both rows of a pair begin only once, and in the last layer only keys and values of tokens whose output nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator

from offline_work import Work
from ppo_step_work import MODELS

TRAINED, FORWARD = 3, 1
"""Products of a weight for a token: forward and two gradients, or forward only."""
Group = list[tuple[int, list[int]]]
"""(Tokens of the prompt, of its answers) of the samples of a micro-batch of TRL's."""


def product_share(work: Work) -> float:
    """Return the multiplications of this package with micro-batches of a fixed number of rows as a share of TRL's."""
    return our_products(work) / sum(products * _padded(work, group) for group, products in _passes(work))


def our_products(work: Work) -> int:
    """Return the multiplications of this package in all steps."""
    return sum(products * _needed(work, group) for group, products in _passes(work))


def _passes(work: Work) -> Iterator[tuple[Group, int]]:
    """Yield rows that pass through the model, and the products of a weight for each of their tokens."""
    sizes = [(len(prompt), [len(answer) for answer in answers]) for prompt, answers in work.samples()]
    step = work.peer_batches[0]
    for first in range(0, len(sizes), step):
        group = sizes[first : first + step]
        yield group, TRAINED + FORWARD * (work.objective in ("dpo", "kto"))  # the reference's
        if work.objective == "kto":  # policy and reference on each prompt with the answer before it
            yield [(prompt, group[number - 1][1]) for number, (prompt, _) in enumerate(group)], 2 * FORWARD


def _sizes(work: Work) -> tuple[int, int, int, int]:
    """Return (layers, numbers in a layer's matrices, in those for keys and values, in the head)."""
    sizes = MODELS[work.model]
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    head = 0 if work.objective == "rm" else sizes["vocab_size"] * width
    return sizes["num_hidden_layers"], 4 * width * width + 3 * width * inner, 2 * width * width, head


def _padded(work: Work, group: Group) -> int:
    layers, layer, _, head = _sizes(work)
    lengths = [prompt + answer for prompt, answers in group for answer in answers]
    return max(lengths) * len(lengths) * (layers * layer + head)


def _needed(work: Work, group: Group) -> int:
    layers, layer, keys, head = _sizes(work)
    packed = sum(prompt + sum(answers) for prompt, answers in group)
    read = sum(len(answers) if work.objective == "rm" else sum(answers) for _, answers in group)
    return packed * ((layers - 1) * layer + keys) + read * (layer - keys + head)
