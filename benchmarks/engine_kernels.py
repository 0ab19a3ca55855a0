"""Time the kernels of the fused engine against what the machine can read and multiply.

    python benchmarks/engine_kernels.py [--models 110m] [--types float32 bfloat16 int8] [--threads 1] [--write]

A decode step of B rows (each after ``--context`` tokens) must read all weights once and the rows' keys and values; its
GB/s are those bytes over its time, beside the read bandwidth measured in the same process. Prefill counts the
multiply-adds of the matrices and of attention, two operations each. All times are the best of many runs, limits
too; one thread's are CPU times, which neighbours on a shared machine disturb less.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

import numpy as np  # noqa: E402
from rollout import MODELS  # noqa: E402

from alignment.ops.native.library import CoreLibrary, find_core  # noqa: E402
from alignment.ops.native.toolchain import find_compiler  # noqa: E402

BLOCK_TOKENS = 64
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
STREAM_BYTES = 512 << 20


class Limits(NamedTuple):
    """What the machine can do, measured here."""

    read: float
    """GB/s with as many threads as the kernels use."""
    multiply: float
    """GFLOP/s of f32 multiply-adds, all threads."""


class Row(NamedTuple):
    """One measurement; ``rate`` is GB/s for decode steps and GFLOP/s for prefill."""

    weights: str
    work: str
    milliseconds: float
    rate: float
    unit: str
    share: float
    """Of the limit in the same unit."""


def measure_limits(threads: int) -> Limits:
    """Compile and run ``read_bandwidth.cc``."""
    compiler = find_compiler()
    if compiler is None:
        raise SystemExit("no C++ compiler: the limits cannot be measured")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "limits.so"
        flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run([compiler.program, *flags, str(HERE / "read_bandwidth.cc"), "-o", str(path)], check=True)
        limits = ctypes.CDLL(str(path))
    limits.read_bandwidth.restype = limits.multiply_rate.restype = ctypes.c_double
    data, total = np.ones(STREAM_BYTES // 4 + 16, np.float32), ctypes.c_float()
    start = data.ctypes.data + -data.ctypes.data % 64
    read = limits.read_bandwidth(ctypes.c_void_p(start), ctypes.c_int64(STREAM_BYTES), threads, 7, ctypes.byref(total))
    rates = [limits.multiply_rate(ctypes.c_int64(20_000_000), ctypes.byref(total)) for _ in range(3)]
    return Limits(read, max(rates) * threads)


class Bench:
    """One model with drawn weights in the kernel library."""

    def __init__(self, library: CoreLibrary, sizes: dict, *, weight_type: str, args: argparse.Namespace) -> None:
        self.layers, self.hidden, self.inner = (
            sizes[x] for x in ("num_hidden_layers", "hidden_size", "intermediate_size")
        )
        self.heads, self.vocab = sizes["num_attention_heads"], sizes["vocab_size"]
        self.head_dim = self.hidden // self.heads
        self.threads, self.context = args.threads, args.context
        self.positions = max(args.context + 1, *args.prompts)
        self.kv_bytes = 4 if weight_type == "float32" else 2
        self.per_slot = -(-self.positions // BLOCK_TOKENS)
        self.core = library.create_model(
            dict(
                num_layers=self.layers, hidden=self.hidden, inner=self.inner, heads=self.heads, kv_heads=self.heads,
                head_dim=self.head_dim, vocab=self.vocab, rms_eps=1e-6, window=0, qk_norm=0, qkv_bias=0, output_bias=0,
                mlp_bias=0, tied=0, block_tokens=BLOCK_TOKENS, num_blocks=max(args.batches) * self.per_slot,
                max_positions=self.positions,
            ),
            weight_type=weight_type,
            kv_type="float32" if weight_type == "float32" else "bfloat16",
        )  # fmt: skip
        # Values do not matter for time, so matrices share one drawing.
        count = self.hidden * max(self.vocab, self.inner)
        self.numbers = np.random.default_rng(0).standard_normal(count, np.float32) * np.float32(0.02)
        pack_weights(self)
        self.matrix_numbers = self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.inner)

    def step(self, rows: int) -> Callable[[], None]:
        """Return one decode step of ``rows`` slots after ``context`` tokens each."""
        slots = np.arange(rows)
        tables = np.arange(rows * self.per_slot).reshape(rows, self.per_slot)
        return self._call(slots, np.full(rows, self.context), tables, slots)

    def prefill(self, length: int) -> Callable[[], None]:
        """Return the prefill of one prompt of ``length`` tokens."""
        tables = np.arange(self.per_slot)[None]
        return self._call(np.zeros(length), np.arange(length), tables, np.array([length - 1]))

    def step_bytes(self, rows: int, weight_type: str) -> float:
        """Return the bytes that a decode step must read."""
        weights = (self.matrix_numbers + self.hidden * self.vocab) * WEIGHT_BYTES[weight_type]
        return weights + rows * self.layers * 2 * self.hidden * self.context * self.kv_bytes

    def prefill_operations(self, length: int) -> float:
        """Return multiplications and additions of a prefill; the last layer is finished for the last token only."""
        last = 2 * (self.hidden**2 + 3 * self.hidden * self.inner) * (length - 1)
        attention = 2 * 2 * self.hidden * length * (length + 1) / 2 * (self.layers - 1)
        return 2.0 * self.matrix_numbers * length - last + attention + 2 * self.hidden * self.vocab

    def _call(self, slots, positions, tables, logit_rows) -> Callable[[], None]:
        tokens = np.arange(len(slots)) * 7 % self.vocab
        return lambda: self.core.forward(
            tokens, slots, positions, block_tables=tables, logit_rows=logit_rows, threads=self.threads
        )


def pack_weights(bench: Bench) -> None:
    """Set every weight of the model."""
    hidden, inner, vocab, core = bench.hidden, bench.inner, bench.vocab, bench.core
    ones = np.ones(hidden, np.float32)

    def put(name: str, *shape: int) -> None:
        values = ones if len(shape) == 1 else bench.numbers
        core.set_weight(f"{name}.weight", values.ctypes.data, dtype="float32", shape=shape, threads=bench.threads)

    put("model.embed_tokens", vocab, hidden)
    put("lm_head", hidden, vocab)
    put("model.norm", hidden)
    for layer in range(bench.layers):
        prefix = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            put(f"{prefix}self_attn.{name}_proj", hidden, hidden)
        for name in ("gate", "up"):
            put(f"{prefix}mlp.{name}_proj", hidden, inner)
        put(f"{prefix}mlp.down_proj", inner, hidden)
        put(f"{prefix}input_layernorm", hidden)
        put(f"{prefix}post_attention_layernorm", hidden)
    angles = np.arange(bench.positions)[:, None] / 1e4 ** (np.arange(0, bench.head_dim, 2) / bench.head_dim)
    core.set_rotary(np.cos(angles), np.sin(angles))


def measure(work: Callable[[], None], *, seconds: float, threads: int) -> float:
    """Return the shortest duration in seconds of at least 5 runs and about ``seconds`` of them."""
    clock = time.thread_time if threads == 1 else time.perf_counter

    def run() -> float:
        started = clock()
        work()
        return clock() - started

    first = min(run() for _ in range(2))
    return min(run() for _ in range(max(5, min(500, int(seconds / first)))))


def measure_type(bench: Bench, weight_type: str, *, args: argparse.Namespace, limits: Limits) -> list[Row]:
    """Return the rows of one type of weights."""
    rows = []
    for batch in args.batches:
        duration = measure(bench.step(batch), seconds=args.seconds, threads=args.threads)
        rate = bench.step_bytes(batch, weight_type) / duration / 1e9
        rows.append(Row(weight_type, f"decode B={batch}", 1e3 * duration, rate, "GB/s", rate / limits.read))
    for length in args.prompts:
        duration = measure(bench.prefill(length), seconds=args.seconds, threads=args.threads)
        rate = bench.prefill_operations(length) / duration / 1e9
        rows.append(Row(weight_type, f"prefill {length}", 1e3 * duration, rate, "GFLOP/s", rate / limits.multiply))
    duration = measure(lambda: pack_weights(bench), seconds=args.seconds, threads=args.threads)
    rate = 4e-9 * (bench.matrix_numbers + 2 * bench.hidden * bench.vocab) / duration
    return [*rows, Row(weight_type, "pack after an update", 1e3 * duration, rate, "GB/s", rate / limits.read)]


def report(rows: list[Row], limits: Limits, title: str) -> str:
    """Return the table in Markdown."""
    lines = [
        title,
        "",
        f"Measured limits: read {limits.read:.1f} GB/s, multiply-add {limits.multiply:.0f} GFLOP/s (f32).",
        "",
        "| weights | work | ms | rate | of the limit |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.weights} | {r.work} | {r.milliseconds:.2f} | {r.rate:.1f} {r.unit} | {100 * r.share:.0f} % |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["110m"], choices=sorted(MODELS))
    parser.add_argument("--types", nargs="+", default=list(WEIGHT_BYTES), choices=list(WEIGHT_BYTES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--prompts", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--context", type=int, default=512, help="tokens before a decode step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", help="instruction set, when not the best one")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each measurement")
    parser.add_argument("--write", action="store_true", help="write the table and its numbers into results/")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def main() -> None:
    """Measure, print and perhaps write."""
    args = parse()
    library, reason = find_core()
    if library is None:
        raise SystemExit(f"no kernel library: {reason}")
    if args.isa:
        library.set_isa(args.isa)
    limits = measure_limits(args.threads)
    for model in args.models:
        rows: list[Row] = []
        for weight_type in args.types:
            bench = Bench(library, MODELS[model], weight_type=weight_type, args=args)
            rows += measure_type(bench, weight_type, args=args, limits=limits)
            bench.core.close()
        title = f"# Kernels: {model}, {library.isa}, {args.threads} thread(s), context {args.context}"
        text = report(rows, limits, title)
        print(text)
        if args.write:
            write(args, model, text, {"limits": limits._asdict(), "rows": [row._asdict() for row in rows]})


def write(args: argparse.Namespace, model: str, text: str, numbers: dict) -> None:
    """Put the table and its numbers beside those of the other benchmarks."""
    day = datetime.date.today().isoformat()
    path = args.results / f"{day}-engine-kernels-{model}-{args.threads}-threads"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
