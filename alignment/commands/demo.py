"""Train, align and export a policy on shipped data, and judge it by a true score that no model sees."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from alignment.arguments.command_line import ToolParser, numbers
from alignment.errors import UserError
from alignment.telemetry.exit_status import describe_exit
from alignment.telemetry.files import replace_file
from alignment.trainers.registered import TRAINERS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "config" / "tiny"
TEST_PROMPTS = "packing-prompts/test"
JUDGE_SEED = 20261120
SCORES = "true_scores.json"
"""File in a seed's folder: mean true score of each judged policy, by stage."""


class Stage(NamedTuple):
    """A run of the demo, with the arguments in ``config/tiny/NAME_argument.json``."""

    name: str
    """Also its folder in that of the seed."""
    models: Mapping[str, str] = MappingProxyType({})
    """Key to the folder of a model of an earlier stage, in that of the seed."""
    trainer: str = ""
    """The trainer (empty: the one with the name of the stage)."""


class Figure(NamedTuple):
    """A row of the table: the last value of a metric of a stage."""

    title: str
    stage: str
    metric: str
    form: str
    """Format of the number."""


class Recipe(NamedTuple):
    """What the demo runs for an objective; the policies of the first and the last stage are judged."""

    stages: Sequence[Stage]
    figures: Sequence[Figure]


_SFT = Stage("sft")
_FROM_SFT = {"model_name_or_path": "sft/policy"}
_PPO_MODELS = {"actor_model_name_or_path": "sft/policy", "reward_model_name_or_path": "rm/reward"}
RECIPES: Mapping[str, Recipe] = MappingProxyType({
    "ppo": Recipe(
        (_SFT, Stage("rm", _FROM_SFT), Stage("ppo", _PPO_MODELS)),
        (
            Figure("reward model accuracy on held-out pairs", "rm", "eval/accuracy", ".1%"),
            Figure("KL to the SFT policy (nats per response)", "ppo", "eval/kl_divergence", ".2f"),
        ),
    ),
    "ppo_lagrangian": Recipe(
        (
            *(_SFT, Stage("rm", _FROM_SFT), Stage("rm_cost", _FROM_SFT, "rm")),
            Stage("ppo_lagrangian", {**_PPO_MODELS, "cost_model_name_or_path": "rm_cost/reward"}, "ppo"),
        ),
        (
            Figure("cost model accuracy on held-out pairs", "rm_cost", "eval/accuracy", ".1%"),
            Figure("cost (safe below 0)", "ppo_lagrangian", "eval/cost", ".2f"),
            Figure("unsafe answers, by the cost model", "ppo_lagrangian", "eval/unsafe_rate", ".1%"),
            Figure("lambda", "ppo_lagrangian", "train/lambda", ".2f"),
            Figure("KL to the SFT policy (nats per response)", "ppo_lagrangian", "eval/kl_divergence", ".2f"),
        ),
    ),
    "pairwise": Recipe(
        (
            *(_SFT, Stage("pairwise", _FROM_SFT)),
            Stage("grpo_pairwise", {**_PPO_MODELS, "reward_model_name_or_path": "pairwise/reward"}, "ppo"),
        ),
        (
            Figure("pairwise model accuracy on held-out pairs", "pairwise", "eval/accuracy", ".1%"),
            Figure("win rate against the SFT policy's answers", "grpo_pairwise", "eval/reward", ".1%"),
            Figure("KL to the SFT policy (nats per response)", "grpo_pairwise", "eval/kl_divergence", ".2f"),
        ),
    ),
    "dpo": Recipe(
        (_SFT, Stage("dpo", _FROM_SFT)),
        (Figure("held-out pairs ranked correctly", "dpo", "eval/rewards/accuracies", ".1%"),),
    ),
    "lora": Recipe(
        (_SFT, Stage("dpo_lora", _FROM_SFT, "dpo")),
        (Figure("held-out pairs ranked correctly", "dpo_lora", "eval/rewards/accuracies", ".1%"),),
    ),
    "kto": Recipe(
        (_SFT, Stage("kto", _FROM_SFT)),
        (Figure("reward of good minus that of bad held-out answers", "kto", "eval/rewards/margins", ".2f"),),
    ),
    "kd": Recipe(
        (_SFT, Stage("dpo", _FROM_SFT), Stage("kd", {"teacher_model_name_or_path": "dpo/policy"})),
        (Figure("divergence from the teacher, held out (nats per token)", "kd", "eval/divergence", ".3f"),),
    ),
})  # fmt: skip
"""Value of ``--objective`` to recipe."""


@dataclass(frozen=True, kw_only=True)
class SeedOutcome:
    """The results of one seed."""

    objective: str
    seed: int
    scores: Mapping[str, float]
    """Mean true score of each judged policy, by stage."""
    figures: Mapping[str, float]
    """Numbers of the recipe's figures, by title."""
    seconds: Mapping[str, float]
    folder: Path


def main(argv: Sequence[str]) -> None:
    """Run the demo for each seed and print the table, also of the finished seeds if a later one fails."""
    parser = ToolParser(prog="alignment demo", description=__doc__)
    seeds = numbers(int, minimum=0, below=2**63)
    parser.add_argument("--objective", choices=RECIPES, default="ppo", help="how the policy is aligned (default ppo)")
    parser.add_argument("--seeds", type=seeds, default=[1], help="comma-separated seeds, one full run each (default 1)")
    parser.add_argument(
        "--output_dir", default="output/demo", type=Path, help="each of several seeds gets a folder seed-N in it"
    )
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="only judge the policies in the folder of a seed")
    arguments = parser.parse_args(argv)
    if arguments.judge:
        write_scores(arguments.judge, arguments.objective)
        return
    if not CONFIGS.is_dir():
        raise UserError(f"the demo runs from a checkout of the repository: {CONFIGS} does not exist")
    outcomes: list[SeedOutcome] = []
    try:
        for seed in arguments.seeds:
            folder = seed_folder(arguments.output_dir, seed, of=arguments.seeds)
            outcomes.append(run_seed(arguments.objective, seed, folder))
            lines = json.dumps([asdict(outcome) for outcome in outcomes], indent=1, default=str)
            replace_file(arguments.output_dir / "outcomes.json", lines)
    finally:
        if outcomes:
            print_outcomes(outcomes)


def seed_folder(output_dir: Path, seed: int, *, of: Sequence[int]) -> Path:
    """Return the folder of a seed; that of a single seed is where the files in ``config/tiny`` look for models."""
    return output_dir if len(of) == 1 else output_dir / f"seed-{seed}"


def run_seed(objective: str, seed: int, folder: Path) -> SeedOutcome:
    """Train the stages of ``objective`` with ``seed``, export the policy, and judge the first and the last policy.

    Each stage is a separate process. If one fails, the UserError says how it ended and what is kept.
    """
    recipe, seconds = RECIPES[objective], {}
    trained = {stage.name for stage in recipe.stages}
    for stage, command in list_commands(objective, seed, folder).items():
        start = time.monotonic()
        run(command, title=f"seed {seed}: {stage}", kept=[str(folder / name) for name in seconds if name in trained])
        seconds[stage] = time.monotonic() - start
    return SeedOutcome(
        objective=objective,
        seed=seed,
        scores=json.loads((folder / SCORES).read_text(encoding="utf-8")),
        figures={f.title: last_metric(folder / f.stage, f.metric) for f in recipe.figures},
        seconds=seconds,
        folder=folder,
    )


def list_commands(objective: str, seed: int, folder: Path) -> dict[str, list[str]]:
    """Return the arguments for Python of each stage of ``objective``, by name and in order."""
    commands, stages = {}, RECIPES[objective].stages
    for stage in stages:
        models = {key: folder / model for key, model in stage.models.items()}
        keys = {"output_dir": folder / stage.name, "overwrite_output_dir": "true", "seed": seed, **models}
        flags = [part for key, value in keys.items() for part in (f"--{key}", str(value))]
        trainer = stage.trainer or stage.name
        door = TRAINERS[trainer].door
        start = [door] if door else ["-m", "alignment", "train", trainer]
        commands[stage.name] = [*start, str(CONFIGS / f"{stage.name}_argument.json"), *flags]
    exported = [str(folder / stages[-1].name), str(folder / "exported-policy")]
    commands["export"] = ["-m", "alignment", "export", "--overwrite", *exported]
    commands["judge"] = ["-m", "alignment", "demo", "--objective", objective, "--judge", str(folder)]
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


def write_scores(folder: Path, objective: str) -> None:
    """Judge the first and the last policy of ``objective`` in the ``folder`` of a seed; write their scores there."""
    stages = RECIPES[objective].stages
    scores = {stage.name: judge(folder / stage.name / "policy") for stage in (stages[0], stages[-1])}
    replace_file(folder / SCORES, json.dumps(scores))


def judge(folder: Path) -> float:
    """Return the mean true score of the policy in ``folder`` on the held-out prompts, sampled at temperature 1."""
    from alignment.commands.export import load_merged
    from alignment.data import PromptOnlyDataset
    from alignment.data.encode import EncodeOptions
    from alignment.data.sources.packing import true_score
    from alignment.generation.eager.eager_engine import EagerEngine
    from alignment.generation.engine import GenerationOptions
    from alignment.models.adapters.folder import adapter_in
    from alignment.models.folders.hub import load_causal_lm
    from alignment.models.folders.sequence_ends import sequence_ends
    from alignment.models.tokenizer.tokenizer import load_tokenizer
    from alignment.rollout.collector import Collector

    tokenizer = load_tokenizer(folder)
    prompts = PromptOnlyDataset(TEST_PROMPTS, tokenizer, options=EncodeOptions(template="tokenizer"))
    model = load_merged(folder)[0] if adapter_in(folder) else load_causal_lm(folder)
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

    first = outcomes[0]
    score, aligned = "true score on held-out prompts, after", list(first.scores)[-1]
    figures = RECIPES[first.objective].figures
    rows = [
        *((f"{score} {stage}", *(f"{o.scores[stage]:.3f}" for o in outcomes)) for stage in first.scores),
        *((f.title, *(format(o.figures[f.title], f.form) for o in outcomes)) for f in figures),
        *((f"seconds: {stage}", *(f"{o.seconds[stage]:.0f}" for o in outcomes)) for stage in first.seconds),
        ("seconds: all", *(f"{sum(o.seconds.values()):.0f}" for o in outcomes)),
        ("report", *(str(o.folder / aligned / "report.html") for o in outcomes)),
        ("exported policy", *(str(o.folder / "exported-policy") for o in outcomes)),
    ]
    print_table("demo: packing lists", ["", *(f"seed {o.seed}" for o in outcomes)], rows)
