"""The kernel library as Python sees it: which one is taken, random numbers, one model's life, errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.generation.random_numbers import uniform
from alignment.ops.native import build
from alignment.ops.native.library import find_core, load_core

SIZES = dict(
    num_layers=1, hidden=8, inner=12, heads=2, kv_heads=1, head_dim=4, vocab=10,
    rms_eps=1e-5, window=0, qk_norm=0, qkv_bias=0, output_bias=0, mlp_bias=0, tied=1,
    block_tokens=16, num_blocks=2, max_positions=32,
)  # fmt: skip
SHAPES = {
    "model.embed_tokens.weight": (10, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (8, 4),
    "model.layers.0.self_attn.v_proj.weight": (8, 4),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.layers.0.mlp.gate_proj.weight": (8, 12),
    "model.layers.0.mlp.up_proj.weight": (8, 12),
    "model.layers.0.mlp.down_proj.weight": (12, 8),
    "model.norm.weight": (8,),
}


def set_weights(model, names=SHAPES):
    numbers = np.random.default_rng(0)
    for name in names:
        array = numbers.normal(size=SHAPES[name]).astype(np.float32)
        model.set_weight(name, array.ctypes.data, dtype="float32", shape=array.shape)


@pytest.fixture
def model(core):
    made = core.create_model(SIZES)
    yield made
    made.close()


@pytest.fixture
def ready(model):
    angles = np.arange(32)[:, None] * np.array([1.0, 0.01])
    model.set_rotary(np.cos(angles), np.sin(angles))
    set_weights(model)
    return model


def forward(model, tokens):
    rows = np.arange(len(tokens), dtype=np.int32)
    return model.forward(
        np.array(tokens), np.zeros_like(rows), rows, block_tables=np.array([[0, 1]]), logit_rows=rows, threads=1
    )


@given(
    seed=st.integers(0, 2**70),
    places=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**33)), min_size=1, max_size=20),
)
def test_random_numbers_are_those_of_the_specification(core, seed, places):
    ids, positions = np.array([p[0] for p in places], np.uint64), np.array([p[1] for p in places], np.uint64)
    assert core.philox_uniform(seed, ids, positions).tobytes() == uniform(seed, ids, positions).tobytes()


def test_random_numbers_of_negative_seeds_and_signed_ids(core):
    ids, positions = np.array([-1, 7], np.int64), np.array([0, 5], np.int64)
    assert core.philox_uniform(-3, ids, positions).tobytes() == uniform(-3, ids, positions).tobytes()


def test_an_unknown_instruction_set_is_refused(core):
    before = core.isa
    with pytest.raises(RuntimeError, match="mmx"):
        core.set_isa("mmx")
    assert core.isa == before


def test_impossible_sizes_are_refused_with_a_sentence(core):
    with pytest.raises(RuntimeError, match="kv_heads"):
        core.create_model({**SIZES, "kv_heads": 3})


def test_weights_are_missing_until_they_are_set(model):
    with pytest.raises(RuntimeError, match="never set"):
        forward(model, [1])
    with pytest.raises(RuntimeError, match="no_such"):
        model.set_weight("no_such.weight", 1, dtype="float32", shape=(8, 8))
    with pytest.raises(RuntimeError, match="q_proj"):
        model.set_weight("model.layers.0.self_attn.q_proj.weight", 1, dtype="float32", shape=(8, 9))


def test_a_whole_model_computes_finite_logits(ready):
    assert ready.num_bytes > 4 * sum(np.prod(shape) for shape in SHAPES.values())
    logits = forward(ready, [1, 2, 3])
    assert logits.shape == (3, 10)
    assert np.isfinite(logits).all()


def test_partial_results_pass_through_reduce(ready):
    plain, counts = forward(ready, [1, 2]), []
    ready.set_reduce(lambda data: counts.append(data.size))
    assert forward(ready, [1, 2]).tobytes() == plain.tobytes()
    assert len(counts) == 3, "embeddings, o_proj, down_proj"
    assert min(counts) >= 2 * 8

    def double(data):
        data *= 2

    ready.set_reduce(double)
    assert not np.array_equal(forward(ready, [1, 2]), plain)
    ready.set_reduce(None)
    assert forward(ready, [1, 2]).tobytes() == plain.tobytes()


def test_an_exception_in_reduce_comes_out_of_forward(ready):
    def fail(data):
        raise ConnectionError("rank 1 is gone")

    ready.set_reduce(fail)
    with pytest.raises(ConnectionError, match="rank 1 is gone"):
        forward(ready, [1])
    ready.set_reduce(None)
    assert np.isfinite(forward(ready, [1])).all()


def test_a_closed_model_is_not_used(core):
    model = core.create_model(SIZES)
    model.close()
    model.close()
    with pytest.raises(AssertionError, match="closed"):
        forward(model, [1])


@pytest.fixture
def search(monkeypatch):
    """Search again, with other answers to where a library is."""

    def search_with(prebuilt, other):
        for name, answer in (("find_prebuilt", prebuilt), ("find_or_build", other)):
            monkeypatch.setattr(build, name, answer)
        find_core.cache_clear()
        return find_core()

    yield search_with
    monkeypatch.undo()
    find_core.cache_clear()


def refuse(message):
    def find():
        raise build.KernelBuildError(message)

    return find


def test_a_prebuilt_library_comes_first(core, search):
    found, reason = search(lambda: build.Library(core.path, "beside"), refuse("not asked"))
    assert (found.path, reason, load_core()) == (core.path, "beside", found)


def test_a_broken_prebuilt_library_is_passed_over_and_named(core, search, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF")
    found, reason = search(lambda: build.Library(broken, "beside"), lambda: build.Library(core.path, "cached"))
    assert found.path == core.path
    assert reason.startswith("cached; ")
    assert "broken.so" in reason


def test_another_library_is_not_taken_for_the_kernels(core, search):
    libm = build.Library("libm.so.6", "beside")
    found, reason = search(lambda: libm, lambda: build.Library(core.path, "cached"))
    assert found.path == core.path
    assert "ac_abi_version" in reason


def test_without_any_library_every_reason_is_given(search):
    assert search(refuse("no prebuilt"), refuse("no C++ compiler")) == (None, "no prebuilt; no C++ compiler")
    assert load_core() is None
