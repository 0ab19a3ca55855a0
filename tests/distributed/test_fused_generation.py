"""The fused engine under tensor parallelism gives the tokens of the eager engine in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from alignment.ops.native.library import find_core
from alignment.parallel.local_ranks import run_ranks
from tests.distributed import ranks_fused
from tests.distributed.ranks_fused import CUDA
from tests.distributed.ranks_generation import FAMILIES

HERE = Path(__file__).parent
pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True, scope="module")
def kernels():
    """Skip where no kernel library can be had."""
    if find_core().core is None:
        pytest.skip(find_core().reason)


def run(function: str, *arguments, layout: Layout):
    target = f"ranks_fused:{function}"
    return run_ranks(target, *arguments, world_size=layout.world_size, search_path=[HERE, HERE.parents[1]])


@pytest.mark.parametrize(
    ("degree", "families"), [(2, tuple(FAMILIES)), (2, (CUDA,)), (4, ("llama", "one kv head"))], ids=["2", "cuda", "4"]
)
def test_every_rank_gets_the_tokens_of_one_process(degree, families):
    layout = Layout(tensor=degree)
    whole = {family: ranks_fused.generate_whole(family) for family in families}
    for by_case in run("generate", layout, families, layout=layout):
        for family in families:
            for kind, wanted in whole[family].items():
                found = by_case[family, kind]
                assert [(f[0], f[2]) for f in found] == [(w[0], w[2]) for w in wanted], (family, kind)
                for one, other in zip(found, wanted, strict=True):
                    np.testing.assert_allclose(one[1], other[1], atol=1e-5)


def test_whole_numbers_as_weights_give_every_rank_the_tokens_of_the_cpu_kernels():
    layout = Layout(tensor=2)
    for wanted, found in run("generate_in_bytes", layout, layout=layout):
        assert [(f[0], f[2]) for f in found] == [(w[0], w[2]) for w in wanted]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one[1], other[1], atol=1e-4)


@pytest.mark.parametrize("family", ["llama", CUDA])
def test_damage_in_one_rank_is_reported_by_all(family):
    layout = Layout(tensor=2)
    messages = run("fail", layout, family, layout=layout)
    assert len(set(messages)) == 1 and "new token 0 are NaN or infinite in 2 of 2 sequences" in messages[0], messages
