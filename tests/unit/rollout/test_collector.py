"""Handing the engine fewer rows at a time changes neither the order nor the random numbers."""

import numpy as np

from alignment.generation.engine import GenerationOptions
from alignment.records import Completion
from alignment.rollout.collector import Collector


class _Echo:
    """Answers with the sequence id, and remembers how many rows came at once."""

    def __init__(self):
        self.sizes, self.seeds = [], []

    def generate(self, prompts, options, *, seed, sequence_ids):
        self.sizes.append(len(prompts))
        self.seeds.append(seed)
        return [
            Completion(np.array([number] * (1 + number % 2)), np.full(1 + number % 2, -float(number)), "stop")
            for number in sequence_ids
        ]


def _collect(rows_per_call, repeats=2):
    engine = _Echo()
    collector = Collector(
        engine, GenerationOptions(max_new_tokens=2), num_return_sequences=2, seed=1, rows_per_call=rows_per_call
    )
    prompts = [{"input_ids": [i], "raw_input": str(i)} for i in range(3)]
    return engine.sizes, [collector.collect(prompts, policy_version=0) for _ in range(repeats)]


def test_pieces_give_the_same_rollout():
    (whole_sizes, whole), (sizes, pieces) = _collect(None), _collect(4)
    assert (whole_sizes, sizes) == ([6, 6], [4, 2, 4, 2])
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(a.rollout_logprobs, b.rollout_logprobs)
        assert [r.tolist() for r in a.responses] == [r.tolist() for r in b.responses]
        assert a.group_ids.tolist() == [0, 0, 1, 1, 2, 2]


def test_sequences_are_counted_over_the_whole_run():
    _, [first, second] = _collect(None)
    assert [r[0] for r in (*first.responses, *second.responses)] == list(range(12))


def test_the_seed_and_the_labels_arrive():
    engine = _Echo()
    collector = Collector(engine, GenerationOptions(max_new_tokens=2), num_return_sequences=2, seed=77)
    prompts = [{"input_ids": [1], "raw_input": "a", "label": "x"}, {"input_ids": [1], "raw_input": "b"}]
    rollout = collector.collect(prompts, policy_version=5)
    assert rollout.labels == ("x", "x", None, None)
    assert rollout.inputs == ("a", "a", "b", "b")
    assert (engine.seeds, rollout.policy_version, collector.num_sequences) == ([77], 5, 4)


def test_greedy_responses_are_one_a_prompt_and_take_no_random_number():
    class _Greedy(_Echo):
        def generate(self, prompts, options, **rest):
            assert options.do_sample == (len(prompts) != 3)
            return super().generate(prompts, options, **rest)

    collector = Collector(_Greedy(), GenerationOptions(max_new_tokens=2), num_return_sequences=2, seed=1)
    prompts = [{"input_ids": [i], "raw_input": str(i)} for i in range(3)]
    collector.collect(prompts, policy_version=0)
    greedy = collector.collect_greedy(prompts, policy_version=0)
    assert greedy.group_ids.tolist() == [0, 1, 2] and greedy.inputs == ("0", "1", "2")
    assert collector.num_sequences == 6
