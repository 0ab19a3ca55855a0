"""Generation in a layout gives the tokens of one process."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from tests.distributed import ranks_generation
from tests.distributed.ranks_generation import FAMILIES, OPTIONS
from tests.distributed.ranks_together import run_together

pytestmark = pytest.mark.distributed

EVERYTHING = tuple(FAMILIES)
LAYOUTS = {
    "TP2": (Layout(tensor=2), EVERYTHING),
    "PP2": (Layout(pipeline=2), EVERYTHING),
    "DP2": (Layout(data=2), ("llama",)),
    "PP2 interleaved": (Layout(pipeline=2, virtual_stages=2), ("qwen2", "qwen3", "shared expert")),
    "TP4": (Layout(tensor=4), ("one kv head", "norms of all heads")),
    "PP4": (Layout(pipeline=4), ("qwen2", "window")),
    "TP2xPP2": (Layout(tensor=2, pipeline=2), ("one kv head", "qwen2", "qwen3")),
    "PP2xDP2": (Layout(pipeline=2, data=2), ("llama", "qwen2")),
    "TP2xSh2": (Layout(tensor=2, sharding=2), ("qwen3",)),
}
BESIDES = {
    "TP2": {"messages": ("count_messages",)},
    "PP2": {"few rows": ("generate", ["llama"], 3)},
    "DP2": {"fail": ("fail",), "ask": ("ask_main", False), "ask in vain": ("ask_main", True)},
    "TP2xPP2": {"fail": ("fail",)},
    "PP2xDP2": {"fail": ("fail",)},
}
"""What the same processes do after they have generated: function and arguments but for the layout, by name."""


@cache
def one_process(family: str, kind: str) -> list[tuple]:
    return ranks_generation.generate_whole(family, kind)


@cache
def ranks_of(name: str) -> dict[str, tuple]:
    """Return what every rank of a layout did, by name; "generate" is there in all."""
    layout, families = LAYOUTS[name]
    calls = {"generate": ("generate", families), **BESIDES.get(name, {})}
    written = [(f"ranks_generation:{function}", layout, *arguments) for function, *arguments in calls.values()]
    return dict(zip(calls, run_together(layout, written), strict=True))


def check(found: list[tuple], wanted: list[tuple]) -> None:
    assert [f[0] for f in found] == [w[0] for w in wanted]
    assert [f[2] for f in found] == [w[2] for w in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one[1], other[1], atol=1e-5)
        assert (one[3] is None) == (other[3] is None)
        assert other[3] is None or np.array_equal(one[3], other[3]), "every layer's experts, whichever stage has it"


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_rank_gets_the_tokens_of_one_process(name):
    for by_case in ranks_of(name)["generate"]:
        for family in LAYOUTS[name][1]:
            for kind in OPTIONS:
                check(by_case[family, kind], one_process(family, kind))
            check(by_case[family, "few"], one_process(family, "sampled")[:1])


def test_fewer_rows_at_a_time_give_the_same_tokens():
    for by_case in ranks_of("PP2")["few rows"]:
        for kind in OPTIONS:
            check(by_case["llama", kind], one_process("llama", kind))


def test_greedy_decoding_never_brings_logits_together():
    for counted in ranks_of("TP2")["messages"]:
        assert "all_gather" not in counted["greedy"] and counted["greedy"]["all_reduce"] > 0
        assert counted["sampled"]["all_gather"] > 0


@pytest.mark.parametrize(("name", "rows"), [("DP2", 3), ("PP2xDP2", 2), ("TP2xPP2", 4)])
def test_an_error_in_one_replica_is_raised_in_every_process(name, rows):
    """``rows``: those that the damaged last replica runs at once."""
    refused, damaged = zip(*ranks_of(name)["fail"], strict=True)
    assert set(refused) == {"UserError: prompt 5 holds token id 41; the model's vocabulary is 0 to 40"}
    assert len(set(damaged)) == 1
    assert damaged[0].startswith(
        f"NotFiniteError: the model's logits for new token 0 are NaN or infinite in {rows} of {rows} sequences"
    )


def test_only_the_first_process_asks_the_reward_function():
    first, second = ranks_of("DP2")["ask"]
    assert (first["calls"], second["calls"]) == ([2], [])
    assert first["values"] == second["values"] == [1.0, 2.0]
    first, second = ranks_of("DP2")["ask in vain"]
    assert (first["calls"], second["calls"]) == ([2, 2], [])
    assert first["error"] == second["error"]
    assert first["error"].startswith("RewardError: f failed 2 times, last: ConnectionError: broken (")


def test_the_cases_differ():
    answers = {str([tokens for tokens, *_ in one_process(f, k)]) for f in FAMILIES for k in OPTIONS}
    assert len(answers) == len(FAMILIES) * len(OPTIONS)
    reasons = {reason for _, _, reason, _ in one_process("llama", "sampled")}
    assert reasons == {"stop", "length"}
