"""The CUDA kernels on an emulated device: a C++ compiler builds them for the host, every thread a fiber.

What is not covered: cuBLASLt, graphs, and whatever a device does otherwise than the emulation.
"""

from __future__ import annotations

import ctypes
import shutil
from ctypes import CFUNCTYPE, POINTER, c_float, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignment.ops.native import build
from alignment.ops.native.cuda.kinds import EMULATED


@pytest.fixture(scope="module")
def checks(repo_root: Path) -> Any:
    """The module ``benchmarks/cuda_checks.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repo_root / "benchmarks"))
        import cuda_checks

        yield cuda_checks


@pytest.fixture(scope="module")
def library(checks) -> Any:
    """The emulated library, its threads in ascending order."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    from cuda_library import CudaLibrary, Host

    made = CudaLibrary(build.find_or_build(kind=EMULATED).path, Host())
    made.handle.acu_emulated_order.argtypes = [ctypes.c_uint64]
    return made


FAMILIES = ("llama", "biased", "window", "qwen3", "wide")
SAMPLINGS = (
    *("plain", "greedy", "hot", "top_k", "top_p", "both", "tiny_p", "penalised", "stops", "greedy_restricted"),
)


def test_the_lists_here_are_complete(checks):
    assert set(FAMILIES) == set(checks.FAMILIES)
    assert set(SAMPLINGS) == set(checks.SAMPLINGS)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_cpu_kernels_and_of_a_float64_decoder(library, checks, family):
    checks.check_reference(library, family)


@pytest.mark.parametrize("family", ["biased", "qwen3"])
def test_half_weights_stay_near_the_rounded_decoder(library, checks, family):
    checks.check_halves(library, family)


@pytest.mark.parametrize("family", ["biased", "qwen3"])
def test_whole_numbers_as_weights_give_the_logits_of_the_decoder_that_has_them(library, checks, family):
    checks.check_bytes(library, family)


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_attention_kernels_give_the_same_bits(library, checks, family, kv):
    checks.check_split_and_tiles(library, family, kv)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "window"])
def test_a_row_has_the_same_bits_however_it_is_computed(library, checks, family):
    checks.check_row_invariance(library, family, sizes=(5, 64))


def test_the_decode_loop_draws_what_the_cpu_draws_from_the_logits_of_a_prefill(library, checks, core):
    import cuda_engine

    from alignment.generation.random_numbers import uniform
    from alignment.ops.native.library import Sampling

    drawn = cuda_engine.decode_tokens(library, graph=False)
    prompts = checks.draw_prompts(checks.FAMILIES["llama"], cuda_engine.LOOP_LENGTHS)
    known = [np.concatenate([tokens, drawn[:-1, row]]) for row, tokens in enumerate(prompts.tokens)]
    tables, lengths = np.arange(60).reshape(3, 20), [len(tokens) for tokens in prompts.tokens]
    model = checks.load(library, "llama")
    logits = checks.forward(
        model, checks.Prompts(known, [0, 1, 2], tables), [(i, 0, len(x)) for i, x in enumerate(known)]
    )
    model.close()
    first = np.cumsum([0, *(len(tokens) for tokens in known)])[:3] + np.array(lengths) - 1
    sampling = Sampling(usable_vocab=logits.shape[1], temperature=0.8, top_p=0.9)
    for step, tokens in enumerate(drawn):
        numbers = uniform(3, np.arange(3), np.full(3, step))
        wanted, _ = core.sample(logits[first + step], numbers, sampling)
        assert tokens.tolist() == wanted.tolist(), f"step {step}"


@pytest.mark.parametrize("kv", ["float32", "bfloat16"])
def test_a_copied_block_serves_another_sequence(library, checks, kv):
    checks.check_copied_block(library, kv)


def test_idle_rows_change_nothing(library, checks):
    checks.check_idle_rows(library)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_sampler_draws_the_tokens_of_the_cpu(library, checks, name):
    checks.check_sampler(library, name)


def test_damaged_and_forbidden_rows_are_told_apart(library, checks):
    checks.check_refusals(library)


def test_uniform_numbers_have_the_bits_of_the_specification(library, checks):
    checks.check_philox(library)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_order_of_threads_does_not_matter(library, checks, weights):
    # A missing barrier shows as other bits, or as a thread that reads what is not there yet.
    sizes = checks.FAMILIES["wide"]
    prompts = checks.draw_prompts(sizes, (34, 3))
    model = checks.load(library, "wide", weights=weights)
    wanted = checks.forward(model, prompts, checks.whole(prompts), decode_rows=11)
    try:
        for seed in (1, 2):
            library.handle.acu_emulated_order(seed)
            found = checks.forward(model, prompts, checks.whole(prompts), decode_rows=11)
            assert np.array_equal(found, wanted)
            checks.set_weights(model, checks.draw_weights(sizes))
            checks.check_sampler(library, "both")
            checks.check_sampler(library, "greedy_restricted")
    finally:
        library.handle.acu_emulated_order(0)
        model.close()


def test_advancing_prepares_the_next_step(library):
    put, address = library.memory.put, library.memory.address
    tokens, positions, draws = (
        put(np.zeros(3, np.int32)),
        put(np.array([4, 0, 9], np.int32)),
        put(np.ones(3, np.uint32)),
    )
    marks = put(np.zeros((3, 8), np.uint8))
    seen = put(np.array([address(marks), 0, address(marks) + 16], np.uint64))
    sampled = put(np.array([5, 6, 7], np.int64))
    library.call("acu_advance", 3, *map(address, (sampled, tokens, positions, draws, seen)))
    assert tokens.tolist() == [5, 6, 7] and positions.tolist() == [5, 1, 10] and draws.tolist() == [2, 2, 2]
    assert np.argwhere(marks).tolist() == [[0, 5], [2, 7]]


BAD_ROWS = [
    (dict(tokens=[1, 61]), (1, 0)),
    (dict(tokens=[-1, 1]), (0, 0)),
    (dict(positions=[0, 33]), (1, 1)),
    (dict(positions=[1, 1]), (1, 2)),
    (dict(positions=[0, 32], block_tables=[[0, 1]]), (1, 3)),
    (dict(positions=[0, 17], block_tables=[[0, 128, 2]]), (1, 4)),
    (dict(positions=[0, 17], block_tables=[[-1, 1, 2]]), (0, 4)),
    (dict(slots=[-1, 0], tokens=[99, 1], positions=[99, 0]), None),
]


@pytest.mark.parametrize(("change", "problem"), BAD_ROWS)
def test_bad_rows_are_found(library, checks, change, problem):
    model = checks.load(library, "llama")
    rows = dict(tokens=[1, 2], slots=[0, 0], positions=[0, 1], block_tables=[[0, 1, 2]], logit_rows=[0]) | change
    assert model.problem(model.batch(**rows), longest=33) == problem
    model.close()


def test_impossible_sizes_and_calls_are_refused(library, checks):
    from cuda_library import CudaModel

    limits = dict(max_rows=4, max_decode_rows=4, max_logit_rows=4, row_invariant=0)

    def create(**change):
        return CudaModel(library, checks.FAMILIES["llama"] | change, limits, weights="float32", kv="float32")

    with pytest.raises(RuntimeError, match="head_dim 48 is not 32, 64 or 128"):
        create(head_dim=48)
    with pytest.raises(RuntimeError, match="heads 4 is no multiple of kv_heads 3"):
        create(kv_heads=3)
    with pytest.raises(RuntimeError, match="block_tokens 24 is no multiple of 16"):
        create(block_tokens=24)
    model = create()
    batch = model.batch([1] * 5, [0] * 5, range(5), [[0]], [0])
    with pytest.raises(RuntimeError, match="22 weights of the model were never set"):
        model.forward(batch, decode_rows=0, longest=5)
    with pytest.raises(RuntimeError, match=r"model.norm.weight has shape \[1, 47\], the model needs \[1, 48\]"):
        model.set_weight("model.norm.weight", np.zeros(47, np.float32))
    checks.set_weights(model, checks.draw_weights(checks.FAMILIES["llama"]))
    model.set_rotary(*checks.rotary_tables(checks.FAMILIES["llama"]))
    with pytest.raises(RuntimeError, match=r"rows 5 is not in 0 \.\. 4"):
        model.forward(batch, decode_rows=0, longest=5)
    model.close()


def split(values: np.ndarray, name: str, rank: int) -> np.ndarray:
    """Return the part of a parameter that tensor-parallel ``rank`` of two holds."""
    if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight")):
        return np.ascontiguousarray(np.split(values, 2, axis=0)[rank])
    cut = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
    if any(f"{part}." in name for part in cut):
        return np.ascontiguousarray(np.split(values, 2, axis=-1)[rank])
    return values


def test_two_ranks_sum_to_the_whole(library, checks):
    # Both ranks run in turns, one call of the reduce function further each time, until all sums are known.
    from cuda_library import CudaModel

    whole_sizes = checks.FAMILIES["biased"] | {"vocab": 60}
    halves = {name: whole_sizes[name] // 2 for name in ("heads", "kv_heads", "inner", "vocab")}
    limits = dict(max_rows=40, max_decode_rows=40, max_logit_rows=40, row_invariant=0)
    weights = checks.draw_weights(whole_sizes)
    prompts = checks.draw_prompts(whole_sizes, (20, 9))
    reduce_type = CFUNCTYPE(None, c_void_p, POINTER(c_float), c_int64, c_void_p)
    sums: list[np.ndarray] = []

    def run(rank: int) -> tuple[np.ndarray, np.ndarray | None]:
        calls: list[np.ndarray] = []

        def reduce(_context, data, count, _stream):
            numbers = np.ctypeslib.as_array(data, (count,))
            calls.append(numbers.copy())
            if len(calls) <= len(sums):
                numbers[:] = sums[len(calls) - 1]

        callback = reduce_type(reduce)
        model = CudaModel(library, whole_sizes | halves, limits, weights="float32", kv="float32")
        checks.set_weights(model, {name: split(values, name, rank) for name, values in weights.items()})
        model.set_rotary(*checks.rotary_tables(whole_sizes))
        model.set_vocab_range(rank * 30)
        model.set_reduce(callback)
        logits = checks.forward(model, prompts, checks.whole(prompts))
        model.close()
        return logits, calls[len(sums)] if len(calls) > len(sums) else None

    for _ in range(1 + 2 * whole_sizes["num_layers"]):
        sums.append(sum(run(rank)[1] for rank in range(2)))
    found = np.concatenate([run(rank)[0] for rank in range(2)], axis=1)
    from cuda_reference import logits_of

    tables = checks.rotary_tables(whole_sizes)
    wanted = np.concatenate([logits_of(whole_sizes, weights, tables, tokens) for tokens in prompts.tokens])
    checks.assert_close(found, wanted, 1e-4)
