"""Experts in the kernel library: only the chosen ones are read."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.ops.native.library import CoreLibrary
from tests.unit.ops.core_models import build, draw_prompts, forward, pack, whole

WIDTHS = dict(hidden_size=64, intermediate_size=96)
"""Whole panels of every instruction set."""


def bytes_of(library: CoreLibrary, length: int = 1, **changes: int) -> int:
    """Return the bytes that one pass of one prompt of ``length`` reads."""
    core, prompts = pack(library, build("mixtral", **WIDTHS, **changes)), draw_prompts((length,))
    forward(core, prompts, whole(prompts))
    return core.bytes_read


def test_a_token_reads_the_experts_it_chooses_however_many_there_are(core: CoreLibrary):
    one, two, three = (bytes_of(core, num_experts_per_tok=k) for k in (1, 2, 3))
    expert = 3 * WIDTHS["hidden_size"] * WIDTHS["intermediate_size"] * 4
    assert two - one == three - two == 3 * expert, "three layers"
    assert bytes_of(core, num_experts_per_tok=2, num_local_experts=12) == two
    assert bytes_of(core, num_experts_per_tok=2, length=40) <= two + 3 * 4 * expert, "each of the six once a pass"


@pytest.mark.parametrize("weight_type", ["float32", "bfloat16", "int8"])
def test_experts_that_no_token_chooses_may_hold_anything(core: CoreLibrary, weight_type):
    model, prompts = build("mixtral", num_experts_per_tok=2), draw_prompts((1,))
    packed, spoilt = pack(core, model, weight_type=weight_type), 0
    wanted = forward(packed, prompts, whole(prompts))
    for layer in range(3):
        for expert in range(6):
            name = f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"
            matrix = model.state_dict()[name.replace("mlp", "block_sparse_moe").replace("down_proj", "w2")].numpy()
            for values in (np.full_like(matrix, np.nan), matrix):
                packed.set_weight(name, values.ctypes.data, dtype="float32", shape=values.shape)
                found = forward(packed, prompts, whole(prompts))
                spoilt += not np.isfinite(found).all()
            assert np.array_equal(found, wanted)
    assert spoilt == 3 * 2, "the two chosen ones of each layer"
