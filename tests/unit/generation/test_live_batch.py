"""Requests that join and leave a running batch get the tokens of the offline engine."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.errors import UserError
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.live import Ask
from alignment.generation.one_by_one import OneByOne
from alignment.ops.native.library import find_core
from tests.tiny_models import tiny_causal

SHAPE = dict(vocab_size=40, hidden_size=32, intermediate_size=48, max_position_embeddings=64)
SHAPE |= dict(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
ENDS = (3,)
KINDS = [
    GenerationOptions(max_new_tokens=23, stop_token_ids=ENDS, temperature=0.9),
    GenerationOptions(max_new_tokens=23, stop_token_ids=ENDS, do_sample=False),
    GenerationOptions(max_new_tokens=9, stop_token_ids=(*ENDS, 7, 11), top_k=10, top_p=0.8, min_new_tokens=4),
    GenerationOptions(max_new_tokens=23, stop_token_ids=ENDS, repetition_penalty=1.3),
]


@pytest.fixture(scope="module")
def model():
    if find_core().core is None:
        pytest.skip(find_core().reason)
    return tiny_causal(std=0.4, **SHAPE)


def fused(model, **settings):
    engine = FusedEngine(model, FusedSettings(**{"block_tokens": 16, **settings}), usable_vocab_size=38)
    engine.load_weights(None, 0)
    return engine


def make_ask(number, *, samples=1, likeliest=0):
    prompt = np.random.default_rng(number).integers(0, 38, 1 + number * 7 % 40)
    return Ask(
        prompts=[prompt] * samples,
        options=KINDS[number % len(KINDS)],
        seed=100 + number,
        sequence_ids=range(samples),
        num_likeliest=likeliest,
    )


class Collected:
    """Answers put together from pieces."""

    def __init__(self, batch):
        self.batch, self.tokens, self.logprobs, self.reasons = batch, {}, {}, {}

    def step(self):
        for piece in self.batch.step():
            key = (piece.ask, piece.choice)
            assert key not in self.reasons, "an answer went on after its end"
            self.tokens.setdefault(key, []).extend(piece.tokens)
            self.logprobs.setdefault(key, []).extend(piece.logprobs)
            if piece.finish_reason:
                self.reasons[key] = piece.finish_reason

    def check(self, ask, engine):
        offline = engine.generate(ask.prompts, ask.options, seed=ask.seed, sequence_ids=ask.sequence_ids)
        for choice, wanted in enumerate(offline):
            key = (ask, choice)
            assert self.tokens[key] == wanted.token_ids.tolist()
            assert self.logprobs[key] == wanted.logprobs.tolist()
            assert self.reasons[key] == wanted.finish_reason


@pytest.mark.parametrize("num_blocks", [200, 6])
def test_answers_do_not_depend_on_what_else_runs(model, num_blocks):
    """With 6 blocks sequences are preempted; every third request leaves early, some while their prompts are read."""
    engine = fused(model, num_slots=6, max_rows=24)
    engine._packed.pool = engine._packed.pool._replace(num_blocks=num_blocks)
    batch = engine.open_batch(ENDS)
    collected, asks, gone = Collected(batch), [make_ask(n, samples=1 + n % 4) for n in range(30)], []
    for number, ask in enumerate(asks):
        batch.submit(ask)
        if number % 3 == 2:
            collected.step()
        if number % 3 == 0:
            gone.append(ask)
        if len(gone) == 2:
            batch.cancel(gone[0])
            batch.cancel(gone.pop(0))
    batch.cancel(gone.pop())
    while batch.num_running:
        collected.step()
    stayed = [ask for number, ask in enumerate(asks) if number % 3]
    for ask in stayed:
        collected.check(ask, engine)
    paging = batch._scheduler._paging
    assert paging.num_free == paging.num_blocks
    assert (batch.counts.preemptions > 0) == (num_blocks == 6)


def test_the_likeliest_tokens_are_told(model):
    batch = fused(model).open_batch(ENDS)
    ask = make_ask(1, likeliest=3)
    batch.submit(ask)
    [piece] = batch.step()
    [likeliest] = piece.likeliest
    assert likeliest[0] == (piece.tokens[0], pytest.approx(piece.logprobs[0], abs=1e-5)), "greedy takes the first"
    assert [logprob for _, logprob in likeliest] == sorted((logprob for _, logprob in likeliest), reverse=True)
    assert len(likeliest) == 3


def test_a_prompt_that_does_not_fit_is_refused_and_leaves_nothing(model):
    batch = fused(model).open_batch(ENDS)
    options = GenerationOptions(max_new_tokens=12)
    for prompt, said in (([], "is empty"), ([99], "holds token id 99"), ([1] * 60, "together at most 64")):
        with pytest.raises(UserError, match=said):
            batch.submit(Ask(prompts=[np.array(prompt, np.int64)], options=options, seed=1, sequence_ids=[0]))
    assert batch.num_running == 0


def test_one_by_one_gives_the_same_answers(model):
    engine = fused(model)
    batch = OneByOne(engine)
    collected, asks = Collected(batch), [make_ask(n, samples=2) for n in range(4)]
    for ask in asks:
        batch.submit(ask)
    batch.cancel(asks[0])
    assert batch.num_running == 6
    while batch.num_running:
        collected.step()
    for ask in asks[1:]:
        collected.check(ask, engine)
    assert not [key for key in collected.tokens if key[0] is asks[0]]
