"""The executor against plain slicing: bit for bit, in every layout, without a deadlock, a bucket at a time."""

from __future__ import annotations

import random

import numpy as np
import paddle
import pytest

from alignment.architecture.parts import Part, even_cut
from alignment.architecture.reshard_plan import plan_transfers
from alignment.parallel.reshard import Resharder
from alignment.parallel.topology import Topology
from tests.forked_ranks import run_forked

SHAPES = {
    "model.embed_tokens.weight": (7, 6),
    "model.layers.0.a": (6, 5),
    "model.layers.1.a": (9,),
    "lm_head.weight": (3, 4),
}
# A score head stays float32 beside a body in bfloat16.
DTYPES = {
    "float32": dict.fromkeys(SHAPES, "float32"),
    "bfloat16": dict.fromkeys(SHAPES, "bfloat16"),
    "mixed": dict.fromkeys(SHAPES, "bfloat16") | dict.fromkeys(("model.layers.0.a", "lm_head.weight"), "float32"),
}


def whole_tensor(name, dtype):
    numbers = np.random.default_rng(list(SHAPES).index(name)).standard_normal(SHAPES[name])
    return paddle.to_tensor(numbers.astype(np.float32)).astype(dtype)


def random_layout(generator, world_size):
    held = [[] for _ in range(world_size)]
    for name, shape in SHAPES.items():
        axis, pieces = generator.randrange(len(shape)), generator.randint(1, world_size)
        for rank in range(world_size):
            part = Part.whole(name, shape).along(axis, *even_cut(shape[axis], pieces, rank % pieces))
            if part.size:
                held[rank].append(part)
    return held


def exchange(topology, sources, targets, kind, bucket_bytes):
    dtypes = DTYPES[kind]
    local = {p.name: whole_tensor(p.name, dtypes[p.name])[p.slices].clone() for p in sources[topology.rank]}
    resharder = Resharder(plan_transfers(sources, targets), topology, dtypes=dtypes, bucket_bytes=bucket_bytes)
    largest = 0

    def measure(tensor, *arguments):
        nonlocal largest
        largest = max(largest, int(tensor.size) * tensor.element_size())
        return type(topology.world).send(topology.world, tensor, *arguments)

    topology.world.send = measure
    wanted = {part.name: part for part in targets[topology.rank]}
    for _ in range(2):
        names = []
        for name, tensor in resharder.stream(local):
            names.append(name)
            expected = whole_tensor(name, dtypes[name])[wanted[name].slices]
            assert str(tensor.dtype) == f"paddle.{dtypes[name]}"
            np.testing.assert_array_equal(tensor.numpy(), expected.numpy())
            if resharder.plan.is_zero_copy(topology.rank, name):
                assert tensor is local[name]
        assert sorted(names) == sorted(wanted)
        assert names == [name for name in SHAPES if name in wanted], "in the order of the model"
    return largest


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("bucket_bytes", [16, 200, 2**20])
def test_random_layouts_to_random_layouts(kind, bucket_bytes):
    generator = random.Random(bucket_bytes)
    for world_size in (2, 3, 4):
        sources, targets = random_layout(generator, world_size), random_layout(generator, world_size)
        found = run_forked(exchange, world_size, sources, targets, kind, bucket_bytes)
        assert all(isinstance(largest, int) for largest in found), found
        assert max(found) <= bucket_bytes


def test_parts_gathered_on_one_process():
    sources = [[Part.whole(name, SHAPES[name])] for name in SHAPES]
    targets = [[], [], [Part.whole(*item) for item in SHAPES.items()], []]
    found = run_forked(exchange, 4, sources, targets, "float32", 64)
    assert all(isinstance(largest, int) for largest in found), found


def test_one_process_gets_its_own_tensors():
    parts = [Part.whole(*item) for item in SHAPES.items()]
    local = {part.name: whole_tensor(part.name, "float32") for part in parts}
    plan = plan_transfers([parts], [parts])
    found = dict(Resharder(plan, Topology(device="cpu"), dtypes=DTYPES["float32"]).stream(local))
    assert list(found) == list(SHAPES)
    assert all(found[name] is local[name] for name in SHAPES)
