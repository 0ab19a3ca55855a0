"""The CUDA kernels behind the fused engine, on the emulated device: tokens of the eager engine, and what is refused."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace
from unittest import mock

import numpy as np
import paddle
import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.device.memory import BESIDE_PADDLE
from alignment.errors import NotFiniteError, UserError
from alignment.generation import kernel_choice as chooser
from alignment.generation.cuda import cuda_kernels, graphs, paddle_device
from alignment.generation.cuda.cuda_kernels import CudaKernels
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.engine_placement import EnginePlacement
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.kernels import CPU_KERNELS
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.ops.native.cuda.library import CudaSearch
from alignment.ops.native.library import find_core
from tests.emulated import emulated_kernels

SHAPE = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=64,
)
FAMILIES = {
    "llama": dict(model_type="llama"),
    "qwen3": dict(model_type="qwen3", tie_word_embeddings=True),
    "window": dict(model_type="mistral", sliding_window=5),
}
PROMPTS = [
    np.random.default_rng(length).integers(0, 40, 1 + length * 37 % 38).tolist() for length in range(64)
]  # 1 to 38 tokens, every length at least once
SAMPLED = GenerationOptions(max_new_tokens=6, stop_token_ids=(3, 11), temperature=0.9)
RESTRICTED = GenerationOptions(max_new_tokens=6, min_new_tokens=3, stop_token_ids=(3, 11, 99), repetition_penalty=1.3)
BLOCK = 4 * 16 * 2 * 32 * 2
"""Bytes of a block of 16 tokens: keys and values of 2 heads of 32 float32 numbers in one layer."""


def build(family="llama", **changes):
    model = CausalLM(DecoderConfig.from_dict({**SHAPE, **FAMILIES[family], **changes}))
    draw_weights(model, seed=0, std=0.4)
    return model


def cuda(model, *, usable=None, **settings):
    settings = FusedSettings(**{"block_tokens": 16, "num_slots": 7, "max_rows": 50, **settings})
    engine = FusedEngine(model, settings, kernels=emulated_kernels(), usable_vocab_size=usable)
    engine.load_weights(None, 0)
    return engine


def eager(model, *, usable=None):
    engine = EagerEngine(model, usable_vocab_size=usable)
    engine.load_weights(None, 0)
    return engine


def answer(engine, prompts, options, ids=None):
    return engine.generate(prompts, options, seed=1, sequence_ids=range(len(prompts)) if ids is None else ids)


def tokens_of(completions):
    return [completion.token_ids.tolist() for completion in completions]


def assert_same(found, wanted, *, atol):
    assert [c.token_ids.tolist() for c in found] == [c.token_ids.tolist() for c in wanted]
    assert [c.finish_reason for c in found] == [c.finish_reason for c in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=atol, rtol=0)
        assert one.token_ids.dtype == other.token_ids.dtype and one.logprobs.dtype == other.logprobs.dtype


@pytest.mark.parametrize(
    ("family", "options"), [("llama", SAMPLED), ("qwen3", RESTRICTED)], ids=["sampled", "restricted"]
)
def test_64_ragged_prompts_get_the_tokens_of_the_eager_engine(family, options):
    model = build(family)
    found = answer(cuda(model, usable=38), PROMPTS, options)
    assert_same(found, answer(eager(model, usable=38), PROMPTS, options), atol=1e-4)


def test_slots_blocks_and_order_change_no_bit():
    """Few blocks: sequences give up their slots, share prefixes, copy blocks, and every block comes back."""
    model, prompts = build("window"), [[5] * 9, [6, 7, 8], [5] * 9, [9] * 12, [5] * 9, [4] * 14]
    options = GenerationOptions(max_new_tokens=28)
    wanted = [answer(cuda(model), [p], options, ids=[i])[0] for i, p in enumerate(prompts)]
    engine = cuda(model, num_slots=6, max_rows=9, kv_memory=6 * BLOCK)
    order = [3, 0, 5, 1, 4, 2]
    found = answer(engine, [prompts[i] for i in order], options, ids=order)
    assert_same(found, [wanted[i] for i in order], atol=0)
    assert engine.counts.preemptions > 0 and engine.counts.copies > 0
    assert_same(wanted, answer(eager(model), prompts, options), atol=1e-4)


def test_decode_steps_are_captured_once_a_size_and_replayed():
    engine, options = cuda(build(), num_slots=3), GenerationOptions(max_new_tokens=12)
    answer(engine, [[5, 6], [7], [8, 9, 10]], options)
    used = engine._packed._graphs
    assert used.num_captured == 1, "12 steps of 3 rows, which are filled up to 4"
    before = engine.counts.steps
    answer(engine, [[5, 6], [7], [8, 9, 10]], options)
    assert used.num_captured == 1 and engine.counts.steps == before
    engine.release()
    assert engine.num_bytes == 0


def test_sizes_that_are_captured_are_few():
    assert [graphs.padded_rows(n) for n in (1, 2, 3, 5, 9, 16, 17, 32, 33, 128)] == [
        1,
        2,
        4,
        8,
        16,
        16,
        32,
        32,
        48,
        128,
    ]
    assert [graphs.padded_positions(n, 2000) for n in (1, 256, 257, 513, 1025)] == [256, 256, 512, 1024, 2000]
    assert graphs.padded_positions(5, 64) == 64


def test_an_update_is_packed_over_the_old_weights_and_memory_is_what_was_asked_for():
    model, other = build(), build()
    draw_weights(other, seed=5, std=0.4)
    gc.collect()
    beside = BESIDE_PADDLE.now
    engine = cuda(model, kv_memory=5 * BLOCK)
    before = engine.num_bytes
    assert BESIDE_PADDLE.now - beside == before
    engine.load_weights(other.named_parameters(), 3)
    assert engine.version == 3 and engine.num_bytes == before
    assert_same(answer(engine, PROMPTS[:3], SAMPLED), answer(eager(other), PROMPTS[:3], SAMPLED), atol=1e-4)
    assert cuda(model, kv_memory=9 * BLOCK).num_bytes - before == 4 * BLOCK
    with pytest.raises(UserError, match=f"need {3 * BLOCK} bytes, rollout_kv_memory={2 * BLOCK} holds {2 * BLOCK}"):
        answer(cuda(model, kv_memory=2 * BLOCK), [[1] * 40], SAMPLED)
    engine.release()
    gc.collect()
    assert BESIDE_PADDLE.now == beside


def test_half_types_stay_near_the_model():
    model, options = build(), GenerationOptions(max_new_tokens=1, do_sample=False)
    engine = cuda(model, weight_type="bfloat16", kv_type="bfloat16")
    narrow = [(name, p.detach().astype("bfloat16")) for name, p in model.named_parameters()]
    found = answer(engine, PROMPTS[:16], options)
    wanted = answer(eager(model), PROMPTS[:16], options)
    differences = [abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(found, wanted, strict=True)]
    assert 0 < np.median(differences) < 0.3
    engine.load_weights(iter(narrow), 1)
    assert len(answer(engine, PROMPTS[:2], options)) == 2


@pytest.mark.parametrize("options", [SAMPLED, RESTRICTED], ids=["sampled", "restricted"])
def test_damaged_weights_are_reported_as_by_the_eager_engine(options):
    model = build()
    model.model.norm.weight.set_value(paddle.full([32], float("nan")))
    with pytest.raises(NotFiniteError, match="new token 0 are NaN or infinite in 2 of 2 sequences"):
        answer(cuda(model), [[1], [2]], options)


@pytest.mark.parametrize(("family", "options"), [("llama", SAMPLED), ("qwen3", RESTRICTED)])
def test_whole_numbers_as_weights_give_the_tokens_of_the_cpu_kernels(family, options):
    if find_core().core is None:
        pytest.skip(find_core().reason)
    model, settings = build(family), dict(weight_type="int8", block_tokens=16, num_slots=7)
    engine = cuda(model, usable=38, **settings)
    on_cpu = FusedEngine(model, FusedSettings(**settings), kernels=CPU_KERNELS, usable_vocab_size=38)
    on_cpu.load_weights(None, 0)
    found = answer(engine, PROMPTS, options)
    assert_same(found, answer(on_cpu, PROMPTS, options), atol=2e-4)
    assert tokens_of(found) != tokens_of(answer(eager(model, usable=38), PROMPTS, options)), "int8 differs from float32"
    before, other = engine.num_bytes, build(family)
    draw_weights(other, seed=5, std=0.4)
    for each in (engine, on_cpu):
        each.load_weights(other.named_parameters(), 3)
    assert engine.num_bytes == before
    assert_same(answer(engine, PROMPTS[:5], options), answer(on_cpu, PROMPTS[:5], options), atol=2e-4)


def test_whole_numbers_with_half_inputs_stay_near_the_model():
    """bfloat16 keys and values: the inputs of the matrices are bfloat16 too."""
    model, options = build(), GenerationOptions(max_new_tokens=1, do_sample=False)
    engines = [cuda(model, weight_type="int8", kv_type=kind) for kind in ("bfloat16", "float32")]
    found, wanted = (answer(engine, PROMPTS[:16], options) for engine in engines)
    differences = [abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(found, wanted, strict=True)]
    assert 0 < np.median(differences) < 0.05
    assert tokens_of(found) == tokens_of(wanted)


def test_rows_of_whole_numbers_have_the_same_bits_in_any_company():
    model, prompts = build("window", hidden_size=72, intermediate_size=150), [[5] * 9, [6, 7, 8], [9] * 12, [4] * 14]
    options = GenerationOptions(max_new_tokens=8)
    alone = [answer(cuda(model, weight_type="int8"), [p], options, ids=[i])[0] for i, p in enumerate(prompts)]
    assert_same(answer(cuda(model, weight_type="int8"), prompts, options), alone, atol=0)


def test_a_model_that_does_not_fit_is_refused_with_what_helps():
    huge = dict(num_slots=10**6, kv_memory=2**60, max_length=60)
    with pytest.raises(UserError, match="cannot hold the model: .*give a smaller rollout_kv_memory"):
        cuda(build(), **huge)


def test_what_is_in_the_way_is_said_in_one_line(monkeypatch):
    config, kernels = build().config, emulated_kernels()
    assert kernels.obstacle(config) is None
    assert kernels.obstacle(build(head_dim=16).config) == (
        "the CUDA kernels need head_dim 32, 64, 128, the model has 16"
    )
    stage = EnginePlacement(pipeline=SimpleNamespace(size=2))
    assert kernels.obstacle(config, stage).endswith("all layers in one process, pipeline_parallel_degree=2")
    none = CudaKernels(CudaSearch(None, "no nvcc"))
    assert none.obstacle(config) == "no CUDA kernels: no nvcc"
    with pytest.raises(UserError, match="no CUDA kernels: no nvcc"):
        FusedEngine(build(), kernels=none)
    real = CudaKernels(CudaSearch(SimpleNamespace(is_emulated=False), ""))
    assert real.obstacle(config) == "the CUDA kernels run on a GPU, the device is cpu"
    monkeypatch.setattr(paddle_device.paddle.device, "get_device", lambda: "gpu:0")
    assert kernels.obstacle(config) == "the emulated CUDA kernels run on cpu, the device is gpu:0"
    monkeypatch.setattr(paddle_device.paddle.version, "cuda", lambda: "12.6")
    for found, problem in (((7, 5), "need compute capability 8.0, gpu:0 has 7.5"), ((9, 0), None)):
        monkeypatch.setattr(paddle_device.paddle.device.cuda, "get_device_capability", lambda found=found: found)
        assert real.obstacle(config) == (problem and f"the CUDA kernels {problem}")


def test_the_kernels_are_those_of_the_device(monkeypatch):
    assert chooser.device_kernels() is CPU_KERNELS
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(cuda_kernels, "find_cuda", lambda: CudaSearch(None, "no nvcc"))
    kernels = chooser.device_kernels()
    assert kernels.description == "CUDA kernels: no nvcc" and kernels.obstacle(build().config).endswith("no nvcc")


def test_on_a_gpu_the_stream_is_paddles(monkeypatch):
    """What only a GPU can try, against a stand-in: device and stream of each call."""
    calls = []
    library = SimpleNamespace(is_emulated=False, call=lambda name, *arguments: calls.append((name, *arguments)))
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:3")
    stream = SimpleNamespace(stream_base=SimpleNamespace(raw_stream=77))
    monkeypatch.setattr(paddle.device, "current_stream", lambda: stream)
    device = paddle_device.PaddleDevice(library)
    device.call("acu_copy_block", 5, 1, 2)
    array = np.arange(3, dtype=np.int32)
    device.write(1000, array)
    device.read(2000, array)
    assert calls == [
        ("acu_use_device", 3),
        ("acu_copy_block", 5, 1, 2, 77),
        ("acu_write", 1000, array.ctypes.data, 12, 77),
        ("acu_read", array.ctypes.data, 2000, 12, 77),
    ]


def test_nothing_may_wait_while_a_graph_is_captured():
    kernels = emulated_kernels()
    device = paddle_device.PaddleDevice(kernels._library)
    handle, stream, number = device.library.handle, ctypes.c_void_p(), np.zeros(1, np.int32)
    memory = device.put(np.array([7], np.int32))
    graph = handle.acu_graph_begin(ctypes.byref(stream))
    with pytest.raises(RuntimeError, match="acu_read"):
        device.read(memory.data_ptr(), number)
    device.library.call("acu_graph_end", graph)
    device.call("acu_graph_launch", graph)
    assert number[0] == 7, "the copy was captured, and is done by the graph"
    handle.acu_graph_destroy(graph)


def test_what_is_copied_to_the_device_may_change_at_once():
    """Copies are made late, as where the device reads the host's page tables; pinned memory is not used twice."""
    kernels, options = emulated_kernels(), GenerationOptions(max_new_tokens=9)
    model, device = build(), paddle_device.PaddleDevice(kernels._library)
    wanted = answer(cuda(model, max_rows=4), PROMPTS[:9], options)
    late = device.library.handle.acu_emulated_late_copies
    late(1)
    try:
        source, found = np.arange(2**21, dtype=np.int32), np.zeros(2**21, np.int32)
        for size in (5, 2**20, 2**21):
            places = [device.empty([4 * size], "uint8") for _ in range(3)]
            for place in places:
                device.write(place.data_ptr(), source[:size])
                source += 1
            for back, place in zip((3, 2, 1), places, strict=True):
                device.read(place.data_ptr(), found[:size])
                assert np.array_equal(found[:size], source[:size] - back), size
        assert_same(answer(cuda(model, max_rows=4), PROMPTS[:9], options), wanted, atol=0)
    finally:
        late(0)


def test_a_failed_capture_leaves_no_graph():
    device = mock.Mock()
    device.library.handle.acu_graph_begin.return_value = 5
    step = graphs.RowArrays(1, 1, 1, 1, addresses=(1, 2, 3, 4, 5), logits=6, longest=7, repeats=True)
    used = graphs.ForwardGraphs(device, model=9, max_length=64)
    used.run(step)
    device.library.call.side_effect = RuntimeError("acu_forward: out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        used.run(step)
    device.library.handle.acu_graph_end.assert_called_once_with(5)
    device.library.handle.acu_graph_destroy.assert_called_once_with(5)
    assert used.num_captured == 0
    device.library.call.side_effect = None
    used.run(step)
    assert used.num_captured == 1 and device.library.handle.acu_graph_begin.call_count == 2
