"""The workloads of the step benchmark: lengths, counted work, and what each saving is compared with."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_benchmarks import run_benchmark


@pytest.fixture(autouse=True)
def benchmarks(repo_root, monkeypatch):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))


def test_counted_work_of_a_prompt_with_two_answers():
    from ppo_step_flops import FORWARD, TRAINING, Family, Pass, apart, count_bytes, count_flops, padded, shared

    families = [Family(3, (2, 1))]
    together, alone = shared(families), apart(families)
    assert (together.tokens, together.targets, alone.tokens, alone.targets) == (6, 3, 9, 3)
    assert together.pairs == 6 + (6 + 3) + (3 + 1)  # the prompt, then each answer: to the prompt, and to itself
    assert alone.pairs == 15 + 10
    square = padded([[(3, 2), (3, 1)]], is_causal=False)
    assert (square.tokens, square.pairs, square.reads) == (10, 50, 1)
    sizes = {"hidden_size": 2, "intermediate_size": 5, "num_hidden_layers": 3, "vocab_size": 7}
    layer = 4 * 4 + 3 * 2 * 5
    # Two tokens are read from: the prompt's last, which attends to 3, and the first of the first answer, to 4.
    last = 2 * (6 * 8 + 2 * (layer - 8)) + 4 * 7 * 2
    forward = 2 * (2 * 6 * layer + 4 * 19 * 2) + last + 2 * 3 * 2 * 7
    assert shared(families, ends=True).wanted == (2, 5 + 4)
    assert count_flops(sizes, [Pass(square, FORWARD, False)]) == 3 * (2 * 10 * layer + 4 * 50 * 2) + 2 * 3 * 2
    assert count_flops(sizes, [Pass(together, FORWARD, True)]) == forward
    assert count_flops(sizes, [Pass(together, TRAINING, True)]) == 3 * forward
    weights = 3 * layer + 2 * 7
    assert count_bytes(sizes, [Pass(together, FORWARD, True)]) == 4 * weights
    assert count_bytes(sizes, [Pass(together, TRAINING, True)]) == 4 * (4 * weights + 7 * (weights + 2 * 7))


def test_counted_tokens_are_those_that_the_package_computes():
    from ppo_step_cases import CASES
    from ppo_step_counted import passes_of

    from alignment.models.decoder.forest import pack, share_tokens

    work = CASES["b"].make(model="tiny", threads=1)
    prompts, responses = work.prompts(1), work.fixed_responses()
    rows = [np.concatenate([prompts[i // work.answers], response]) for i, response in enumerate(responses)]
    lengths = np.array([*map(len, rows)])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    share_tokens(True)
    try:
        computed = pack(ids, lengths).num_tokens
    finally:
        share_tokens(False)
    counted = passes_of(work)["minimum"]["update"][0].rows.tokens
    assert counted <= computed <= 1.02 * counted  # a prompt much shorter than its answer is not worth sharing


def test_ragged_lengths_have_the_median_and_the_longest():
    from ppo_step_cases import CASES

    work = CASES["b"].make(model="tiny", threads=1)
    for lengths, middle, longest in ((work.prompt_lengths, 192, 1024), (work.response_lengths, 96, 512)):
        assert lengths.max() == longest
        assert np.median(lengths) == pytest.approx(middle, rel=0.05)
    assert [*map(len, work.prompts(1))] == work.prompt_lengths.tolist()
    assert (work.prompts(1)[0] != work.prompts(2)[0]).any()


def test_a_saving_is_compared_with_all_on_and_all_off(tmp_path):
    from ppo_step_cases import CASES
    from ppo_step_savings import cells, measure_savings

    def run(work):
        assert not (work.overrides.get("use_native_ops") is False and "share_prefixes" not in work.overrides)
        return 1.0 + sum(key != "max_tokens_per_batch" for key in work.overrides)

    class Side:
        def __enter__(self):
            from ppo_step_pairs import PairWork

            self.seconds = run(PairWork.read(tmp_path))
            return self

        def __exit__(self, *_):
            pass

        def ask(self, **_):
            return {"seconds": {"step": [9.0, self.seconds]}}

    rows = measure_savings(CASES["c-rm"].make(model="tiny", threads=1), Side, tmp_path, steps=1)
    assert len(rows) == 4  # all, and three that are not of rollouts
    table = {row[0]: row[1:] for row in cells(rows)}
    assert table["all of them"] == ("4.00", "4.00", "1.00", "0.25")
    assert next(v for k, v in table.items() if "packing" in k) == ("2.00", "2.00", "3.00", "0.75")


def test_a_call_of_generate_is_as_long_as_its_longest_prompt_and_answer():
    from ppo_step_counted import call_rows

    # Two answers each: of 2 and 4 tokens to a prompt of 3, and of 1 and 1 to a prompt of 5.
    lengths = {"prompt_lengths": np.array([3, 5]), "response_lengths": np.array([2, 4, 1, 1])}
    work = SimpleNamespace(answers=2, **lengths)
    both, first = call_rows(work, [0, 1]), call_rows(work, [0])
    assert (both.tokens, both.targets, both.reads) == (4 * (5 + 4), 4 * 4, 1)
    assert both.pairs == 4 * (15 + 5 * 4 + 10)  # within the prompt, from the answer to it, within the answer
    assert both.wanted == (4 * 4, 4 * (5 + 3 * 5 + 6))  # the prompt's last token, and the answer's but its last
    assert (first.tokens, first.pairs) == (2 * (3 + 4), 2 * (6 + 3 * 4 + 10))
    assert call_rows(work, [1]).tokens == 2 * (5 + 1)


def test_a_micro_batch_of_pairs_is_padded_to_its_longest_row():
    from ppo_step_counted import pair_rows
    from ppo_step_pairs import Pair

    pairs = [Pair(*map(np.zeros, sizes)) for sizes in ((3, 2, 1), (3, 1, 4))]
    square, causal = (pair_rows(pairs, is_causal=is_causal) for is_causal in (False, True))
    assert (square.tokens, square.targets, square.reads) == (4 * 7, 2 + 1 + 1 + 4, 1) and square.wanted is None
    assert (square.pairs, causal.pairs) == (4 * 7 * 7, 4 * 28)
    assert (causal.tokens, causal.targets) == (square.tokens, square.targets)
    assert pair_rows(pairs[:1], is_causal=True).pairs == 2 * 15


def test_seconds_of_a_part_stand_for_the_whole(monkeypatch):
    import ppo_step_part
    from ppo_step_flops import padded
    from ppo_step_part import Part, pick, spread, whole_seconds

    assert spread(8, 2) == [2, 6] and spread(16, 3) == [2, 8, 13]
    assert spread(4, 0) == spread(4, 4) == spread(4, 9) == [0, 1, 2, 3]
    side = type("Side", (), {})()
    assert whole_seconds(side)({"update": (3.0, 2.0)}) == {"update": (3.0, 2.0)}
    side.part = Part({"hidden_size": 4, "num_hidden_layers": 2, "vocab_size": 9, "intermediate_size": 8})
    chosen = side.part.choose("update", [padded([[(6, 0)] * 4])] * 4, 1)
    assert pick("abcd", chosen) == ["c"] and side.part.shares == {"update": 0.25}
    wall, cpu = iter([10.0, 10.75, 20.0, 20.25]), iter([1.0, 1.5, 3.0, 3.0])  # 1 second in all, .5 of the processor
    monkeypatch.setattr(ppo_step_part, "time", SimpleNamespace(perf_counter=wall.__next__, process_time=cpu.__next__))
    for _ in range(2):
        with side.part.once("update"):
            pass
    assert side.part.whole({"update": (3.0, 2.0), "rollout": (7.0, 6.0)}) == {
        "update": (9.0, 6.5),
        "rollout": (7.0, 6.0),
    }
    side.part.start()
    assert side.part.whole({"update": (3.0, 2.0)}) == {"update": (12.0, 8.0)}


def test_a_part_is_compared_where_it_was_measured():
    from ppo_step_report import Comparison, Outcome

    ours, peer = {"values": [1.0, 2.0], "loss": 3.0}, {"values": [1.5, float("nan")]}
    assert Comparison.of(ours, peer, in_part=True).differences == {"values": 0.5}
    whole = {"values": [1.0, 2.0], "norm": float("nan")}
    found = {"case": "b", "work": None, "seconds": {}, "peaks": {}, "settings": {}, "tolerance": 1e-3}
    assert not Outcome(comparison=Comparison.of(whole, whole), **found).agrees


@pytest.mark.e2e
@pytest.mark.interop
@pytest.mark.rare
@pytest.mark.parametrize("workload", ["b", "c"])
def test_the_sides_agree(repo_root, tmp_path, workload):
    options = ("--workloads", workload, "--models", "tiny", "--steps", "1", "--skip-padded")
    assert "the sides agree within 0.001" in run_benchmark(repo_root, tmp_path, "ppo_step.py", *options).stdout
    written = next(path for path in tmp_path.iterdir() if path.suffix == ".json")
    for outcome in json.loads(written.read_text())["outcomes"]:
        assert set(outcome["seconds"]) == {"paddle/library", "torch/response"} == set(outcome["peaks"])
