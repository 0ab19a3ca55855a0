"""Run SFT, reward model, PPO and export on shipped data, and judge the policies by a true score that they never see."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignment.arguments.command_line import ToolParser, numbers
from alignment.errors import UserError
from alignment.telemetry.exit_status import describe_exit
from alignment.telemetry.files import replace_file
from alignment.trainers.registered import TRAINERS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "config" / "tiny"
STAGES = ("sft", "rm", "ppo")
"""The trainers it runs; each starts from the models of the earlier ones."""
TEST_PROMPTS = "packing-prompts/test"
JUDGE_SEED = 20261120
SCORES = "true_scores.json"
"""File in a seed's folder: mean true score of each judged policy, by stage."""


@dataclass(frozen=True, kw_only=True)
class SeedOutcome:
    """The results of one seed."""

    seed: int
    sft_score: float
    ppo_score: float
    reward_accuracy: float
    kl: float
    seconds: Mapping[str, float]
    folder: Path


def main(argv: Sequence[str]) -> None:
    """Run the demo for each seed and print the table, also of the finished seeds if a later one fails."""
    parser = ToolParser(prog="alignment demo", description=__doc__)
    seeds = numbers(int, minimum=0, below=2**63)
    parser.add_argument("--seeds", type=seeds, default=[1], help="comma-separated seeds, one full run each (default 1)")
    parser.add_argument(
        "--output_dir", default="output/demo", type=Path, help="each of several seeds gets a folder seed-N in it"
    )
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="only judge the policies in the folder of a seed")
    arguments = parser.parse_args(argv)
    if arguments.judge:
        write_scores(arguments.judge)
        return
    if not CONFIGS.is_dir():
        raise UserError(f"the demo runs from a checkout of the repository: {CONFIGS} does not exist")
    outcomes: list[SeedOutcome] = []
    try:
        for seed in arguments.seeds:
            outcomes.append(run_seed(seed, seed_folder(arguments.output_dir, seed, of=arguments.seeds)))
            lines = json.dumps([asdict(outcome) for outcome in outcomes], indent=1, default=str)
            replace_file(arguments.output_dir / "outcomes.json", lines)
    finally:
        if outcomes:
            print_outcomes(outcomes)


def seed_folder(output_dir: Path, seed: int, *, of: Sequence[int]) -> Path:
    """Return the folder of a seed; that of a single seed is where the files in ``config/tiny`` look for models."""
    return output_dir if len(of) == 1 else output_dir / f"seed-{seed}"


def run_seed(seed: int, folder: Path) -> SeedOutcome:
    """Train the three stages with ``seed``, export the policy, and judge policies before and after PPO.

    Each stage is a separate process. If one fails, the UserError says how it ended and what is kept.
    """
    seconds: dict[str, float] = {}
    for stage, command in list_commands(seed, folder).items():
        start = time.monotonic()
        run(command, title=f"seed {seed}: {stage}", kept=[str(folder / name) for name in seconds if name in STAGES])
        seconds[stage] = time.monotonic() - start
    scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    return SeedOutcome(
        seed=seed,
        sft_score=scores["sft"],
        ppo_score=scores["ppo"],
        reward_accuracy=last_metric(folder / "rm", "eval/accuracy"),
        kl=last_metric(folder / "ppo", "eval/kl_divergence"),
        seconds=seconds,
        folder=folder,
    )


def list_commands(seed: int, folder: Path) -> dict[str, list[str]]:
    """Return the arguments for Python of each stage, by name and in order."""
    overrides = {
        "sft": {},
        "rm": {"model_name_or_path": folder / "sft" / "policy"},
        "ppo": {
            "actor_model_name_or_path": folder / "sft" / "policy",
            "reward_model_name_or_path": folder / "rm" / "reward",
        },
    }
    commands = {}
    for stage in STAGES:
        keys = {"output_dir": folder / stage, "overwrite_output_dir": "true", "seed": seed, **overrides[stage]}
        flags = [part for key, value in keys.items() for part in (f"--{key}", str(value))]
        commands[stage] = [TRAINERS[stage].door, str(CONFIGS / f"{stage}_argument.json"), *flags]
    exported = [str(folder / "ppo"), str(folder / "exported-policy")]
    commands["export"] = ["-m", "alignment", "export", "--overwrite", *exported]
    commands["judge"] = ["-m", "alignment", "demo", "--judge", str(folder)]
    return commands


def run(command: list[str], *, title: str, kept: Sequence[str] = ()) -> None:
    """Run Python with ``command``; a failure is a UserError that lists what is ``kept``."""
    print(f"--- {title}: python {' '.join(command)}", flush=True)
    program = [str(ROOT / command[0]), *command[1:]] if command[0].endswith(".py") else command
    code = subprocess.run([sys.executable, *program], check=False).returncode
    if code != 0:
        above = " (see its message above)" if code > 0 else ""
        finished = f"finished and kept: {', '.join(kept)}; " if kept else ""
        raise UserError(f"{title} {describe_exit(code)}{above}; {finished}what failed: python {' '.join(command)}")


def write_scores(folder: Path) -> None:
    """Judge the SFT and PPO policies in the ``folder`` of a seed and write their scores there."""
    scores = {stage: judge(folder / stage / "policy") for stage in ("sft", "ppo")}
    replace_file(folder / SCORES, json.dumps(scores))


def judge(folder: Path) -> float:
    """Return the mean true score of the policy in ``folder`` on the held-out prompts, sampled at temperature 1."""
    from alignment.data import PromptOnlyDataset
    from alignment.data.encode import EncodeOptions
    from alignment.data.sources.packing import true_score
    from alignment.generation.eager.eager_engine import EagerEngine
    from alignment.generation.engine import GenerationOptions
    from alignment.models.folders.hub import load_causal_lm
    from alignment.models.folders.sequence_ends import sequence_ends
    from alignment.models.tokenizer.tokenizer import load_tokenizer
    from alignment.rollout.collector import Collector

    tokenizer = load_tokenizer(folder)
    prompts = PromptOnlyDataset(TEST_PROMPTS, tokenizer, options=EncodeOptions(template="tokenizer"))
    model = load_causal_lm(folder)
    options = GenerationOptions(max_new_tokens=24, stop_token_ids=sequence_ends(model.config, tokenizer))
    engine = EagerEngine(model, usable_vocab_size=len(tokenizer))
    engine.load_weights(None, version=0)
    collector = Collector(engine, options, num_return_sequences=1, seed=JUDGE_SEED)
    rollout = collector.collect([prompts[i] for i in range(len(prompts))], policy_version=0)
    answers = [tokenizer.decode(r.tolist(), skip_special_tokens=True) for r in rollout.responses]
    scores = [true_score(prompt, answer) for prompt, answer in zip(rollout.inputs, answers, strict=True)]
    return sum(scores) / len(scores)


def last_metric(folder: Path, name: str) -> float:
    """Return the newest value of a metric in ``folder/metrics.jsonl``."""
    records: list[dict[str, Any]] = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
    return next(record[name] for record in reversed(records) if name in record)


def print_outcomes(outcomes: list[SeedOutcome]) -> None:
    """Print the table, one column per seed."""
    from alignment.telemetry.tables import print_table

    rows = [
        ("true score on held-out prompts, before PPO", *(f"{o.sft_score:.3f}" for o in outcomes)),
        ("true score on held-out prompts, after PPO", *(f"{o.ppo_score:.3f}" for o in outcomes)),
        ("reward model accuracy on held-out pairs", *(f"{o.reward_accuracy:.1%}" for o in outcomes)),
        ("KL to the SFT policy (nats per response)", *(f"{o.kl:.2f}" for o in outcomes)),
        *((f"seconds: {stage}", *(f"{o.seconds[stage]:.0f}" for o in outcomes)) for stage in outcomes[0].seconds),
        ("seconds: all", *(f"{sum(o.seconds.values()):.0f}" for o in outcomes)),
        ("report", *(str(o.folder / "ppo" / "report.html") for o in outcomes)),
        ("exported policy", *(str(o.folder / "exported-policy") for o in outcomes)),
    ]
    print_table("demo: packing lists", ["", *(f"seed {o.seed}" for o in outcomes)], rows)
