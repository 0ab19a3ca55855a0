"""The fused engine on csrc/cuda as rollouts use it: scheduler, pages, packets, graphs; torch in the place of Paddle.

Checked against the engine on the CPU's kernels; timed by what a decode step and a prompt take.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle_by_torch
import torch
from cuda_cases import draw_weights, weight_shapes
from cuda_shapes import SIZES, SMALL, core_sizes

PROMPT, FEW, MANY = 512, 8, 72
"""Tokens of a timed prompt, and of its two answers: their difference is decode steps alone."""


class Engines:
    """Makes engines of a configuration; create it once, before anything else imports Paddle."""

    def __init__(self, library: Path, *, on_device: bool) -> None:
        paddle_by_torch.install("gpu:0" if on_device else "cpu")
        from alignment.generation.cuda.cuda_kernels import CudaKernels
        from alignment.generation.fused.kernels import CPU_KERNELS
        from alignment.ops.native.cuda.library import CudaLibrary, CudaSearch

        made = CudaLibrary(library, "benchmark", is_emulated=not on_device)
        self._kernels = {"cuda": CudaKernels(CudaSearch(made, "benchmark")), "cpu": CPU_KERNELS}
        self._place = "cuda" if on_device else "cpu"

    def make(self, kernels: str, shape: dict[str, Any], weights: Iterator[tuple[str, Any]], **settings: Any) -> Any:
        """Return the engine with ``weights`` on ``kernels`` (``cuda`` or ``cpu``)."""
        from alignment.architecture.decoder_config import DecoderConfig
        from alignment.generation.fused.fused_engine import FusedEngine
        from alignment.generation.fused.fused_settings import FusedSettings

        model = SimpleNamespace(config=DecoderConfig.from_dict(shape))
        with paddle_by_torch.on_cpu() if kernels == "cpu" else nullcontext():
            engine = FusedEngine(model, FusedSettings(**settings), kernels=self._kernels[kernels])
            engine.load_weights(weights, 0)
        return engine

    def small(self, kernels: str, weight_type: str) -> Any:
        """Return an engine of the small model."""
        drawn = {name: torch.from_numpy(x) for name, x in draw_weights(core_sizes(SMALL)).items()}
        placed = ((name, x.to(self._place) if kernels == "cuda" else x) for name, x in drawn.items())
        return self.make(kernels, SMALL, placed, block_tokens=16, num_slots=7, max_rows=50, weight_type=weight_type)

    def large(self, name: str, rows: int, weight_type: str) -> Any:
        """Return an engine with drawn weights and room for ``rows`` timed prompts."""
        shape = SIZES[name] | dict(model_type="llama", max_position_embeddings=PROMPT + MANY)
        weights = ((each, _draw(each, size)) for each, size in weight_shapes(core_sizes(shape)).items())
        settings = dict(num_slots=rows, kv_memory="90GiB", max_rows=2048, kv_type="bfloat16", weight_type=weight_type)
        return self.make("cuda", shape, weights, **settings)


def _draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape, device="cuda", dtype=torch.bfloat16)
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16) * 0.02


def generate(engine: Any, prompts: list[list[int]], length: int) -> list[Any]:
    """Return sampled completions of ``length`` tokens each."""
    from alignment.generation.engine import GenerationOptions

    options = GenerationOptions(max_new_tokens=length, temperature=0.9)
    return engine.generate(prompts, options, seed=1, sequence_ids=range(len(prompts)))


def check_engine(engines: Engines, weight_type: str) -> None:
    """The tokens of 64 ragged prompts are those of the CPU's kernels, by captured graphs, and the same again."""
    prompts = [np.random.default_rng(n).integers(0, 61, 1 + n * 37 % 38).tolist() for n in range(64)]
    engine = engines.small("cuda", weight_type)
    found, again = (generate(engine, prompts, 6) for _ in range(2))
    wanted = generate(engines.small("cpu", weight_type), prompts, 6)
    assert engine._packed._graphs.num_captured > 0, "no step was captured"
    for one, other, reference in zip(found, again, wanted, strict=True):
        assert one.token_ids.tolist() == reference.token_ids.tolist()
        assert np.array_equal(one.logprobs, other.logprobs), "the second time has other bits"
        np.testing.assert_allclose(one.logprobs, reference.logprobs, atol=5e-4)
    engine.release()


def engine_checks(engines: Engines) -> dict[str, Any]:
    """Return the checks by name, each a function of nothing."""
    return {f"fused engine {kind}": lambda kind=kind: check_engine(engines, kind) for kind in ("float32", "int8")}


def time_engine(engines: Engines, name: str, rows: int, weight_type: str) -> Iterator[tuple[str, float, float]]:
    """Yield (work, milliseconds, gigabytes that must be read) of a decode step and of the prompts."""
    engine = engines.large(name, rows, weight_type)
    shape, generator = SIZES[name], np.random.default_rng(0)
    prompts = generator.integers(0, shape["vocab_size"], (rows, PROMPT)).tolist()
    generate(engine, prompts, FEW)  # chooses algorithms
    times = []
    for length in (FEW, MANY, FEW, MANY):
        torch.cuda.synchronize()
        start = time.perf_counter()
        generate(engine, prompts, length)
        times.append(time.perf_counter() - start)
    few, many = min(times[::2]), min(times[1::2])
    engine.release()
    step = (many - few) / (MANY - FEW)
    numbers = sum(int(np.prod(size)) for each, size in weight_shapes(core_sizes(shape)).items() if "embed" not in each)
    weights = numbers * {"bfloat16": 2, "int8": 1}[weight_type]
    a_token = 4 * shape["num_key_value_heads"] * shape["head_dim"] * shape["num_hidden_layers"]
    work = f"fused engine {name} {weight_type}, B={rows}"
    yield f"{work}, a step", 1e3 * step, (weights + rows * a_token * (PROMPT + MANY // 2)) / 1e9
    yield f"{work}, {PROMPT}-token prompts", 1e3 * (few - FEW * step), weights / 1e9
