"""What the head's product and the sampler take of a decode step, for large vocabularies.

    python benchmarks/head_sampler.py [--models 768 896] [--vocabs 32000 152000] [--types float32] [--rows 1 8 32]

A step computes one token of each row after ``--context`` others and draws the next. The head's time is that of the step
less that of the same model with a vocabulary of 64. Draws come right after the step, as in the engine, from logits that
it has just written. Times are medians of one thread's CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

import numpy as np  # noqa: E402
from engine_kernels import Bench  # noqa: E402

from alignment.ops.native.library import Sampling, find_core  # noqa: E402

SHAPES = {
    768: dict(num_hidden_layers=12, hidden_size=768, intermediate_size=2048, num_attention_heads=12),
    896: dict(num_hidden_layers=24, hidden_size=896, intermediate_size=4864, num_attention_heads=14),
}
"""Sizes by hidden size: those of ``rollout.py``'s 110m, and about those of Qwen2.5-0.5B."""
DRAWS = {
    "greedy": dict(do_sample=False),
    "all tokens": dict(do_sample=True),
    "top_k 50": dict(do_sample=True, top_k=50),
    "top_p 0.9": dict(do_sample=True, top_p=0.9),
}
SMALL = 64


def sampling(vocab: int, **options: object) -> Sampling:
    """Return neutral settings but for ``options``."""
    neutral = dict(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, stop_token_ids=())
    return Sampling(usable_vocab=vocab, **{**neutral, **options})


def time_step(bench: Bench, rows: int, seconds: float) -> tuple[float, dict[str, float]]:
    """Return the milliseconds of a pass of ``rows`` rows, and those of each kind of draw right after it."""
    step, uniforms = bench.step(rows), np.random.default_rng(0).random(rows)
    passes: list[float] = []
    draws: dict[str, list[float]] = {name: [] for name in DRAWS}
    end = time.perf_counter() + seconds
    while len(passes) < 5 * len(DRAWS) or time.perf_counter() < end:
        for name, options in DRAWS.items():
            logits, spent = timed(step)
            passes.append(spent)
            _, spent = timed(lambda logits=logits, options=options: bench.core_library.sample(
                logits, uniforms, sampling(bench.vocab, **options)
            ))  # fmt: skip
            draws[name].append(spent)
    return statistics.median(passes), {name: statistics.median(times) for name, times in draws.items()}


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """Return what ``work`` returns and its milliseconds of CPU."""
    start = time.thread_time()
    made = work()
    return made, 1e3 * (time.thread_time() - start)


def main() -> None:
    """Print one row for each model, type, vocabulary and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[768, 896], choices=sorted(SHAPES))
    parser.add_argument("--vocabs", type=int, nargs="+", default=[32000, 152000])
    parser.add_argument("--types", nargs="+", default=["float32"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    args.threads, args.prompts, args.batches = 1, [1], args.rows
    library = find_core().core
    print("| hidden | weights | vocabulary | rows | pass ms | head ms | " + " | ".join(DRAWS) + " | head | draws |")
    print("|" + "---|" * (8 + len(DRAWS)))
    for hidden in args.models:
        for weights in args.types:
            sizes = {}
            for vocab in [SMALL, *args.vocabs]:
                bench = Bench(library, SHAPES[hidden] | {"vocab_size": vocab}, weight_type=weights, args=args)
                bench.core_library = library
                for rows in args.rows:
                    spent, draws = time_step(bench, rows, args.seconds)
                    sizes[vocab, rows] = spent
                    if vocab == SMALL:
                        continue
                    head = spent - sizes[SMALL, rows]
                    shares = [draw / (spent + draw) for draw in draws.values()]
                    print(
                        f"| {hidden} | {weights} | {vocab} | {rows} | {spent:.1f} | {head:.1f} | "
                        + " | ".join(f"{draw:.2f}" for draw in draws.values())
                        + f" | {head / spent:.0%} | {min(shares):.1%} to {max(shares):.1%} |",
                        flush=True,
                    )
                del bench


if __name__ == "__main__":
    main()
