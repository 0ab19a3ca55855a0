"""The comparison of two engines: only a draw on a boundary may part them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from tests.tiny_models import tiny_causal
from tests.unit.generation import boundaries
from tests.unit.generation.boundaries import Draws

OPTIONS = GenerationOptions(max_new_tokens=6)
PROMPTS = [[number, 3] for number in range(8)]


@pytest.fixture(scope="module")
def asked():
    """The draws and what the eager engine answers."""
    model = tiny_causal(std=0.4, vocab_size=40, hidden_size=16)
    engine = EagerEngine(model)
    engine.load_weights(None, 0)
    answers = engine.generate(PROMPTS, OPTIONS, seed=1, sequence_ids=range(len(PROMPTS)))
    return Draws(model, PROMPTS, OPTIONS), answers


def with_row_5(answers, **changes):
    return [*answers[:5], replace(answers[5], **changes), *answers[6:]]


def test_equal_answers_are_the_same(asked):
    draws, answers = asked
    draws.assert_same(answers, answers, atol=0)


@pytest.mark.parametrize("kind", ["another token", "another log-prob", "an early end", "another reason"])
def test_other_answers_are_not(kind, asked):
    draws, answers = asked
    row = answers[5]
    changes = {
        "another token": {"token_ids": (row.token_ids + np.arange(6) // 5) % 40},
        "another log-prob": {"logprobs": row.logprobs + np.float32(2e-4)},
        "an early end": {"token_ids": row.token_ids[:-1], "logprobs": row.logprobs[:-1]},
        "another reason": {"finish_reason": "stop"},
    }
    with pytest.raises(AssertionError):
        draws.assert_same(with_row_5(answers, **changes[kind]), answers, atol=1e-4)


def test_a_token_across_a_boundary_is_allowed_and_nothing_behind_it_compared(asked, monkeypatch):
    draws, answers = asked
    monkeypatch.setattr(boundaries, "WIDTH", 0.01)
    found = ((step, draws._draw_around(5, answers[5].token_ids[:step])) for step in range(5))
    step, around = next((step, tokens) for step, tokens in found if len(tokens) == 2)
    tokens = answers[5].token_ids.copy()
    (other,) = around - {int(tokens[step])}
    tokens[step:] = [other, *[0] * (5 - step)]
    parted = with_row_5(answers, token_ids=tokens)
    draws.assert_same(parted, answers, atol=1e-4)
    monkeypatch.undo()
    with pytest.raises(AssertionError, match=f"row 5 differs at token {step}"):
        draws.assert_same(parted, answers, atol=1e-4)
