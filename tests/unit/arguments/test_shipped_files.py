"""The files in config/ are understood, and those of the reference suite are its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.arguments.effects import refuse_unbuilt, report_effects
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from alignment.trainers.registered import TRAINERS

FIXTURES = Path(__file__).parent / "fixtures"
CONFIG = Path(__file__).resolve().parents[3] / "config"
OF_FILE = {**dict.fromkeys(ALGORITHMS, parse_ppo_arguments), **{name: TRAINERS[name].parse for name in TRAINERS}}
"""Parsers by the first words of a shipped file's name: a trainer, or an on-policy algorithm."""


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*/*_argument.json")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_shipped_file_parses(path, tmp_path, monkeypatch):
    demo, real = (
        ("sft/policy", "ppo/policy", "rm/reward", "rm_cost/reward", "rm-regression/reward", "pairwise/reward"),
        ("smollm2", "sft", "rm", "data", "critic"),
    )
    for made in (*(f"demo/{name}" for name in demo), *(f"real/{name}" for name in real)):
        (tmp_path / "output" / made).mkdir(parents=True, exist_ok=True)
    for kind in ("sft", "pairs", "prompts", "questions"):
        for split in ("train", "test"):
            (tmp_path / f"output/real/data/{kind}_{split}.jsonl").write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    named = path.name.removesuffix("_argument.json")
    parse = OF_FILE.get(named) or OF_FILE[named.split("_")[0]]
    parsed = parse([str(path)])
    assert named not in ALGORITHMS or parsed.on_policy.rl_algorithm == named
    assert parsed.training.output_dir.startswith(str(tmp_path))
    if path.parent.name in ("tiny", "smollm2"):
        refuse_unbuilt(parsed, device="cpu", world_size=1)
        assert report_effects(parsed, device="cpu", world_size=1) == []


def test_shipped_files_of_the_reference_suite_are_exact():
    for name in ("ppo", "rm"):
        ours, theirs = (json.loads((f / f"{name}_argument.json").read_text()) for f in (CONFIG / "llama", FIXTURES))
        assert ours == theirs


def test_every_algorithm_has_a_small_file():
    assert set(ALGORITHMS) <= {path.name.removesuffix("_argument.json") for path in (CONFIG / "tiny").glob("*.json")}


def test_the_reinforce_file_has_the_keys_and_values_of_the_grpo_file():
    one, other = (
        json.loads((CONFIG / f"llama/{n}_argument.json").read_text()) for n in ("grpo", "reinforce_plus_plus")
    )
    assert {key for key in one | other if one.get(key) != other.get(key)} == {"rl_algorithm", "output_dir"}


def test_the_grpo_file_differs_from_that_of_the_reference_suite_in_models_data_and_evaluation():
    ours, theirs = (json.loads((folder / "grpo_argument.json").read_text()) for folder in (CONFIG / "llama", FIXTURES))
    assert {key for key in ours if key in theirs and ours[key] != theirs[key]} == {
        *("actor_model_name_or_path", "reward_model_name_or_path", "train_datasets", "eval_datasets", "output_dir"),
        *("max_length", "max_dec_len"),
        # Its test set is larger: an evaluation every 10 updates would be most of the run.
        *("eval_steps", "per_device_eval_batch_size"),
    }
    assert (ours["eval_steps"], ours["per_device_eval_batch_size"]) == (100, 16)
    assert ours.keys() <= theirs.keys()
    assert theirs.keys() - ours.keys() == {
        # Of the data and the reward server that it names.
        *("prompt_key", "response_key", "use_rm_server", "reward_server", "normalize_reward", "logging_dir"),
        # Without effect here: the report of such keys names them.
        *("clip_range_value", "ptx_coeff", "fused_linear", "recompute_use_reentrant", "use_flash_attention"),
        *("release_grads", "tensor_parallel_output", "use_fused_head_and_loss_fn", "ignore_save_lr_and_optim"),
        "sequence_parallel",
    }


def test_tiny_model_fits_its_config():
    model = json.loads((CONFIG / "tiny/model/config.json").read_text(encoding="utf-8"))
    for path in (CONFIG / "tiny").glob("*_argument.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["max_length"] <= model["max_position_embeddings"]
