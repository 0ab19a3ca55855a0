"""Time the fused engine on answers of very different lengths, with and without continuous batching.

    python benchmarks/engine_longtail.py [--model 110m] [--slots 8 32] [--threads 1] [--weight-type float32] [--write]

64 prompts of 128 tokens; answer lengths are log-normal (its quantiles, shuffled) with mean 128, cut at 1024. On the
other two sides the same engine refills its slots only when all of them are free. In one, rows that have ended cost
nothing; in the other they are computed until the longest of their batch ends, as where a batch is one tensor.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path
from statistics import NormalDist, median
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

from alignment.device.host import prepare_host  # noqa: E402

SHAPES = {
    "tiny": (512, 64, 172, 4, 4),
    "25m": (32000, 256, 688, 8, 8),
    "110m": (32000, 768, 2048, 12, 12),
}
"""Vocabulary, hidden and inner width, layers, heads."""
NAMES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
NUM_PROMPTS, PROMPT_TOKENS, MEAN_TOKENS, MAX_TOKENS = 64, 128, 128, 1024
SIGMA = 1.0
"""Standard deviation of the logarithm of an answer's length."""


class Row(NamedTuple):
    """One number of slots: [wall seconds, CPU seconds, passes] of each side."""

    slots: int
    continuous: list[float]
    together: list[float]
    padded: list[float]
    same_tokens: bool


def main() -> None:
    """Measure, print and, when asked, write."""
    options = parse_options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    host, load = prepare_host(), os.getloadavg()[0]
    work = LongTail(options)
    rows = [work.measure(slots, repeats=options.repeats) for slots in options.slots]
    report = write_markdown(rows, work, options, host=f"{host}; load before {load:.2f}")
    print(report)
    if options.write:
        stem = options.results / f"{datetime.date.today():%Y-%m-%d}_engine_longtail"
        stem.with_suffix(".md").write_text(report, encoding="utf-8")
        records = {"host": host, "options": {**vars(options), "results": None}, "rows": [row._asdict() for row in rows]}
        stem.with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {stem}.md and .json")


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="110m")
    parser.add_argument("--slots", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weight-type", default="float32")
    parser.add_argument("--kv-type", default="float32")
    parser.add_argument("--kv-memory", default="2GiB")
    parser.add_argument("--repeats", type=int, default=3, help="measured runs of each side")
    parser.add_argument("--write", action="store_true", help="write a dated markdown and JSON file")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for --write")
    return parser.parse_args()


class LongTail:
    """The model, the prompts and the lengths; Paddle is imported when it is made."""

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy as np

        from alignment.architecture.decoder_config import DecoderConfig
        from alignment.models.decoder.decoder import CausalLM
        from alignment.models.decoder.initialise import draw_weights

        shape = dict(zip(NAMES, SHAPES[options.model], strict=True))
        config = {"model_type": "llama", **shape, "max_position_embeddings": PROMPT_TOKENS + MAX_TOKENS}
        self._options = options
        self._model = CausalLM(DecoderConfig.from_dict(config))
        draw_weights(self._model, seed=0, std=0.02)
        rng = np.random.default_rng(0)
        self._prompts = list(rng.integers(0, shape["vocab_size"], (NUM_PROMPTS, PROMPT_TOKENS)))
        steps = [NormalDist().inv_cdf((i + 0.5) / NUM_PROMPTS) for i in rng.permutation(NUM_PROMPTS)]
        lengths = MEAN_TOKENS * np.exp(SIGMA * np.array(steps) - SIGMA**2 / 2)
        self.lengths = np.clip(lengths.round(), 1, MAX_TOKENS).astype(int).tolist()

    def measure(self, slots: int, *, repeats: int) -> Row:
        """Run both sides in turns with ``slots`` slots."""
        from alignment.generation.fused.fused_engine import FusedEngine
        from alignment.generation.fused.fused_settings import FusedSettings

        options = self._options
        settings = FusedSettings(
            num_slots=slots,
            kv_memory=options.kv_memory,
            weight_type=options.weight_type,
            kv_type=options.kv_type,
            threads=options.threads,
        )
        engine = FusedEngine(self._model, settings)
        engine.load_weights(None, 0)
        self._run(engine, [range(min(slots, NUM_PROMPTS))], [2] * NUM_PROMPTS)
        everything = [range(NUM_PROMPTS)]
        batches = [range(first, min(first + slots, NUM_PROMPTS)) for first in range(0, NUM_PROMPTS, slots)]
        padded = [max(self.lengths[i] for i in batch) for batch in batches for _ in batch]
        sides = ((everything, self.lengths), (batches, self.lengths), (batches, padded))
        turns = [[self._run(engine, *side) for side in sides] for _ in range(repeats)]
        numbers = [[median(turn[side][0][k] for turn in turns) for k in range(3)] for side in range(len(sides))]
        return Row(slots, *numbers, same_tokens=all(self._agree(turn) for turn in turns))

    def _agree(self, turn: list[tuple[list[float], list[list[int]]]]) -> bool:
        """Return whether all sides gave the same tokens, as far as they count."""
        answers = [[row[:length] for row, length in zip(tokens, self.lengths, strict=True)] for _, tokens in turn]
        return all([len(row) for row in side] == self.lengths and side == answers[0] for side in answers)

    def _run(self, engine: Any, batches: list[range], limits: list[int]) -> tuple[list[float], list[list[int]]]:
        """Hand the engine one batch after the other; return ([wall, CPU, passes], tokens)."""
        from alignment.generation.engine import GenerationOptions
        from alignment.generation.fused.sequences import make_sequences

        options = GenerationOptions(max_new_tokens=MAX_TOKENS)
        passes, tokens, wall, cpu = 0, [], time.perf_counter(), time.process_time()
        for batch in batches:
            prompts, wanted = ([every[i] for i in batch] for every in (self._prompts, limits))
            answers = engine.run_sequences(make_sequences(prompts, wanted, sequence_ids=batch), options, seed=0)
            passes += engine.counts.steps
            tokens += [answer.token_ids.tolist() for answer in answers]
        return [time.perf_counter() - wall, time.process_time() - cpu, passes], tokens


def write_markdown(rows: list[Row], work: LongTail, options: argparse.Namespace, *, host: str) -> str:
    """Return the report: settings, then a table."""
    lengths = work.lengths
    lines = [
        f"# Fused engine, answers of log-normal length: continuous batching, {options.model}",
        "",
        f"{datetime.date.today()}, {options.threads} thread(s), weights {options.weight_type}, "
        f"cache {options.kv_type}, kv_memory {options.kv_memory}, median of {options.repeats}. {host}.",
        f"{NUM_PROMPTS} prompts of {PROMPT_TOKENS} tokens; {sum(lengths)} answer tokens, mean "
        f"{sum(lengths) / len(lengths):.0f}, median {median(lengths):.0f}, longest {max(lengths)}.",
        "",
        "| slots | clock | continuous | refilled together | ratio | and padded | ratio | same tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for place, clock in enumerate(("wall s", "CPU s", "passes")):
            one, two, three = (side[place] for side in (row.continuous, row.together, row.padded))
            numbers = f"{one:.2f} | {two:.2f} | {two / one:.2f} | {three:.2f} | {three / one:.2f}"
            lines.append(f"| {row.slots} | {clock} | {numbers} | {'yes' if row.same_tokens else 'NO'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
