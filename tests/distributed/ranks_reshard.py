"""What each rank does in ``test_reshard.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from alignment.architecture.cuts import parts_of_rank, whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part, even_cut
from alignment.architecture.reshard_plan import plan_transfers
from alignment.parallel.initialise import initialise
from alignment.parallel.reshard import Resharder
from alignment.parallel.topology import Topology

NUM_RANKS = 4
SHAPE = {
    "vocab_size": 43,
    "hidden_size": 32,
    "intermediate_size": 50,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def parts_in(layout: Layout, config: DecoderConfig) -> list[list[Part]]:
    """Return what every rank of ``layout`` keeps; in sharding stage 3 its rows."""
    held = []
    for rank in range(NUM_RANKS):
        parts = parts_of_rank(config, "causal", layout, rank)
        if layout.sharding_stage == 3:
            index = rank // layout.tensor % layout.sharding
            parts = [part.along(0, *even_cut(part.extent[0], layout.sharding, index)) for part in parts]
        held.append([part for part in parts if part.size])
    return held


def whole_model(config: DecoderConfig, dtype: str) -> dict[str, paddle.Tensor]:
    """Return the same numbers on every rank."""
    generator = np.random.default_rng(0)
    return {
        name: paddle.to_tensor(generator.standard_normal(shape).astype(np.float32)).astype(dtype)
        for name, shape in whole_shapes(config, "causal").items()
    }


def reshard_all(cases: Sequence[tuple[dict, Layout, Layout]], bucket_bytes: int) -> list[dict[str, Any]]:
    """Carry out every case in both dtypes; return how many tensors came out other than they should, and bytes."""
    topology = initialise(device="cpu", seed=1, layout=Layout(tensor=2, pipeline=2))
    return [
        reshard(topology, DecoderConfig.from_dict({**SHAPE, **changes}), source, target, dtype, bucket_bytes)
        for changes, source, target in cases
        for dtype in ("float32", "bfloat16")
    ]


def reshard(
    topology: Topology, config: DecoderConfig, source: Layout, target: Layout, dtype: str, bucket_bytes: int
) -> dict[str, Any]:
    """Move one model from layout to layout."""
    plan = plan_transfers(parts_in(source, config), parts_in(target, config))
    whole = whole_model(config, dtype)
    local = {name: whole[name][part.slices].clone() for name, part in plan.sources[topology.rank].items()}
    before = sent_bytes(topology)
    wrong = list(plan.targets[topology.rank])
    resharder = Resharder(plan, topology, dtypes=dict.fromkeys(whole, dtype), bucket_bytes=bucket_bytes)
    for name, tensor in resharder.stream(local):
        expected = whole[name][plan.targets[topology.rank][name].slices]
        if tensor.dtype == expected.dtype and np.array_equal(tensor.numpy(), expected.numpy()):
            wrong.remove(name)
    size = 2 if dtype == "bfloat16" else 4
    planned = sum(row.num_bytes for row in plan.table(size) if row.source == topology.rank != row.target)
    return {"wrong": wrong, "sent": sent_bytes(topology) - before, "planned": planned, "totals": plan.totals(size)}


def sent_bytes(topology: Topology) -> int:
    """Return what this rank has sent so far."""
    return sum(row[-1] for row in topology.link.traffic.rows() if row[2] == "send")
