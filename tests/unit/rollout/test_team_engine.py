"""Prompts are split in order, completions come back in order; see also ``tests/distributed/test_generation.py``."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alignment.errors import UserError
from alignment.generation.engine import GenerationOptions
from alignment.parallel.comms.group import ALONE
from alignment.records import Completion
from alignment.rollout.team_engine import TeamEngine

CONFIG = SimpleNamespace(vocab_size=50, longest_sequence=20, angle_limit=None)
OPTIONS = GenerationOptions(max_new_tokens=3)


class _Echo:
    """Answers with the sequence id."""

    def __init__(self):
        self.seen, self.loaded = [], None

    def load_weights(self, weights, version):
        self.loaded = (weights if weights is None else dict(weights), version)

    def generate(self, prompts, options, *, seed, sequence_ids):
        self.seen.append([list(prompt) for prompt in prompts])
        return [Completion(np.array([number]), np.zeros(1, np.float32), "stop") for number in sequence_ids]

    def release(self):
        self.loaded = None


class _Replicas:
    """Two replicas, of which this is number ``index``; the other one gives ``other``."""

    size = 2

    def __init__(self, index, other):
        self.index, self._other = index, other

    def gather_objects(self, value, what=""):
        other = None if what == "did all succeed" else self._other
        return [value, other] if self.index == 0 else [other, value]


def _numbers(completions):
    return [completion.token_ids.tolist() for completion in completions]


@pytest.mark.parametrize("index", [0, 1])
def test_each_replica_has_its_share_and_all_have_all(index):
    other = [Completion(np.array([99]), np.zeros(1, np.float32), "stop")]
    engine = _Echo()
    team = TeamEngine(engine, _Replicas(index, other), config=CONFIG)
    prompts = [[1], [2, 2], [3]]
    completions = team.generate(prompts, OPTIONS, seed=0, sequence_ids=range(10, 13))
    assert engine.seen == [[[1], [2, 2]] if index == 0 else [[3]]]
    assert _numbers(completions) == ([[10], [11], [99]] if index == 0 else [[99], [12]])


def test_a_replica_without_prompts_still_hears_the_others():
    engine = _Echo()
    other = [Completion(np.array([99]), np.zeros(1, np.float32), "stop")]
    team = TeamEngine(engine, _Replicas(1, other), config=CONFIG)
    assert _numbers(team.generate([[1]], OPTIONS, seed=0, sequence_ids=[5])) == [[99]]
    assert engine.seen == []


def test_a_bad_prompt_is_named_by_its_number_among_all():
    team = TeamEngine(_Echo(), _Replicas(0, []), config=CONFIG)
    with pytest.raises(UserError, match="prompt 2 is empty"):
        team.generate([[1], [2], []], OPTIONS, seed=0, sequence_ids=range(3))


def test_alone_it_is_its_engine():
    engine = _Echo()
    team = TeamEngine(engine, ALONE, config=CONFIG)
    assert team.num_replicas == 1
    team.load_weights([("a", 1)], 4)
    assert engine.loaded == ({"a": 1}, 4)
    assert _numbers(team.generate([[1], [2]], OPTIONS, seed=0, sequence_ids=[7, 8])) == [[7], [8]]
    assert team.generate([], OPTIONS, seed=0, sequence_ids=[]) == []
    team.release()
    assert engine.loaded is None


def test_weights_go_through_the_layout_of_the_rollout():
    engine = _Echo()
    doubled = SimpleNamespace(stream=lambda local: ((name, 2 * value) for name, value in local.items()))
    team = TeamEngine(engine, ALONE, config=CONFIG, weights=doubled)
    team.load_weights([("a", 1), ("b", 2)], 1)
    assert engine.loaded == ({"a": 2, "b": 4}, 1)
    with pytest.raises(AssertionError, match="must be given"):
        team.load_weights(None, 2)
