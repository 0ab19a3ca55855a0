"""The forward of the kernel library: against the decoder, and a row computed in one way against the other ways."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.ops.native.core_model import CoreModel
from alignment.ops.native.library import CoreLibrary
from tests.unit.ops.core_models import (
    FAMILIES,
    ISAS,
    Prompts,
    build,
    by_steps,
    draw_prompts,
    expected,
    forward,
    pack,
    rotary_tables,
    sizes_of,
    try_isa,
    whole,
)


@pytest.fixture(scope="module")
def library(core: CoreLibrary) -> CoreLibrary:
    """The kernel library; tests call one of its models ``core``."""
    return core


@pytest.fixture
def best_isa(library: CoreLibrary):
    """Put the instruction set back."""
    best = library.isa
    yield best
    library.set_isa(best)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("isa", ISAS)
def test_logits_are_those_of_the_decoder(library, best_isa, family, isa):
    try_isa(library, isa)
    model, prompts = build(family), draw_prompts()
    wanted = expected(model, prompts)
    assert wanted.std() > 0.5
    np.testing.assert_allclose(forward(pack(library, model), prompts, whole(prompts)), wanted, atol=1e-4)
    np.testing.assert_allclose(by_steps(pack(library, model), prompts, 1), wanted, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weight_type", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_row_has_the_same_bits_however_it_is_computed(library, best_isa, family, weight_type, isa):
    try_isa(library, isa)
    model, prompts = build(family), draw_prompts()
    kv_type = "float32" if weight_type == "float32" else "bfloat16"

    def fresh():
        return pack(library, model, weight_type=weight_type, kv_type=kv_type)

    wanted = forward(fresh(), prompts, whole(prompts))
    assert np.isfinite(wanted).all()
    for chunk in (1, 3, 16, 23):
        assert np.array_equal(by_steps(fresh(), prompts, chunk), wanted), f"chunks of {chunk}"
    assert np.array_equal(forward(fresh(), prompts, whole(prompts), threads=2), wanted), "two threads"
    assert np.array_equal(by_steps(fresh(), prompts, 5, threads=3), wanted), "three threads"
    moved = draw_prompts(seed=0)._replace(slots=draw_prompts(seed=3).slots)
    moved = moved._replace(block_tables=draw_prompts(seed=3).block_tables)
    alone = fresh()
    rows = [forward(alone, moved, [span]) for span in whole(moved)]
    assert np.array_equal(np.concatenate(rows), wanted), "alone, in other slots and blocks"
    blocks = draw_prompts(block_tokens=48)
    wide = pack(library, model, weight_type=weight_type, kv_type=kv_type, block_tokens=48)
    assert np.array_equal(forward(wide, blocks, whole(blocks)), wanted), "blocks of 48 tokens"


def test_rows_without_logits_change_nothing(library):
    model, prompts = build("qwen3"), draw_prompts()
    wanted = forward(pack(library, model), prompts, whole(prompts))
    tokens, lengths = np.concatenate(prompts.tokens), [len(t) for t in prompts.tokens]
    rows = (tokens, np.repeat(prompts.slots, lengths), np.concatenate([np.arange(n) for n in lengths]))
    core = pack(library, model)
    for asked in ([], [5], [40, 3, 3, len(tokens) - 1], np.cumsum(lengths) - 1):
        logit_rows = np.array(asked, np.int64)
        logits = core.forward(*rows, block_tables=prompts.block_tables, logit_rows=logit_rows, threads=1)
        assert np.array_equal(logits, wanted[logit_rows])


def round_matrices(model: CausalLM) -> None:
    """Replace every matrix of ``model`` by what bfloat16 keeps of it."""
    for _, parameter in model.named_parameters():
        if len(parameter.shape) > 1:
            parameter.set_value(parameter.astype("bfloat16").astype("float32"))


@pytest.mark.parametrize("family", ["llama", "qwen2", "narrow_window"])
def test_half_weights_and_cache_are_near_the_decoder(library, family):
    # The decoder computes in f32 with the rounded weights. What is left is the rounding of keys and values and, with
    # AVX512-BF16, of the matrices' inputs: relative 2^-9 each. Measured: 0.012 of the spread, worst logit 0.024.
    model, prompts = build(family), draw_prompts()
    core = pack(library, model, weight_type="bfloat16", kv_type="bfloat16")
    round_matrices(model)
    wanted = expected(model, prompts)
    error = forward(core, prompts, whole(prompts)) - wanted
    assert np.sqrt((error**2).mean()) < 0.03 * wanted.std()
    assert np.abs(error).max() < 0.06 * np.abs(wanted).max()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("isa", sorted(set(ISAS) - {"avx512bf16", "avx512amx"}))
def test_half_weights_with_a_float_cache_are_the_rounded_weights(library, best_isa, family, isa):
    try_isa(library, isa)
    model, prompts = build(family), draw_prompts()
    core = pack(library, model, weight_type="bfloat16")
    round_matrices(model)
    wanted = forward(pack(library, model), prompts, whole(prompts))
    assert np.array_equal(forward(core, prompts, whole(prompts)), wanted)


@pytest.mark.parametrize("family", ["llama", "qwen2", "biased"])
def test_matrix_unit_computes_what_vector_units_do(library, best_isa, family):
    # Only the order of sums differs, which now and then rounds an input of a matrix to its other neighbour:
    # 0.0015 of the spread, where the rounding itself is 0.012.
    model, prompts = build(family), draw_prompts()
    logits = []
    for isa in ("avx512bf16", "avx512amx"):
        try_isa(library, isa)
        logits.append(forward(pack(library, model, weight_type="bfloat16"), prompts, whole(prompts)))
    error = logits[1] - logits[0]
    assert np.sqrt((error**2).mean()) < 0.004 * logits[0].std()


def test_half_weights_may_come_as_halves(library):
    model, prompts = build("biased"), draw_prompts()
    core = pack(library, model, weight_type="bfloat16")
    wanted = forward(core, prompts, whole(prompts))
    for name, parameter in model.named_parameters():
        if len(parameter.shape) > 1:
            halves = np.ascontiguousarray(parameter.astype("bfloat16").numpy())
            core.set_weight(name, halves.ctypes.data, dtype="bfloat16", shape=halves.shape)
    assert np.array_equal(forward(core, prompts, whole(prompts)), wanted)


@pytest.mark.parametrize("family", ["llama", "qwen2", "biased"])
def test_byte_weights_are_rounded_channel_by_channel(library, family):
    model, prompts = build(family), draw_prompts()
    core = pack(library, model, weight_type="int8")
    for name, parameter in model.named_parameters():
        values = parameter.numpy()
        if name == "model.embed_tokens.weight":
            head = round_bytes(values.T).T
            parameter.set_value(paddle.to_tensor(values).astype("bfloat16").astype("float32"))
        elif values.ndim > 1:
            parameter.set_value(round_bytes(values))
    if model.config.tie_word_embeddings:  # read as bfloat16, multiplied as bytes
        with paddle.no_grad():
            hidden = [model.model(tokens[None]).numpy()[0] for tokens in prompts.tokens]
        wanted = np.concatenate(hidden) @ head.T
    else:
        wanted = expected(model, prompts)
    np.testing.assert_allclose(forward(core, prompts, whole(prompts)), wanted, atol=1e-4)


def round_bytes(values: np.ndarray) -> np.ndarray:
    """Return [in, out] as bytes times one scale for each output."""
    scale = (np.abs(values).max(0) / np.float32(127)).astype(np.float32)
    return np.rint(values / scale).astype(np.float32) * scale


def test_weights_can_be_packed_again(library):
    first, second, prompts = build("qwen3"), build("qwen3"), draw_prompts()
    draw_weights(second, seed=9, std=0.3)
    for weight_type in ("float32", "bfloat16", "int8"):
        core, wanted = (pack(library, model, weight_type=weight_type) for model in (first, second))
        num_bytes = core.num_bytes
        for name, parameter in second.named_parameters():
            values = parameter.numpy()
            core.set_weight(name, values.ctypes.data, dtype="float32", shape=values.shape, threads=2)
        assert np.array_equal(forward(core, prompts, whole(prompts)), forward(wanted, prompts, whole(prompts)))
        assert core.num_bytes == num_bytes


@pytest.mark.parametrize("kv_type", ["float32", "bfloat16"])
def test_a_copied_block_serves_another_sequence(library, kv_type):
    model, prompts = build("llama"), draw_prompts((20, 20))
    prompts = prompts._replace(tokens=[prompts.tokens[0], np.append(prompts.tokens[0][:19], 7)])
    wanted = forward(pack(library, model, kv_type=kv_type), prompts, whole(prompts))
    core = pack(library, model, kv_type=kv_type)
    forward(core, prompts, [(0, 0, 20)])
    for source, target in zip(*(prompts.block_tables[slot] for slot in prompts.slots), strict=True):
        core.copy_block(int(source), int(target))
    assert np.array_equal(forward(core, prompts, [(1, 19, 20)])[0], wanted[-1])
    assert np.array_equal(forward(core, prompts, [(0, 19, 20)])[0], wanted[19])


def test_blocks_before_the_window_are_not_read(library):
    model, prompts = build("window"), draw_prompts((70,))
    wanted = forward(pack(library, model), prompts, whole(prompts))
    core = pack(library, model)
    forward(core, prompts, [(0, 0, 69)])
    tables = prompts.block_tables.copy()
    tables[prompts.slots[0], :3] = -1  # position 69 sees 49 .. 69
    assert np.array_equal(forward(core, prompts._replace(block_tables=tables), [(0, 69, 70)])[0], wanted[-1])
    tables[prompts.slots[0], 3] = -1
    with pytest.raises(RuntimeError, match=r"position 69.*entry 3 of the block table is -1"):
        forward(core, prompts._replace(block_tables=tables), [(0, 69, 70)])


def test_what_other_sequences_left_in_blocks_is_not_read(library):
    model, prompts = build("llama"), draw_prompts()
    wanted = forward(pack(library, model), prompts, whole(prompts))
    core = pack(library, model)
    noise = draw_prompts((70,) * 5, seed=5)
    damaged = build("llama")
    name = "model.layers.0.self_attn.v_proj.weight"
    values = np.full(dict(damaged.named_parameters())[name].shape, np.nan, np.float32)
    core.set_weight(name, values.ctypes.data, dtype="float32", shape=tuple(values.shape))
    assert np.isnan(forward(core, noise, whole(noise))).all()
    values = dict(model.named_parameters())[name].numpy()
    core.set_weight(name, values.ctypes.data, dtype="float32", shape=tuple(values.shape))
    assert np.array_equal(forward(core, prompts, whole(prompts)), wanted)


def split(values: np.ndarray, name: str, rank: int) -> np.ndarray:
    """Return the part of a parameter that tensor-parallel ``rank`` of two holds."""
    if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight")):
        return np.ascontiguousarray(np.split(values, 2, axis=0)[rank])
    cut = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
    if any(f"{part}." in name for part in cut):
        return np.ascontiguousarray(np.split(values, 2, axis=-1)[rank])
    return values


@pytest.mark.parametrize("family", ["biased", "qwen2"])
def test_two_ranks_sum_to_the_whole(library, family):
    # Both ranks run in turns, one call of the reduce function further each time, until all sums are known.
    model, prompts = build(family, vocab_size=84), draw_prompts()
    halves = [half_model(library, model, rank) for rank in range(2)]
    sums: list[np.ndarray] = []
    for _ in range(1 + 2 * model.config.num_hidden_layers):
        parts = [reduce_until(half, prompts, sums)[1] for half in halves]
        sums.append(parts[0] + parts[1])
    logits = [reduce_until(half, prompts, sums)[0] for half in halves]
    np.testing.assert_allclose(np.concatenate(logits, axis=1), expected(model, prompts), atol=1e-4)


def half_model(library: CoreLibrary, model: CausalLM, rank: int) -> CoreModel:
    """Return what tensor-parallel ``rank`` of two holds."""
    config = model.config
    core = library.create_model(sizes_of(config, ranks=2))
    for name, parameter in model.named_parameters():
        values = split(parameter.numpy(), name, rank)
        core.set_weight(name, values.ctypes.data, dtype="float32", shape=values.shape)
    core.set_rotary(*rotary_tables(config))
    core.set_vocab_range(rank * config.vocab_size // 2)
    return core


def reduce_until(core: CoreModel, prompts: Prompts, sums: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Run with the first reductions answered from ``sums``; return the logits and this rank's next part."""
    calls: list[np.ndarray] = []

    def reduce(data: np.ndarray) -> None:
        calls.append(data.copy())
        if len(calls) <= len(sums):
            data[:] = sums[len(calls) - 1]

    core.set_reduce(reduce)
    logits = forward(core, prompts, whole(prompts), threads=2)
    return logits, calls[len(sums)] if len(calls) > len(sums) else None


BAD_ROWS = [
    (dict(tokens=[83]), "token 83.*not in the vocabulary"),
    (dict(tokens=[-1]), "token -1.*not in the vocabulary"),
    (dict(positions=[128]), r"position is not in 0 \.\. 127"),
    (dict(positions=[-1]), r"position is not in 0 \.\. 127"),
    (dict(positions=[48]), "block table has 3 blocks only"),
    (dict(slots=[-1]), "the slot is negative"),
    (dict(tokens=[1, 2], slots=[0, 0], positions=[1, 1]), "row 1.*ascend"),
    (dict(block_tables=[[64, 1, 2]]), "entry 0 of the block table is 64"),
    (dict(logit_rows=[1]), "logit row 1"),
    (dict(threads=0), "threads"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ROWS)
def test_bad_rows_are_refused_by_name(library, change, message):
    core = pack(library, build("llama"))
    given = dict(tokens=[1], slots=[0], positions=[0], block_tables=[[0, 1, 2]], logit_rows=[0], threads=1) | change
    rows = [np.array(given[name]) for name in ("tokens", "slots", "positions")]
    tables, wanted = np.array(given["block_tables"]), np.array(given["logit_rows"])
    with pytest.raises(RuntimeError, match=message):
        core.forward(*rows, block_tables=tables, logit_rows=wanted, threads=given["threads"])


def test_unset_weights_are_counted_and_unknown_ones_named(library):
    model = build("qwen3")
    config = dict(num_layers=1, hidden=48, inner=72, heads=6, kv_heads=2, head_dim=20, vocab=83, rms_eps=1e-6)
    config |= dict(window=0, qk_norm=1, qkv_bias=0, output_bias=0, mlp_bias=0, tied=0, block_tokens=16, num_blocks=2)
    core = library.create_model(config | dict(max_positions=8))
    row = {"block_tables": np.zeros((1, 1)), "logit_rows": np.array([0]), "threads": 1}
    with pytest.raises(RuntimeError, match="15 weights of the model were never set"):
        core.forward(*np.zeros((3, 1)), **row)
    values = dict(model.named_parameters())["model.norm.weight"].numpy()
    with pytest.raises(RuntimeError, match="model.norms.weight is no weight"):
        core.set_weight("model.norms.weight", values.ctypes.data, dtype="float32", shape=(48,))
    with pytest.raises(RuntimeError, match=r"has shape \[1, 47\], the model needs \[1, 48\]"):
        core.set_weight("model.norm.weight", values.ctypes.data, dtype="float32", shape=(47,))
    core.set_weight("model.norm.weight", values.ctypes.data, dtype="float32", shape=(48,))
    with pytest.raises(RuntimeError, match="14 weights of the model were never set"):
        core.forward(*np.zeros((3, 1)), **row)
    with pytest.raises(RuntimeError, match="block_tokens 24 is no multiple of 16"):
        library.create_model(config | dict(max_positions=8, block_tokens=24))
    with pytest.raises(RuntimeError, match="heads 6 is no multiple of kv_heads 4"):
        library.create_model(config | dict(max_positions=8, kv_heads=4))
