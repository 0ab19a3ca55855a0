"""Optimizer state: whatever layout wrote it, any other reads its own part of it, bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignment.architecture.parts import Part, even_cut
from alignment.errors import CheckpointError
from alignment.parallel.comms.group import ALONE
from alignment.training.parts_io import read_state, share_parts, state_part, write_state
from tests.forked_ranks import run_forked

SHAPES = {"model.embed_tokens.weight": (7, 4), "model.layers.0.o_proj.weight": (8, 6), "model.norm.weight": (4,)}
FIELDS = ("moment1_0", "moment2_0", "master")
LAYOUTS = {"TP1": (1, 1), "TP2": (2, 1), "Sh2xTP2": (2, 2), "Sh4": (1, 4), "Sh3": (1, 3), "Sh2xTP2 in five": (2, 2)}
"""Tensor degree and sharding degree."""


def parts_of(layout, rank):
    """The weights are cut along their last axis (the norm is not), then by rows; a fifth process is a copy."""
    tensor, sharding = LAYOUTS[layout]
    row, column = divmod(rank % (tensor * sharding), tensor)
    parts = {}
    for name, shape in SHAPES.items():
        part = Part.whole(name, shape)
        if len(shape) == 2:
            part = part.along(1, *even_cut(shape[1], tensor, column))
        part = part.along(0, *even_cut(shape[0], sharding, row))
        if part.size:
            parts[name] = part
    return parts


def whole_state():
    generator = np.random.default_rng(0)
    state = {f"{n}/{f}": generator.standard_normal(s).astype(np.float32) for n, s in SHAPES.items() for f in FIELDS}
    powers = {f"{name}/beta1_pow_acc_0": generator.random(1).astype(np.float32) for name in SHAPES}
    return {**state, **powers, "num_updates": np.array([3], np.int64)}


def state_of(parts):
    found = {}
    for key, array in whole_state().items():
        name = key.rpartition("/")[0]
        if name in parts or not name:
            found[key] = array[state_part(key, array.shape, parts).slices]
    return found


def write(topology, folder, layout):
    parts = parts_of(layout, topology.rank)
    write_state(folder, "policy_optimizer", state_of(parts), parts=parts, world=topology.world)


def num_processes(layout):
    return 5 if "five" in layout else LAYOUTS[layout][0] * LAYOUTS[layout][1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_by_every_other(tmp_path, layout):
    assert run_forked(write, num_processes(layout), tmp_path, layout) == [None] * num_processes(layout)
    files = [load_file(path) for path in tmp_path.glob("*.safetensors")]
    total = sum(array.nbytes for array in whole_state().values())
    assert sum(array.nbytes for file in files for array in file.values()) == total, "everything is written once"
    for other in LAYOUTS:
        for rank in range(num_processes(other)):
            parts = parts_of(other, rank)
            found = read_state(tmp_path, "policy_optimizer", parts=parts, known=SHAPES)
            expected = state_of(parts)
            assert found.keys() == expected.keys()
            for key, array in expected.items():
                assert found[key].dtype == array.dtype
                np.testing.assert_array_equal(found[key], array, err_msg=f"{layout} to {other}, {key}")
    whole = read_state(tmp_path, "policy_optimizer")
    assert whole.keys() == whole_state().keys()
    assert all(np.array_equal(whole[key], array) for key, array in whole_state().items())


def test_one_process_writes_the_file_it_always_wrote(tmp_path):
    write_state(tmp_path, "a", whole_state(), parts=parts_of("TP1", 0), world=ALONE)
    save_file(whole_state(), tmp_path / "b.safetensors")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.safetensors", "b.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_copies_share_the_writing():
    parts = [Part.whole(f"{i}/moment1_0", (10 + i, 3)) for i in range(20)]
    shares = share_parts([parts, parts, parts])
    assert sorted(part.name for share in shares for part in share) == sorted(part.name for part in parts)
    sizes = [sum(part.size for part in share) for share in shares]
    assert max(sizes) - min(sizes) <= parts[-1].size


@pytest.fixture
def written(tmp_path):
    run_forked(write, 4, tmp_path, "Sh2xTP2")
    return tmp_path


def test_state_of_another_model_is_refused(written):
    parts = parts_of("TP2", 0)
    with pytest.raises(CheckpointError, match=r"holds 'model\.norm\.weight', which is not a parameter of this model"):
        del parts["model.norm.weight"]
        read_state(written, "policy_optimizer", parts=parts, known=parts)
    with pytest.raises(CheckpointError, match=r"norm\.weight/moment1_0 has shape \[4\], this model needs \[9\]"):
        parts["model.norm.weight"] = Part.whole("model.norm.weight", (9,))
        read_state(written, "policy_optimizer", parts=parts, known=parts)


def test_a_damaged_index_or_file_is_named(written):
    index = written / "policy_optimizer.parts.json"
    content = json.loads(index.read_text())
    lost = content["files"].pop("policy_optimizer-00002.safetensors")
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="nobody holds all of"):
        read_state(written, "policy_optimizer")
    assert lost
    index.write_text('{"files": {"x": 3}}')
    with pytest.raises(CheckpointError, match=r"parts\.json is damaged"):
        read_state(written, "policy_optimizer")
    index.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*policy_optimizer"):
        read_state(written, "policy_optimizer")


def _of_sizes(*sizes):
    return [Part.whole(f"tensor {number}", (size,)) for number, size in enumerate(sizes)]


def _sizes(shares):
    return [[part.size for part in share] for share in shares]


def test_what_all_hold_is_shared_from_the_largest_on_so_that_nobody_writes_much_more():
    held = _of_sizes(3, 3, 5)
    assert _sizes(share_parts([held, held])) == [[5], [3, 3]]
    assert _sizes(share_parts([held, held, held])) == [[5], [3], [3]]


def test_what_one_process_holds_alone_it_writes_itself_and_the_others_take_the_rest():
    first, second, third = _of_sizes(9, 2, 2)
    assert _sizes(share_parts([[first, second, third], [second, third]])) == [[9], [2, 2]]
    assert _sizes(share_parts([[second], [second]])) == [[2], []]
