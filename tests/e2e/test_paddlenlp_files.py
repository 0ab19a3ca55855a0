"""Files in the words of PaddleNLP's run_rl.py and run_finetune.py train, with the numbers they ask for."""

from __future__ import annotations

import json

import pytest
import runs
from refusals import train_here, write_rows

pytestmark = pytest.mark.e2e

WORDS = ("rope", "lamp", "map")


def test_a_yaml_of_run_rl_trains_on_the_rule_of_gsm8k(ppo_arguments, tmp_path):
    (tmp_path / "gsm8k").mkdir()
    rows = [{"src": f"pack {word}", "tgt": "one. #### 1"} for word in WORDS * 4]
    write_rows(tmp_path / "gsm8k" / "train.jsonl", *rows)
    made = {
        **{key: value for key, value in ppo_arguments.items() if not key.startswith(("ptx", "reward", "normalize"))},
        "reward_model_name_or_path": "",
        "critic_model_name_or_path": ppo_arguments["actor_model_name_or_path"],
        "use_rule_reward": True,
        "train_datasets": "gsm8k/train.jsonl",
        "prompt_key": "src",
        "response_key": "tgt",
        "global_batch_size": 4,
        "global_mini_batch_size": 2,
        "rollout_n": 2,
        "_num_return_sequences": "a remark",
        "max_steps": 4,
        "output_dir": tmp_path / "out",
    }
    del made["num_return_sequences"], made["per_device_prompt_batch_size"]
    done = train_here("ppo", made, tmp_path)
    assert "each rollout is 4 prompts x 2 = 8 responses, 4 per update" in done.stderr
    assert all(record["train/reward"] == 0.0 for record in runs.metrics(tmp_path / "out"))  # no answer has a ####


def test_a_folder_of_run_finetune_is_read_by_its_splits(sft_arguments, tmp_path):
    (tmp_path / "data").mkdir()
    for split, count in (("train", 12), ("dev", 5)):
        rows = [{"src": f"pack {word}", "tgt": word} for word in "abc" * count]
        write_rows(tmp_path / "data" / f"{split}.json", *rows)
    made = {key: value for key, value in sft_arguments.items() if key != "train_datasets"}
    made |= {"dataset_name_or_path": "./data", "src_length": 32, "zero_padding": False, "output_dir": tmp_path / "out"}
    made |= {"evaluation_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    made |= {"metric_for_best_model": "accuracy", "num_train_epochs": 1, "max_steps": -1}
    done = train_here("sft", made, tmp_path)
    assert "train: 36 rows used" in done.stderr and "eval: 15 rows used" in done.stderr
    evaluations = [record for record in runs.metrics(tmp_path / "out") if "eval/accuracy" in record]
    assert evaluations and all(0 <= record["eval/accuracy"] <= 1 for record in evaluations)
    assert json.loads((tmp_path / "out" / "arguments.json").read_text())["max_prompt_len"]["value"] == 32
