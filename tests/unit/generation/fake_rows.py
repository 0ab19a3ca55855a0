"""A model whose logits are a hash of all tokens it can see through the block tables, and a pool that starts as junk."""

from __future__ import annotations

import numpy as np

from alignment.generation.fused.decode_loop import run
from alignment.generation.fused.paging import Paging
from alignment.generation.fused.scheduler import Scheduler
from alignment.generation.fused.sequences import make_sequences

VOCAB = 23


def hash_tokens(tokens):
    """Return a number that depends on every token and its place."""
    state = 1469598103934665603
    for token in tokens:
        state = ((state ^ (int(token) + 1)) * 1099511628211) % 2**64
    return state ^ (state >> 29)


def next_token(tokens, sequence_id, place):
    """Return the token that follows ``tokens`` as number ``place`` of the answer of ``sequence_id``."""
    return (hash_tokens(tokens) + 7 * sequence_id + 3 * place) % VOCAB


class HashModel:
    """Holds tokens where a real model holds keys and values."""

    def __init__(self, num_blocks, block_tokens):
        self.pool = np.random.default_rng(5).integers(100, 200, (num_blocks, block_tokens))
        self.block_tokens = block_tokens
        self.row_counts = []

    def copy_block(self, source, target):
        assert source != target
        self.pool[target] = self.pool[source]

    def forward(self, step, block_tables):
        self.row_counts.append(len(step.tokens))
        places = list(zip(step.slots.tolist(), step.positions.tolist(), strict=True))
        assert len(set(places)) == len(places)
        assert len({slot for slot, _ in places}) == 1 + int((np.diff(step.slots) != 0).sum()), "slots are contiguous"
        written = {}
        for (slot, position), token in zip(places, step.tokens, strict=True):
            block, offset = block_tables[slot, position // self.block_tokens], position % self.block_tokens
            assert written.setdefault((block, offset), slot) == slot, "two slots write the same place"
            self.pool[block, offset] = token
        hashes = []
        for row in step.logit_rows:
            slot, position = places[row]
            seen = self.pool[block_tables[slot, : position // self.block_tokens + 1]].reshape(-1)[: position + 1]
            hashes.append(hash_tokens(seen))
        return np.array(hashes, object)


class HashDrawer:
    """Draws as ``next_token`` does; notes what entered."""

    def __init__(self):
        self.entered = []

    def enter(self, sequences):
        self.entered += [sequence.index for sequence in sequences]

    def draw(self, hashes, step, slots):
        ids, places = slots.sequence_ids[step.drawn_slots].tolist(), slots.answered[step.drawn_slots].tolist()
        tokens = [(h + 7 * i + 3 * p) % VOCAB for h, i, p in zip(hashes, ids, places, strict=True)]
        return np.array(tokens, np.int64), np.array(tokens, np.float32) / 7


def answer_alone(prompt, limit, sequence_id, stops):
    """Return the tokens of one answer, without slots and blocks."""
    tokens = []
    while len(tokens) < limit and not (tokens and stops[tokens[-1]]):
        tokens.append(next_token([*prompt, *tokens], sequence_id, len(tokens)))
    return tokens


def stop_table(*tokens):
    """Return a table [V] that is True at ``tokens``."""
    table = np.zeros(VOCAB, bool)
    table[list(tokens)] = True
    return table


class Batch:
    """Sequences led through a scheduler over a hash model; ``answers`` and what happened on the way."""

    def __init__(self, prompts, limits, ids, *, num_blocks, block_tokens=4, stops=(), **how):
        self.paging = Paging(num_blocks, block_tokens)
        sequences = make_sequences(map(np.array, prompts), limits, sequence_ids=ids)
        self.model = HashModel(num_blocks, block_tokens)
        how = {"num_slots": 3, "max_rows": 8, **how}
        self.scheduler = Scheduler(sequences, self.paging, stops=stop_table(*stops), **how)
        self.progress = []
        self.completions = run(self.scheduler, self.model, HashDrawer(), progress=self.progress.append)
        self.answers = [completion.token_ids.tolist() for completion in self.completions]
