"""SIGKILL runs of the trainers at random moments, saving included: the weights equal the unbroken run's."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
import traceback

import pytest

from alignment.telemetry.jsonl import read_json_lines
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import BASE, filled, make_models
from tests.tiny_runs import read_shared_metrics

KILLS = int(os.environ.get("ALIGNMENT_TEST_KILLS", "1"))
"""Kills of each run; of all runs, every second one hits in the middle of writing a checkpoint."""
SECONDS = 60
LORA = {"lora": True, "lora_rank": 2, "lora_dropout": 0.1}
ATTRIBUTES = ["coverage", "excess", "closed", "chatter"]
AHEAD = {"rollout_ahead": 1, "use_adaptive_entropy": True, "entropy_target": 5.0, "entropy_coeff": 0.1}
DRAFTS = {"speculative_tokens": "auto", "speculative_method": "previous", "num_train_epochs": 3}
DRAFTS |= {"train_datasets": "packing-prompts/train:8/-1"}
COARSE = {"reward_model_name_or_path": None, "reward_function": "{function.py}:parity", "max_gen_batches": 16}
"""Half of all pairs of responses have equal rewards, and are replaced by dynamic sampling."""
JUDGED = {
    "evaluation_strategy": "steps", "eval_steps": 1, "eval_datasets": "packing-prompts/test:4/-1", "eval_greedy": True,
    "eval_reward": "{compares},{function.py}:parity", "metric_for_best_model": "greedy_compares",
    "load_best_model_at_end": True,
}  # fmt: skip
"""Two kinds of answers in each evaluation, for which a second judge compares them with those of the first one."""
ROWS = {
    "sft LoRA": ("sft", LORA),
    "sft QLoRA": ("sft", {**LORA, "load_in_4bit": True}),
    "dpo": ("dpo", {"loss_type": "bco_pair", "ref_model_update_steps": 2}),
    "dpo LoRA": ("dpo", LORA),
    "kto": ("kto", {"packing_samples": True, "max_tokens_per_batch": 200}),
    "kd": ("kd", {"beta": 0.5, "kd_coef": 1.0, "lmbda": 0.5, "max_dec_len": 8}),
    "rm": ("rm", {}),
    "rm regression": (
        "rm",
        {"objective": "regression", "attributes": ATTRIBUTES, "train_datasets": "packing-attributes/train:24/-1"},
    ),
    "rm gating": ("rm", {"objective": "gating", "model_name_or_path": "{two scores}", "gating_hidden_size": 8}),
    "rm process": (
        "rm",
        {"objective": "process", "placeholder_token": "and", "train_datasets": "packing-steps/train:24/-1"},
    ),
    "lagrangian ahead": (
        "ppo",
        {"rl_algorithm": "ppo_lagrangian", "cost_model_name_or_path": "{cost}", "use_ema": True, **AHEAD},
    ),
    "dapo ahead": (
        "ppo",
        {"rl_algorithm": "dapo", "num_return_sequences": 2, "per_device_prompt_batch_size": 2, **COARSE, **AHEAD},
    ),
    "remax ahead": ("ppo", {"rl_algorithm": "remax", "gradient_accumulation_steps": 1, **AHEAD, **DRAFTS}),
    "grpo judged": ("ppo", {"rl_algorithm": "grpo", "num_return_sequences": 2, **JUDGED}),
    "dpo mixture": ("dpo", {"model_name_or_path": "{mixture}", "aux_loss_coef": 0.05}),
    "ppo mixture": (
        "ppo",
        {
            "actor_model_name_or_path": "{mixture}",
            "aux_loss_coef": 0.05,
            "rollout_weight_type": "int8",
            "use_rollout_routing_replay": True,
            **AHEAD,
        },
    ),
    "pairwise": ("pairwise", {}),
    "pairwise LoRA": ("pairwise", LORA),
}
EXCEEDED = {
    "lagrangian ahead": ("rollout/staleness", 0),
    "dapo ahead": ("rollout/gen_batches", 1),
    "remax ahead": ("rollout/drafted_tokens", 0),
    "grpo judged": ("eval/greedy_compares_std", 0.0),
    "dpo mixture": ("policy/load_max", 1.0),
    "ppo mixture": ("rollout/expert_mismatch", 0.0),
}
"""A metric and a number that it exceeds somewhere, which tells that what a row is for took place."""


RARE = {"ppo mixture"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the models and the reward function that the rows name."""
    place = tmp_path_factory.mktemp("killed")
    make_models(place)
    parity = "def parity(prompts, responses, labels):\n    return [float(len(text) % 2) for text in responses]\n"
    (place / "function.py").write_text(parity)
    return place


def start(folder, trainer, output, keys):
    """Start the run in another process; return its id."""
    arguments = {
        **{**BASE[trainer], "output_dir": str(output), "logging_steps": 1, "learning_rate": 1e-2},
        **{"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "resume_from_checkpoint": True},
        **{"disable_tqdm": True, "device": "cpu"},
        **keys,
    }
    path = output.with_suffix(".json")
    path.write_text(json.dumps({key: filled(value, folder) for key, value in arguments.items()}))
    child = os.fork()
    if child:
        return child
    try:
        TRAINERS[trainer].train([str(path)], host="test")
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def kill(child, output, *, step, delay, in_save):
    """Kill ``child`` once a checkpoint of ``step`` or later is there: after ``delay`` seconds, or while it writes the
    next one. Return whether it was still at work.
    """
    began, seen = time.monotonic(), None
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        now = time.monotonic()
        assert now - began < SECONDS, "no end"
        if seen is None and any(int(path.name.split("-")[1]) >= step for path in output.glob("checkpoint-*")):
            seen = now
        if seen is not None and (any(output.glob(".writing-checkpoint-*")) if in_save else now - seen > delay):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.0005)
    return False


def finish(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def results(output):
    """The exported files (the best ones too), and the metrics and samples that equal runs share."""
    kept = [path for path in output.rglob("*.safetensors") if "checkpoint" not in str(path.relative_to(output))]
    files = {str(path.relative_to(output)): path.read_bytes() for path in kept}
    return files, read_shared_metrics(output), list(read_json_lines(output / "samples.jsonl"))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.rare] * (n in RARE)) for n in ROWS])
def test_killed_and_resumed_equals_uninterrupted(name, folder):
    trainer, keys = ROWS[name]
    whole, broken = (folder / f"{name.replace(' ', '-')}-{part}" for part in ("whole", "broken"))
    finish(start(folder, trainer, whole, keys))
    draw, kills = random.Random(name), 0
    while kills < KILLS:
        in_save = (kills + list(ROWS).index(name)) % 2 == 0
        child = start(folder, trainer, broken, keys)
        if kill(child, broken, step=draw.randint(1, 4), delay=draw.uniform(0, 0.1), in_save=in_save):
            kills += 1
        else:
            # It had got through: start anew, so that every kill hits a working process.
            shutil.rmtree(broken)
    finish(start(folder, trainer, broken, keys))
    expected, found = results(whole), results(broken)
    metric, least = EXCEEDED.get(name, ("step", 0))
    assert max(record.get(metric, least) for record in expected[1]) > least
    assert expected[0] and expected[0] == found[0], "the weights of the resumed run differ"
    assert expected[1:] == found[1:]
    assert not list(broken.glob(".*-checkpoint-*"))
