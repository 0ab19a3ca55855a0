"""The fused engine under tensor parallelism gives the tokens of the eager engine in one process."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from alignment.generation.fused.capabilities import cuda_obstacle, model_obstacle
from alignment.ops.native.library import find_core
from alignment.records import NO_EXPERT
from tests.distributed import ranks_fused
from tests.distributed.ranks_fused import CUDA, MIXTURES
from tests.distributed.ranks_generation import FAMILIES
from tests.distributed.ranks_together import run_together

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True, scope="module")
def kernels():
    """Skip where no kernel library can be had."""
    if find_core().core is None:
        pytest.skip(find_core().reason)


TWO, FOUR, EXPERTS = Layout(tensor=2), Layout(tensor=4), Layout(tensor=2, expert=2)
FAMILIES_OF = {
    "2": tuple(FAMILIES),
    "experts": MIXTURES,
    "cuda": (CUDA,),
    "4": ("one kv head", "norms of all heads"),
}


@cache
def ranks_of(layout: Layout) -> dict[str, tuple]:
    """Return what every rank of a layout did, by name."""
    calls = {
        "2": ("generate", FAMILIES_OF["2"]),
        "cuda": ("generate", FAMILIES_OF["cuda"]),
        "experts": ("generate", FAMILIES_OF["experts"]),
        "bytes": ("generate_in_bytes",),
        "drafts": ("generate_with_drafts",),
        "longrope": ("generate_longrope",),
        "fail": ("fail", "llama"),
        "fail cuda": ("fail", CUDA),
    }
    if layout == FOUR:
        calls = {"4": ("generate", FAMILIES_OF["4"])}
    written = [
        (f"ranks_fused:{function}", EXPERTS if name == "experts" else layout, *arguments)
        for name, (function, *arguments) in calls.items()
    ]
    return dict(zip(calls, run_together(layout, written), strict=True))


@pytest.mark.parametrize(("layout", "name"), [(TWO, "2"), (TWO, "experts"), (TWO, "cuda"), (FOUR, "4")])
def test_every_rank_gets_the_tokens_of_one_process(layout, name):
    whole = {family: ranks_fused.generate_whole(family) for family in FAMILIES_OF[name]}
    for by_case in ranks_of(layout)[name]:
        for family in FAMILIES_OF[name]:
            for kind, wanted in whole[family].items():
                found = by_case[family, kind]
                assert [(f[0], f[2]) for f in found] == [(w[0], w[2]) for w in wanted], (family, kind)
                for one, other in zip(found, wanted, strict=True):
                    np.testing.assert_allclose(one[1], other[1], atol=1e-5)
                    check_experts(one[3], other[3], records=family in MIXTURES)


def check_experts(found, wanted, *, records):
    assert (found is not None) == (wanted is not None) == records
    if records:  # of the last layer's prompt tokens the kernels compute only those that predict
        known = found != NO_EXPERT[found.dtype.name]
        assert np.array_equal(found[known], wanted[known]) and known[:-1, [0, 2, 3]].all() and not known[:, 1].any()


def test_whole_numbers_as_weights_give_every_rank_the_tokens_of_the_cpu_kernels():
    for wanted, found in ranks_of(TWO)["bytes"]:
        assert [(f[0], f[2]) for f in found] == [(w[0], w[2]) for w in wanted]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one[1], other[1], atol=1e-4)


def test_drafts_change_no_bit_of_any_type_of_weights():
    first, *others = ranks_of(TWO)["drafts"]
    assert all(other == first for other in others)
    for wanted, found, again, drafted, accepted in first.values():
        assert found == wanted and again == wanted
        assert 20 < accepted <= drafted


def test_prompts_beyond_longropes_old_context_with_every_type_of_weights_and_drafts():
    first, second = ranks_of(TWO)["longrope"]
    assert first == second
    for plain, drafted, again, accepted in first.values():
        assert plain == drafted == again and accepted > 20
    for found, wanted in zip(first["float32"][0], ranks_fused.longrope_whole(), strict=True):
        assert (found[0], found[2]) == (wanted[0], wanted[2])
        np.testing.assert_allclose(found[1], wanted[1], atol=1e-5)


@pytest.mark.parametrize("name", ["fail", "fail cuda"])
def test_damage_in_one_rank_is_reported_by_all(name):
    messages = ranks_of(TWO)[name]
    assert len(set(messages)) == 1 and "new token 0 are NaN or infinite in 2 of 2 sequences" in messages[0], messages


def test_what_the_kernels_lack_is_said_in_one_line():
    config = ranks_fused.config_of("norms of sums")
    assert model_obstacle(config) is None
    assert cuda_obstacle(config) == (
        "the CUDA kernels cannot compute activation=relu, embedding_size, feed_forward=plain, learned_positions, "
        "norm=layer, norm_bias, norms_sums of this opt model"
    )
