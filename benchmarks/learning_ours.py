"""The runs of ``learning.py`` by this package, and the judge of all policies.

``python learning_ours.py RUN...`` trains as each RUN/settings.json says and writes RUN/points.json; ``python
learning_ours.py judge RUN...`` adds to all points the true scores of their policies, sampled and greedy.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from alignment.device.host import prepare_host  # noqa: E402

HOST = prepare_host()

import numpy as np  # noqa: E402
from learning_arms import reward_of  # noqa: E402
from learning_tasks import TASKS  # noqa: E402
from learning_work import Curve, read_points, read_settings, write_points  # noqa: E402

from alignment.data import PromptOnlyDataset  # noqa: E402
from alignment.data.encode import EncodeOptions  # noqa: E402
from alignment.generation.eager.eager_engine import EagerEngine  # noqa: E402
from alignment.generation.engine import GenerationOptions  # noqa: E402
from alignment.loops.evaluation import Evaluation  # noqa: E402
from alignment.models.folders.hub import load_causal_lm, load_score_model  # noqa: E402
from alignment.models.folders.saving import save_model  # noqa: E402
from alignment.models.folders.sequence_ends import sequence_ends  # noqa: E402
from alignment.models.tokenizer.tokenizer import Tokenizer, load_tokenizer  # noqa: E402
from alignment.parallel.build_runner import build_runner  # noqa: E402
from alignment.parallel.runner import ModelRunner  # noqa: E402
from alignment.parallel.topology import Topology  # noqa: E402
from alignment.records import Experience  # noqa: E402
from alignment.rollout.collector import Collector  # noqa: E402
from alignment.rollout.forward import measure_scores  # noqa: E402
from alignment.runs.launch import Launch, open_launch  # noqa: E402
from alignment.runs.offline.train import build_run, open_rows  # noqa: E402
from alignment.runs.on_policy.prompts import RowPlan, load_data  # noqa: E402
from alignment.runs.on_policy.roles import load_roles  # noqa: E402
from alignment.runs.on_policy.run import OnPolicyRun  # noqa: E402
from alignment.trainers.objectives import objective_of  # noqa: E402
from alignment.trainers.registered import TRAINERS  # noqa: E402

JUDGE_SEED = 20261129
SAMPLES = 4
"""Answers to a prompt that are judged."""


class MeasuredRun(OnPolicyRun):
    """A run whose evaluations are points of a curve and cost nothing."""

    curve: Curve

    def _evaluation(self) -> Callable[[], Evaluation]:
        evaluate = super()._evaluation()

        def measured() -> Evaluation:
            with self.curve.point(evaluate.version()) as point:
                metrics, rows = evaluate()
                point |= {"reward": metrics["eval/reward"], "kl": metrics.get("eval/kl_divergence")}
                point["policy"] = str(self.curve.folder / f"policy-{point['update']}")
                self._state.models["policy"](Path(point["policy"]))
            return metrics, rows

        return measured  # type: ignore[return-value]


def train_on_policy(launch: Launch, curve: Curve) -> None:
    """Train an on-policy algorithm and write its curve."""
    roles = load_roles(launch)
    plan = RowPlan.of(launch.parsed, batch_ranks=1)
    run = MeasuredRun(launch, roles, load_data(launch, roles, plan), plan)
    run.curve = curve

    def count(experience: Experience) -> None:
        curve.tokens += int(experience.rollout.response_lengths.sum())

    curve.start()
    run.train(count)


def train_offline(launch: Launch, curve: Curve, name: str) -> None:
    """Train an offline objective; each evaluation keeps the policy."""
    objective = objective_of(name, launch.parsed)
    run = build_run(launch, objective, lambda tokenizer: open_rows(launch, objective.dataset, tokenizer))

    def make_evaluation(runner: Any) -> Callable[[], Evaluation]:
        evaluate, made = run.make_evaluation(runner), [0]

        def measured() -> Evaluation:
            made[0] += launch.parsed.training.eval_steps
            with curve.point(made[0]) as point:
                point["policy"] = str(curve.folder / f"policy-{made[0]}")
                save_model(Path(point["policy"]), run.model, run.tokenizer)
                return evaluate()

        return measured

    curve.start()
    replace(run, make_evaluation=make_evaluation).train()


@cache
def read_prompts(data: Path) -> tuple[Tokenizer, list[dict[str, Any]]]:
    """Return the tokenizer and the held-out prompts of a task."""
    tokenizer = load_tokenizer(data / "model")
    options = EncodeOptions(template="tokenizer")
    prompts = PromptOnlyDataset(f"jsonl:1:{data / 'prompts_test.jsonl'}", tokenizer, options=options)
    return tokenizer, [prompts[i] for i in range(len(prompts))]


@cache
def read_reward(folder: Path) -> ModelRunner:
    """Return the reward model that training uses."""
    model = load_score_model(folder)
    model.eval()
    return build_runner(model, Topology(device="cpu"))


def judge(task: str, data: Path, policy: Path) -> dict[str, Any]:
    """Return the mean true score of ``policy`` on the held-out prompts, sampled at temperature 1 and greedy.

    ``..._rows`` are the means by prompt, for the errors of changes between policies; ``..._reward`` is what the reward
    model pays for the same answers.
    """
    answer, found = _answering(task, data, policy), {}
    for name, samples in (("score", SAMPLES), ("greedy", 1)):
        scores, rewards = answer(samples, do_sample=name == "score")
        found[name] = sum(scores) / len(scores)
        found[f"{name}_rows"] = np.reshape(scores, (-1, samples)).mean(axis=1).round(6).tolist()
        found[f"{name}_reward"] = float(rewards.mean())
    return found


def answer_greedily(task: str, data: Path, policy: Path) -> dict[str, list[float]]:
    """Return the ``truth`` and the ``reward`` of a greedy answer of ``policy`` to each held-out prompt."""
    truth, rewards = _answering(task, data, policy)(1, do_sample=False)
    return {"truth": truth, "reward": rewards.tolist()}


def _answering(task: str, data: Path, policy: Path) -> Callable[..., tuple[list[float], np.ndarray]]:
    """Return what gives true scores and rewards of ``samples`` answers of ``policy`` to each held-out prompt."""
    tokenizer, prompts = read_prompts(data)
    model = load_causal_lm(policy)
    engine = EagerEngine(model, usable_vocab_size=len(tokenizer))
    engine.load_weights(None, version=0)
    ends = sequence_ends(model.config, tokenizer)

    def answer(samples: int, *, do_sample: bool) -> tuple[list[float], np.ndarray]:
        how = GenerationOptions(max_new_tokens=16, stop_token_ids=ends, do_sample=do_sample)
        collector = Collector(engine, how, num_return_sequences=samples, seed=JUDGE_SEED, rows_per_call=1024)
        rollout = collector.collect(prompts, policy_version=0)
        answers = [tokenizer.decode(r.tolist(), skip_special_tokens=True) for r in rollout.responses]
        rows = [np.concatenate(pair) for pair in zip(rollout.prompts, rollout.responses, strict=True)]
        scores = [float(TASKS[task].score(p, a)) for p, a in zip(rollout.inputs, answers, strict=True)]
        return scores, measure_scores(read_reward(reward_of(task, data)), rows, rows_per_batch=1024)

    return answer


def judge_run(folder: Path) -> None:
    """Add the true scores to the points of a run."""
    settings, points = read_settings(folder), read_points(folder)
    for point in (point for point in points if "greedy_reward" not in point):
        point |= judge(settings["task"], Path(settings["data"]), Path(point["policy"]))
    write_points(folder, points)


def train(folder: Path) -> None:
    """Train as the settings in ``folder`` say."""
    settings, curve = read_settings(folder), Curve(folder)
    trainer = TRAINERS[settings["trainer"]]
    gc.collect()
    gc.freeze()  # as on TRL's side: what earlier runs of this process left would be looked through again and again
    with open_launch(trainer.parse(settings["arguments"]), host=HOST) as launch:
        if trainer.is_on_policy:
            train_on_policy(launch, curve)
        else:
            train_offline(launch, curve, settings["trainer"])
    curve.write()


def main() -> None:
    """Train or judge runs."""
    is_judge = sys.argv[1] == "judge"
    for name in sys.argv[1 + is_judge :]:
        (judge_run if is_judge else train)(Path(name))


if __name__ == "__main__":
    main()
