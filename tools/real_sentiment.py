"""GRPO or PPO on SmolLM2-135M-Instruct with VADER's sentiment as reward, and what it gained on held-out prompts.

    make real ARGS="--sentiment grpo"        (or ppo; or: python tools/real_run.py --sentiment grpo)

Four questions are asked about each topic; those about the last 16 topics are held out. The same held-out prompts are
answered before and after, so the gain is a paired one. The questions about a topic are alike: the interval resamples
topics, not prompts.
"""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from alignment.commands.demo import run
from alignment.telemetry.tables import print_table
from alignment.trainers.registered import TRAINERS

QUESTIONS = (
    "Write one sentence about {}.",
    "What do you think of {}?",
    "Tell me in one sentence what {} is like.",
    "Finish in one sentence: whenever I think of {},",
)
CRITIC_LAYERS = 6
"""The critic of PPO starts from this many first layers of the model."""
SHOWN = 8
"""Prompts whose answers are printed, of every question."""


def run_sentiment(algorithm: str, configs: Path, folder: Path, *, topics: Mapping[str, Sequence[str]]) -> None:
    """Train with ``configs/ALGORITHM_sentiment_argument.json`` and print answers and gains; ``topics`` is by split."""
    for split, names in topics.items():
        rows = [{"input": question.format(name), "label": name} for name in names for question in QUESTIONS]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / f"questions_{split}.jsonl").write_text(lines, encoding="utf-8")
    write_first_layers(folder / "smollm2", folder / "critic", CRITIC_LAYERS)
    before = _cpu_seconds()
    run([TRAINERS["ppo"].door, str(configs / f"{algorithm}_sentiment_argument.json")], title=algorithm)
    seconds, output = _cpu_seconds() - before, folder / f"{algorithm}_sentiment"
    print_gain(output, held_out=topics["test"])
    print(f"{seconds:.0f} CPU seconds, evaluations included; report: {output / 'report.html'}")


def write_first_layers(source: Path, target: Path, count: int) -> None:
    """Write the model in ``source`` with its first ``count`` layers alone to ``target``, with its tokenizer."""
    target.mkdir(parents=True, exist_ok=True)
    weights = load_file(source / "model.safetensors")
    kept = {n: w for n, w in weights.items() if not n.startswith("model.layers.") or int(n.split(".")[2]) < count}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, target / name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**config, "num_hidden_layers": count}), encoding="utf-8")


def print_gain(output: Path, *, held_out: Sequence[str]) -> None:
    """Print answers and mean scores of the first and the last evaluation in ``output/samples.jsonl``."""
    rows = [json.loads(line) for line in (output / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    first, last = ([row for row in rows if row["step"] == step] for step in (rows[0]["step"], rows[-1]["step"]))
    answers = [(a["prompt"], a["response"], b["response"]) for a, b in zip(first, last, strict=True)]
    print_table("held-out prompts", ["prompt", "before", "after"], answers[:: len(answers) // SHOWN + 1])
    print_table(
        f"means of {len(first)} held-out prompts",
        ["", "before", "after", "gain", "95 % interval of the gain"],
        [_gain_row(name, values, len(held_out)) for name, values in _columns(first, last).items()],
    )


def _columns(first: list[dict[str, Any]], last: list[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Return the numbers of each row before and after, by what they are."""
    columns = {"sentiment": "score", "names its topic": "on_topic"}
    found = {
        title: tuple([float(row[key]) for row in rows] for rows in (first, last)) for title, key in columns.items()
    }
    ended = tuple([float(row["finish_reason"] == "stop") for row in rows] for rows in (first, last))
    return {**found, "ended by itself": ended}


def _gain_row(name: str, values: tuple[list[float], list[float]], topics: int) -> tuple[str, str, str, str, str]:
    before, after = (np.array(numbers) for numbers in values)
    low, high = paired_interval((after - before).reshape(topics, -1).mean(axis=1))
    gain = after.mean() - before.mean()
    return name, f"{before.mean():.3f}", f"{after.mean():.3f}", f"{gain:+.3f}", f"{low:+.3f} to {high:+.3f}"


def paired_interval(gains: NDArray[np.float64], *, draws: int = 10_000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of ``gains`` [topics]."""
    drawn = np.random.default_rng(0).choice(gains, (draws, len(gains))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
