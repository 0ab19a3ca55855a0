"""Times of csrc/cuda on a device against what the device can read, and against torch's own kernels."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from cuda_cases import rotary_tables, weight_shapes
from cuda_decode import DecodeLoop
from cuda_library import CudaLibrary, CudaModel

BLOCK_TOKENS = 32
GIB = 1 << 30
MODELS: dict[str, dict[str, int]] = {
    "110m": dict(num_layers=12, hidden=768, inner=2048, heads=12, kv_heads=12, head_dim=64, vocab=32000),
    "1b": dict(num_layers=16, hidden=2048, inner=8192, heads=32, kv_heads=8, head_dim=64, vocab=128256),
    "8b": dict(num_layers=32, hidden=4096, inner=14336, heads=32, kv_heads=8, head_dim=128, vocab=128256),
}


class Row(NamedTuple):
    """One measurement."""

    work: str
    milliseconds: float
    gigabytes: float
    """That must be read."""
    share: float
    """Of the bandwidth measured here."""


def seconds_of(work: Callable[[], None], *, repeats: int = 20) -> float:
    """Return the median time of ``work`` on the device."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return median(times)


def bandwidth() -> float:
    """Return GB/s of the better of a large copy (read and written) and a large sum."""
    numbers = torch.randn(GIB, device="cuda")  # 4 GiB
    copy = torch.empty_like(numbers)
    rates = (
        8 * GIB / seconds_of(lambda: copy.copy_(numbers)),
        4 * GIB / seconds_of(lambda: numbers.sum()),
    )
    return max(rates) / 1e9


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """Return a replay of ``work`` as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()  # cuBLASLt chooses its algorithms here
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        work()
    return graph.replay


class StepBench:
    """A model with drawn bf16 weights, B sequences and ``context`` tokens before each."""

    def __init__(
        self, library: CudaLibrary, shape: dict[str, int], *, rows: int, context: int, spare: int, invariant: int
    ) -> None:
        """``spare``: how many steps may follow."""
        self.rows, self.context, self.longest = rows, context, context + spare
        per_row = -(-self.longest // BLOCK_TOKENS)
        flags = dict.fromkeys(("window", "qk_norm", "qkv_bias", "output_bias", "mlp_bias", "tied"), 0)
        self.sizes: dict[str, Any] = shape | flags | dict(
            rms_eps=1e-6, block_tokens=BLOCK_TOKENS, num_blocks=rows * per_row, max_positions=self.longest
        )  # fmt: skip
        limits = dict(max_rows=2048, max_decode_rows=rows, max_logit_rows=rows, row_invariant=invariant)
        self.model = CudaModel(library, self.sizes, limits, weights="bfloat16", kv="bfloat16")
        self._set_weights()
        self.loop = DecodeLoop(
            self.model, np.arange(rows * per_row).reshape(rows, per_row), options=dict(temperature=1.0), seed=1
        )
        tokens = np.random.default_rng(0).integers(0, shape["vocab"], context + 1)
        self.loop.prefill([tokens], chunk=2048)
        for row in range(1, rows):
            for block in range(per_row):
                self.model.copy_block(block, row * per_row + block)
        self.rewind()

    def rewind(self) -> None:
        """Go back to the end of the context."""
        self.loop.begin(np.full(self.rows, 7), np.full(self.rows, self.context))

    def step_seconds(self, *, repeats: int) -> float:
        """Return the median time of one captured step; ``repeats`` + 5 steps must be spare."""
        replay = captured(lambda: self.loop.step(longest=self.longest))
        self.rewind()
        return seconds_of(replay, repeats=repeats)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a step reads: all but the embedding."""
        shapes = weight_shapes(self.sizes)
        numbers = sum(int(np.prod(shape)) for name, shape in shapes.items() if "embed" not in name)
        return 2 * numbers

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that a step reads."""
        a_token = 2 * 2 * self.sizes["kv_heads"] * self.sizes["head_dim"] * self.sizes["num_layers"]
        return a_token * self.context * self.rows

    def _set_weights(self) -> None:
        for name, shape in weight_shapes(self.sizes).items():
            values = torch.randn(shape, device="cuda", dtype=torch.bfloat16) * 0.02
            if name.endswith("norm.weight"):
                values = torch.ones(shape, device="cuda", dtype=torch.bfloat16)
            self.model.set_weight(name, values, dtype="bfloat16")
        self.model.set_rotary(*rotary_tables(self.sizes))
        torch.cuda.synchronize()


def time_steps(library: CudaLibrary, name: str, batches: list[int], context: int, limit: float) -> list[Row]:
    """Time whole decode steps, captured, with the sampler."""
    rows = []
    for batch in batches:
        for invariant in (0, 1):
            bench = StepBench(library, MODELS[name], rows=batch, context=context, spare=40, invariant=invariant)
            seconds = bench.step_seconds(repeats=30)
            gigabytes = (bench.weight_bytes + bench.cache_bytes) / 1e9
            bench.model.close()
            work = f"step {name}, B={batch}, context {context}{', row-invariant' if invariant else ''}"
            rows.append(Row(work, 1e3 * seconds, gigabytes, gigabytes / seconds / limit))
    return rows


def time_attention(library: CudaLibrary, batch: int, context: int, group: int, limit: float) -> list[Row]:
    """Time decode attention alone, as what a step takes longer than one with hardly any context, and torch's."""
    kv_heads, dim = 8, 128
    a_layer = 4 * kv_heads * dim * context * batch
    layers = max(1, min(64, -(-GIB // 2 // a_layer)))  # together much larger than the cache of the device
    shape = dict(
        num_layers=layers, hidden=64, inner=64, heads=kv_heads * group, kv_heads=kv_heads, head_dim=dim, vocab=64
    )
    times = []
    for tokens in (BLOCK_TOKENS, context):
        bench = StepBench(library, shape, rows=batch, context=tokens, spare=40, invariant=0)
        times.append(bench.step_seconds(repeats=30))
        bench.model.close()
    ours, gigabytes = times[1] - times[0], a_layer * layers / 1e9
    query = torch.randn(layers, batch, kv_heads * group, 1, dim, device="cuda", dtype=torch.bfloat16)
    keys, values = (
        torch.randn(layers, batch, kv_heads, context, dim, device="cuda", dtype=torch.bfloat16) for _ in range(2)
    )

    def attend() -> None:
        for layer in range(layers):
            torch.nn.functional.scaled_dot_product_attention(
                query[layer], keys[layer], values[layer], enable_gqa=group > 1
            )

    torchs = seconds_of(captured(attend))
    work = f"attention B={batch}, context {context}, {group} heads a key head, {layers} layers"
    return [
        Row(f"{label} {work}", 1e3 * seconds, gigabytes, gigabytes / seconds / limit)
        for label, seconds in (("ours:", ours), ("torch:", torchs))
    ]


def time_transformers(name: str, batches: list[int], context: int, limit: float) -> list[Row]:
    """Time ``generate`` of transformers a token; nothing when it is not installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return []
    shape = MODELS[name]
    config = LlamaConfig(
        num_hidden_layers=shape["num_layers"], hidden_size=shape["hidden"], intermediate_size=shape["inner"],
        num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"], head_dim=shape["head_dim"],
        vocab_size=shape["vocab"], max_position_embeddings=context + 64,
    )  # fmt: skip
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    weights = sum(p.numel() for n, p in model.named_parameters() if "embed" not in n) * 2
    a_token = 4 * shape["kv_heads"] * shape["head_dim"] * shape["num_layers"]
    rows = []
    for batch in batches:
        prompt = torch.randint(0, shape["vocab"], (batch, context), device="cuda")

        def generate(count: int, prompt=prompt) -> float:
            options = dict(max_new_tokens=count, min_new_tokens=count, do_sample=True, pad_token_id=0)
            return seconds_of(lambda: model.generate(prompt, **options), repeats=3)

        seconds = (generate(33) - generate(1)) / 32
        gigabytes = (weights + a_token * context * batch) / 1e9
        work = f"transformers generate {name}, B={batch}, context {context}, a token"
        rows.append(Row(work, 1e3 * seconds, gigabytes, gigabytes / seconds / limit))
    return rows
