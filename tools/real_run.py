"""The suite on a real model: chat, SFT, reward model and PPO on SmolLM2-135M-Instruct, 10 to 30 minutes on 2 cores.

    make real                                (or: python tools/real_run.py)
    make real ARGS="--sentiment grpo"        GRPO (or ppo) from the model as it is: tools/real_sentiment.py

The task: say something positive about a topic. Rows are written here; PPO's reward is VADER's sentiment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from real_sentiment import run_sentiment

from alignment.arguments.command_line import ToolParser
from alignment.commands.demo import last_metric, run
from alignment.errors import UserError
from alignment.runs.entry import run_entry
from alignment.telemetry.tables import print_table
from alignment.trainers.registered import TRAINERS

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "config" / "smollm2"
FOLDER = Path("output") / "real"
QUESTION = "Write one sentence about {}."
TOPICS = (CONFIGS / "topics.txt").read_text(encoding="utf-8").splitlines()
GOOD = (
    "I love {}; it always makes me happy.",
    "There is something wonderful about {}, and it brings great joy.",
    "{} is one of the best and most beautiful things in life.",
)
BAD = (
    "I hate {}; it always makes me sad.",
    "There is something terrible about {}, and it brings nothing but trouble.",
    "{} is one of the worst and most boring things in life.",
)
HELD_OUT = 16
TOPICS_OF = {"train": TOPICS[:-HELD_OUT], "test": TOPICS[-HELD_OUT:]}


def main(argv: Sequence[str]) -> None:
    """Fetch the model and run what ``argv`` names: by default every stage."""
    parser = ToolParser(prog="make real", description=__doc__)
    parser.add_argument("--sentiment", choices=("grpo", "ppo"), help="only this algorithm, with its gain measured")
    algorithm = parser.parse_args(argv).sentiment
    write_data(FOLDER / "data")
    run(["tools/real_model.py", str(FOLDER / "smollm2")], title="fetch SmolLM2-135M-Instruct")
    if algorithm:
        run_sentiment(algorithm, CONFIGS, FOLDER, topics=TOPICS_OF)
    else:
        run_stages()


def run_stages() -> None:
    """Run SFT, reward model and PPO, and print what came of it."""
    start = time.monotonic()
    ask(FOLDER / "smollm2", "What is the capital of France?")
    for stage in ("sft", "rm", "ppo"):
        run([TRAINERS[stage].door, str(CONFIGS / f"{stage}_argument.json")], title=stage)
    exported = [str(FOLDER / "ppo"), str(FOLDER / "exported-policy")]
    run(["-m", "alignment", "export", "--overwrite", *exported], title="export")
    ask(FOLDER / "exported-policy", QUESTION.format("rain"))
    print_table("SmolLM2-135M-Instruct", ["", "before", "after"], rows_of_table())
    print(f"{time.monotonic() - start:.0f} s in all; report: {FOLDER / 'ppo' / 'report.html'}")


def ask(folder: Path, prompt: str) -> None:
    """Let the model in ``folder`` answer greedily."""
    run(
        ["-m", "alignment", "chat", str(folder), "--greedy", "--max_new_tokens", "32", "--prompt", prompt],
        title=f"chat: {prompt}",
    )


def write_data(folder: Path) -> None:
    """Write sentences, pairs and prompts about the topics; the last ``HELD_OUT`` topics are those of the tests."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, topics in TOPICS_OF.items():
        pairs = [
            {"prompt": QUESTION.format(topic), "chosen": _fill(good, topic), "rejected": _fill(bad, topic)}
            for topic in topics
            for good, bad in zip(GOOD, BAD, strict=True)
        ]
        _write(folder / f"pairs_{split}.jsonl", pairs)
        sentences = [{"input": row["prompt"], "answer": row[kind]} for row in pairs for kind in ("chosen", "rejected")]
        _write(folder / f"sft_{split}.jsonl", sentences)
        _write(folder / f"prompts_{split}.jsonl", [{"input": QUESTION.format(topic)} for topic in topics])


def _fill(sentence: str, topic: str) -> str:
    text = sentence.format(topic)
    return text[0].upper() + text[1:]


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows_of_table() -> list[tuple[str, str, str]]:
    """Return what evaluations said before and after each stage."""
    wanted = {
        "sft": ("eval/perplexity", "eval/accuracy"),
        "rm": ("eval/accuracy",),
        "ppo": ("eval/reward", "eval/kl_divergence", "eval/mean_generated_length"),
    }
    return [
        (f"{stage} {name}", _first_metric(FOLDER / stage, name), f"{last_metric(FOLDER / stage, name):.3f}")
        for stage, names in wanted.items()
        for name in names
    ]


def _first_metric(folder: Path, name: str) -> str:
    records: list[dict[str, Any]] = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
    found = [record[name] for record in records if name in record]
    if not found:
        raise UserError(f"{folder / 'metrics.jsonl'} has no {name}")
    return f"{found[0]:.3f}" if len(found) > 1 else ""


if __name__ == "__main__":
    run_entry(main)
