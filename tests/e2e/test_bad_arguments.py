"""Keys, values and folders that cannot work: all problems at once, with the allowed values, before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import runs
from refusals import left_behind, message_of, refuse, run_here, stop

pytestmark = pytest.mark.e2e


def test_all_wrong_keys_are_named_at_once_with_suggestions(sft_arguments, tmp_path):
    wrong = {"learning_rat": 1, "per_device_train_batch": 2, "max_length": "abc", "seed": -1, "use_dora": True}
    says = ["5 invalid argument(s)", "'learning_rate'", "'per_device_train_batch_size'", "'abc'", ">= 0", "got -1"]
    message = refuse("sft", {**sft_arguments, **wrong}, tmp_path, "'learning_rat'", "use_dora: True", *says)
    assert message.count("sft_argument.json, line 1") == 5


@pytest.mark.parametrize(
    ("trainer", "missing"),
    [("sft", "train_datasets"), ("rm", "train_datasets"), ("ppo", "actor_model_name_or_path")],
)
def test_missing_keys_are_named(trainer, missing, tmp_path):
    refuse(trainer, {}, tmp_path, f"missing required argument '{missing}'", "model_name_or_path")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("learning_rate", "inf", "a finite number"),
        ("learning_rate", -1, ">= 0"),
        ("per_device_train_batch_size", 0, ">= 1"),
        ("per_device_train_batch_size", 2.5, "a whole number"),
        ("do_train", "perhaps", "true or false"),
        ("lr_scheduler_type", "cosinus", "'cosine'"),
        ("on_overlong", "cut", "'drop', 'left', 'right', 'error'"),
        ("report_to", "visaldl", "'visualdl'"),
        ("output_dir", None, "output_dir"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_allowed(key, value, says, sft_arguments, tmp_path):
    refuse("sft", {**sft_arguments, key: value}, tmp_path, key, says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"per_device_prompt_batch_size": 6, "num_return_sequences": 1},
            [
                "= 6 rows per rollout",
                "= 4 rows per update",
                "per_device_prompt_batch_size=4",
                "train_batch_size=3 or 2",
            ],
        ),
        ({"max_dec_len": 64}, ["max_dec_len=64", "below max_length=64"]),
        ({"max_dec_len": 8, "max_prompt_len": 60}, ["60 + 8 = 68 exceeds max_length=64"]),
        ({"min_dec_len": 9}, ["min_dec_len=9", "max_dec_len = 8"]),
        ({"evaluation_strategy": "epoch"}, ["eval_datasets or eval_split_ratio"]),
        ({"do_train": False}, ["do_train=False", "eval_datasets or eval_split_ratio"]),
        ({"load_best_model_at_end": True, "save_strategy": "steps"}, ["evaluation_strategy and save_strategy"]),
        ({"overwrite_output_dir": True, "resume_from_checkpoint": True}, ["give one of them"]),
        ({"resume_from_checkpoint": "out/checkpoint-9"}, ["checkpoint-9' does not exist"]),
        ({"rl_algorithm": "grpo", "num_return_sequences": 1}, ["num_return_sequences=1", "give at least 2"]),
        ({"rl_algorithm": "grpo", "gae_lambda": 0.9}, ["gae_lambda belongs to rl_algorithm=ppo"]),
    ],
)
def test_values_that_contradict_each_other(changes, says, ppo_arguments, tmp_path):
    refuse("ppo", {**ppo_arguments, **changes}, tmp_path, *says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        ("{bad", "line 1, column 2"),
        ("[1]", "one JSON object"),
        ('{"seed": 1, "seed": 2}', "once"),
    ],
)
def test_an_arguments_file_that_cannot_be_read(content, says, tmp_path):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    script = [sys.executable, str(runs.ROOT / runs.SCRIPTS["sft"]), str(path)]
    if content is None:  # one of them in a process of its own, the others through the parser alone
        done = subprocess.run(script, capture_output=True, text=True, env=runs.environment(), cwd=tmp_path, check=False)
        message_of(done, "mine.json", says)
        return
    from alignment.errors import ArgumentError
    from alignment.trainers.registered import TRAINERS

    with pytest.raises(ArgumentError, match=says) as caught:
        TRAINERS["sft"].parse([str(path)])
    assert "mine.json" in str(caught.value)


def test_an_unknown_metric_for_the_best_model(ppo_arguments, tmp_path):
    made = {**ppo_arguments, "load_best_model_at_end": True, "metric_for_best_model": "truth", "save_strategy": "steps"}
    made |= {"evaluation_strategy": "steps", "eval_steps": 4, "save_steps": 4}
    made |= {"eval_datasets": "packing-prompts/test:4/-1"}
    done = stop("ppo", made, tmp_path, "metric_for_best_model='eval/truth'", "eval/reward, eval/reward_std")
    assert left_behind(tmp_path / "out") == [] and "PPO 4/" not in done.stderr, "known before the first update"


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/nowhere/out"])
def test_an_output_folder_that_cannot_be_one(name, sft_arguments, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = run_here("sft", {**sft_arguments, "output_dir": name}, tmp_path)
    message_of(done, f"output_dir={tmp_path / name}", "name a folder that can be written")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_earlier_run_is_not_touched_before_the_new_one_can_begin(sft_arguments, tmp_path):
    made = {**sft_arguments, "output_dir": tmp_path / "out", "max_steps": 1}
    assert run_here("sft", made, tmp_path).returncode == 0
    weights, records = (tmp_path / "out" / name for name in ("policy/model.safetensors", "metrics.jsonl"))
    before = weights.read_bytes(), records.read_bytes()
    message = message_of(run_here("sft", made, tmp_path))
    for choice in ("--resume_from_checkpoint true", "--overwrite_output_dir true", "name another folder"):
        assert choice in message
    for wrong in ({"train_datasets": "packing-sft/trian"}, {"model_name_or_path": tmp_path / "out"}):
        message_of(run_here("sft", {**made, "overwrite_output_dir": True, **wrong}, tmp_path))
    assert before == (weights.read_bytes(), records.read_bytes())
    replaced = run_here("sft", {**made, "overwrite_output_dir": True, "seed": 8}, tmp_path)
    assert replaced.returncode == 0 and "overwrite_output_dir: removed policy" in replaced.stderr
    assert weights.read_bytes() != before[0]


@pytest.mark.parametrize(
    ("trainer", "changes", "says"),
    [
        ("sft", {"train_datasets": "packing-sft/trian"}, ["did you mean 'packing-sft/train'"]),
        ("rm", {"learning_rat": 1}, ["unknown argument 'learning_rat'", "learning_rate"]),
        ("ppo", {"max_dec_len": 64}, ["max_dec_len=64", "max_length=64"]),
    ],
)
def test_the_scripts_themselves(trainer, changes, says, request, tmp_path):
    made = {**request.getfixturevalue(f"{trainer}_arguments"), "output_dir": tmp_path / "out", **changes}
    message_of(runs.run(trainer, made, tmp_path), *says)
    assert left_behind(tmp_path / "out") == []


def test_arguments_are_kept_with_their_origins(sft_arguments, tmp_path):
    made = {**sft_arguments, "output_dir": tmp_path / "out"}
    assert run_here("sft", made, tmp_path, "--max_steps", "1", "--seed", "9").returncode == 0
    kept = json.loads((tmp_path / "out" / "arguments.json").read_text())
    assert kept["seed"] == {"value": 9, "origin": "command line"}
    assert kept["learning_rate"] == {"value": 1e-3, "origin": "file"}
    assert kept["weight_decay"]["origin"] == "default"
