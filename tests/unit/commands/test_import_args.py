"""Commands of other suites become argument files, and each flag is accounted for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alignment.arguments.importing.convert import MISSING, NO_NEED, SAME, TRANSLATED
from alignment.arguments.importing.shell import read_commands
from alignment.arguments.parser import parse_arguments
from alignment.commands.import_args import commands_of, import_commands, main
from alignment.errors import ArgumentError

PAGES = sorted((Path(__file__).parents[3] / "docs" / "how-to").glob("from_*.md"))
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]
OPENRLHF = "deepspeed --module openrlhf.cli."
PPO = "python3 -m openrlhf.cli.train_ppo_ray --pretrain a --reward_pretrain r --prompt_data p/q --save_path o "
LAUNCHED = "accelerate launch --config_file zero2.yaml dpo_iteration/run_dpo.py --train_dir s.json"
SAFE = "deepspeed --module safe_rlhf.algorithms."


def _import(text, **options):
    imported, _ = import_commands(read_commands(text), **options)
    return imported


def _keys(text, **options):
    return _import(text, **options)[-1].converted.keys


def _outcomes(text):
    return {row.flag: row.outcome for row in _import(text)[-1].converted.rows}


@pytest.mark.parametrize("block", BLOCKS)
def test_every_command_of_the_pages_is_read_by_our_parser_and_no_flag_is_lost(block):
    for item in _import(block, processes=8):
        ours = commands_of(item.converted.target)
        parse_arguments(ours.groups, json.loads(json.dumps(item.converted.keys)), checks=ours.checks, absent=[])
        told = [row.flag for row in item.converted.rows]
        assert {row.outcome for row in item.converted.rows} <= {TRANSLATED, SAME, NO_NEED, MISSING}
        assert len(set(told)) == len([flag for flag in told if flag != "(what it always does)"]) + (
            "(what it always does)" in told
        )
    words = {word[2:] for command in read_commands(block) for word in command.words if word.startswith("--")}
    launchers = {"module", "config_file", "address", "runtime_env_json", "head", "local_index", "base_path", ""}
    flags = {word.partition("=")[0].replace("-", "_") for word in words} - launchers
    told = {row.flag for item in _import(block, processes=8) for row in item.converted.rows}
    assert flags - told <= {"node_ip_address", "num_gpus", "num_datasets", "deepspeed"}


BASE = f"{OPENRLHF}train_sft --pretrain m --dataset d/e --save_path o --micro_train_batch_size 1"


@pytest.mark.parametrize(
    ("text", "processes"),
    [
        (BASE, 1),
        (f"CUDA_VISIBLE_DEVICES=0 {BASE}", 1),
        (f"torchrun --nproc_per_node=4 --nnodes 2 -m {BASE[19:]}", 8),
        (f"python -m torch.distributed.run --nproc-per-node 4 -m {BASE[19:]}", 4),
        (f"accelerate launch --num_machines 2 --num_processes 4 -m {BASE[19:]}", 4),
        (f"deepspeed --include localhost:0,1,2 --master_port 1 {BASE[10:]}", 3),
        (f"deepspeed --include a:0,1@b:2,3 {BASE[10:]}", 4),
    ],
)
def test_the_launcher_says_how_many_processes_there_are(text, processes):
    assert [item.processes for item in _import(text)] == [processes]


@pytest.mark.parametrize("word", ["True", "true", "1", "yes", "t", "on"])
def test_switches_are_read_in_the_spelling_of_each_suite(word):
    sft = f"{SAFE[:-11]}finetune --train_datasets alpaca --model_name_or_path m --output_dir o --bf16 "
    assert _keys(sft + word)["bf16"] is True
    assert "bf16" not in _keys(sft + "False")
    with pytest.raises(ArgumentError, match="--bf16: expected true or false, got 'maybe'"):
        _import(sft + "maybe")


def test_a_switch_that_is_on_by_default_is_turned_off_by_no():
    keys = _keys("python sft/sft.py --model_name m --no_bf16 --no_gradient_checkpointing")
    assert "bf16" not in keys and "recompute" not in keys
    with pytest.raises(ArgumentError, match="unknown flag.s. --no_learning_rate"):
        _import("python sft/sft.py --model_name m --no_learning_rate")


def test_the_last_of_equal_flags_wins_and_only_commands_are_read():
    dpo = f"{OPENRLHF}train_dpo --pretrain a --dataset d/e --save_path o --beta 0.2 --beta=0.3"
    items = _import(f"echo {dpo} --no_such_flag\n{dpo}\n{dpo.replace('0.3', '0.4')}")
    assert [item.converted.keys["beta"] for item in items] == [0.3, 0.4]


def test_evaluations_are_imported():
    keys = _keys("python sheeprlhf.py eval task=perplexity experiment_dir=logs/runs/summarization/opt/sft/x")
    assert keys["task"] == "perplexity" and keys["loss_on"] == "all" and keys["split"] == "test"
    assert keys["eval_datasets"] == "jsonl:1.0:CarperAI/openai_summarize_comparisons"
    keys = _keys("python sheeprlhf.py eval task=rouge experiment_dir=my data=helpful_harmless generation.top_k=0")
    assert (keys["task"], keys["max_dec_len"], keys["prompts"]) == ("rouge", 128, "jsonl:1.0:Dahoas/full-hh-rlhf")
    assert "top_k" not in keys and keys["output_dir"] == "my/eval/rouge_test"
    keys = _keys("python useful_code/eval_reward_bench_bt.py --reward_name_or_path a/b --record_dir r/x.txt")
    assert keys["sections"] == "rewardbench" and keys["reward_sources"] == "a/b"
    assert (keys["record_file"], keys["output_dir"]) == ("r/x.txt", "r/x")


def test_ports_are_servers():
    ask = "python gen_hf.py --ports 8000 8001 --tokenizer m --dataset_name_or_path d/e --output_dir o.json "
    assert _keys(ask)["servers"] == ["8000", "8001"] and _keys(ask)["max_prompt_len"] == 10000
    assert _keys(f"{ask} --url http://host")["servers"] == ["http://host:8000", "http://host:8001"]


def test_a_reward_model_that_is_not_there_yet_is_named():
    text = "python get_rewards.py --dataset_name_or_path a.json --output_dir b.json --reward_name_or_path ./not/there"
    (item,) = _import(text)
    assert item.converted.keys["reward_sources"] == "./not/there"
    assert any("./not/there" in problem for problem in item.converted.absent)


def test_the_defaults_of_safe_rlhf_are_not_ours():
    base = " --train_datasets a --model_name_or_path m --output_dir o"
    assert _keys(f"{SAFE}dpo{base}")["beta"] == 0.02
    assert _keys(f"{SAFE[:-11]}values.reward{base}")["weight_decay"] == 1e-6
    assert "warmup_ratio" not in _keys(f"{SAFE[:-11]}values.reward{base}")
    lagrangian = f"{SAFE}ppo_lag --train_datasets a --actor_model_name_or_path a --reward_model_name_or_path r "
    assert _keys(f"{lagrangian} --cost_model_name_or_path c --output_dir o")["lambda_max"] is None


def test_a_global_batch_is_divided_among_the_processes():
    text = (
        f"{OPENRLHF}train_sft --pretrain m --dataset d/e --save_path o --train_batch_size 64 --micro_train_batch_size 2"
    )
    assert _keys(text)["gradient_accumulation_steps"] == 32
    assert _keys(text, processes=8)["gradient_accumulation_steps"] == 4
    assert _keys(f"deepspeed --num_gpus 4 {text[10:]}")["gradient_accumulation_steps"] == 8
    row = next(r for r in _import(text, processes=24)[0].converted.rows if r.flag == "train_batch_size")
    assert row.outcome == MISSING and "no multiple of micro_train_batch_size * processes = 48" in row.how


def test_the_batches_of_ppo_count_prompts():
    keys = _keys(f"{PPO} --rollout_batch_size 256 --train_batch_size 64 --n_samples_per_prompt 4")
    assert (keys["global_batch_size"], keys["global_mini_batch_size"], keys["num_return_sequences"]) == (256, 16, 4)


def test_the_defaults_of_ppo_are_the_preset_and_of_other_estimators_written_out():
    assert _keys(PPO)["preset"] == "openrlhf" and "adam_beta2" not in _keys(PPO)
    keys = _keys(f"{PPO} --advantage_estimator rloo --n_samples_per_prompt 4")
    assert "preset" not in keys and keys["rl_algorithm"] == "rloo" and keys["adam_beta2"] == 0.95
    assert keys["normalize_advantage"] is True and keys["global_mini_batch_size"] == 32
    grpo = _keys(f"{PPO} --advantage_estimator group_norm --n_samples_per_prompt 4")
    assert "normalize_advantage" not in grpo and grpo["kl_coeff"] == 0.01


def test_the_kl_is_put_where_the_command_puts_it():
    in_reward = _keys(f"{PPO} --init_kl_coef 0.05 --kl_estimator k3")
    assert (in_reward["kl_coeff"], in_reward["kl_estimator"]) == (0.05, "k3")
    in_loss = _keys(f"{PPO} --init_kl_coef 0.05 --kl_estimator k2 --use_kl_loss")
    assert (in_loss["kl_loss_coeff"], in_loss["kl_loss_estimator"], in_loss["use_kl_loss"]) == (0.05, "k2", True)
    assert "kl_coeff" not in in_loss
    grpo = f"{PPO} --advantage_estimator group_norm --n_samples_per_prompt 4 --use_kl_loss --init_kl_coef 0.05"
    assert _keys(grpo)["kl_loss_coeff"] == 0.05 and "kl_coeff" not in _keys(grpo)


@pytest.mark.parametrize(
    ("flags", "estimate"),
    [("", "k1"), ("--kl_estimator k2", "k2"), ("--kl_estimator k3", "k3"), ("--use_kl_estimator_k3", "k3")],
)
@pytest.mark.parametrize("estimator", ["gae", "rloo", "group_norm", "reinforce"])
def test_the_kl_in_the_loss_is_estimated_as_openrlhf_does(estimator, flags, estimate):
    text = f"{PPO} --advantage_estimator {estimator} --n_samples_per_prompt 4 --use_kl_loss {flags}"
    ours = commands_of("train ppo")
    parsed = parse_arguments(ours.groups, json.loads(json.dumps(_keys(text))), checks=ours.checks, absent=[])
    values = parsed.as_dict()
    assert (values["kl_loss_estimator"], values["kl_loss_coeff"], values["kl_coeff"]) == (estimate, 0.01, 0.0)


CRITIC_FREE = ("reinforce", "rloo", "reinforce_baseline", "group_norm", "dr_grpo")


@pytest.mark.parametrize("estimator", CRITIC_FREE)
def test_flags_of_gae_and_of_the_critic_are_not_needed_by_other_estimators(estimator):
    text = f"{PPO} --advantage_estimator {estimator} --n_samples_per_prompt 4"
    flags = {"lambd": 0.9, "critic_learning_rate": 9e-6, "critic_pretrain": "c"}
    with_flags = " ".join([text, *(f"--{name} {value}" for name, value in flags.items())])
    assert _keys(with_flags) == _keys(text)
    assert {name: _outcomes(with_flags)[name] for name in flags} == dict.fromkeys(flags, NO_NEED)


def test_a_critic_that_the_algorithm_lacks_gets_no_ranks():
    apart = "--actor_num_nodes 1 --actor_num_gpus_per_node 4 --ref_num_nodes 1 --ref_num_gpus_per_node 4"
    apart += " --colocate_actor_ref --reward_num_nodes 1 --reward_num_gpus_per_node 2"
    flags = {"critic_num_nodes": "1", "critic_num_gpus_per_node": "2", "colocate_critic_reward": ""}
    critic = " ".join(f"--{name} {value}" for name, value in flags.items())
    text = f"{PPO} --n_samples_per_prompt 4 {apart} {critic}"
    assert _keys(text)["placement"] == {"policy": 4, "reference": "policy", "critic": 2, "reward": "critic"}
    without = f"{text} --advantage_estimator rloo"
    assert _keys(without)["placement"] == {"policy": 4, "reference": "policy", "reward": 2}
    assert {_outcomes(without)[name] for name in flags} == {NO_NEED}


@pytest.mark.parametrize("estimator", CRITIC_FREE)
def test_a_discount_is_that_of_openrlhf_which_sets_it_to_one_for_some(estimator):
    text = f"{PPO} --advantage_estimator {estimator} --n_samples_per_prompt 4 --gamma 0.99"
    is_read = estimator == "reinforce"
    assert _keys(text).get("gamma") == (0.99 if is_read else None)
    assert _outcomes(text)["gamma"] == (TRANSLATED if is_read else NO_NEED)


def test_the_end_of_a_schedule_is_a_tenth_of_each_peak():
    keys = _keys(f"{PPO} --actor_learning_rate 5e-7 --critic_learning_rate 9e-6")
    assert (keys["lr_scheduler_type"], keys["warmup_ratio"]) == ("cosine", 0.03)
    assert (keys["min_learning_rate"], keys["critic_min_learning_rate"]) == (5e-8, 9e-7)


def test_a_clip_range_that_is_not_symmetric_has_no_counterpart():
    assert _outcomes(f"{PPO} --reward_clip_range -5 10")["reward_clip_range"] == MISSING
    assert _keys(f"{PPO} --reward_clip_range -5 5")["clip_range_score"] == 5


def test_a_secret_is_not_copied():
    keys = _keys(f"{PPO} --use_wandb 0123secret")
    assert keys["report_to"] == ["wandb"] and "secret" not in json.dumps(keys)


def test_parts_that_are_merged_are_one_command():
    parts = [
        f"python get_hf2.py --model_name_or_path m --dataset_name_or_path d/e --output_dir o --K 2 --local_index {n} &"
        for n in range(3)
    ]
    merge = "python merge_data.py --base_path o --output_dir all.json --num_datasets 3"
    (item,) = _import("\n".join([*parts, "wait", merge]))
    assert item.converted.target == "generate" and item.converted.keys["output_file"] == "all.jsonl"


def test_choosing_pairs_and_training_on_them_are_two_steps():
    text = "accelerate launch dpo_iteration/run_dpo.py --train_dir s.json --choose_type max_min_p --len_penalty 0.1 "
    select, dpo = _import(text + "--model_name_or_path m --output_dir o")
    assert select.converted.keys["method"] == "max_min_p" and select.converted.keys["len_penalty"] == 0.1
    assert "(config_file)" not in [row.flag for row in dpo.converted.rows]
    told = [row.flag for row in _import(f"{LAUNCHED} --model_name_or_path m --output_dir o")[-1].converted.rows]
    assert "(config_file)" in told
    told = [row.flag for row in _import(f"{LAUNCHED} --model_name_or_path m --output_dir o --bf16")[-1].converted.rows]
    assert "(config_file)" not in told
    assert dpo.converted.keys["train_datasets"].endswith(select.converted.keys["output_file"])
    assert "choose_type" not in [row.flag for row in dpo.converted.rows]


def test_held_out_pairs_are_those_selected_from_the_scored_file():
    text = "python dpo_iteration/run_dpo.py --train_dir s.json --eval_dir s.json --model_name_or_path m --output_dir o "
    assert _outcomes(text)["eval_dir"] == NO_NEED
    strategy = "--do_train --eval_strategy steps --eval_steps 5"
    keys = _keys(f"{text}{strategy} --do_eval")
    assert keys["eval_datasets"] == "jsonl:100/-1:s.pairs.jsonl" and keys["eval_steps"] == 5


def test_safe_rlhf_s_constraint_keeps_its_conventions():
    keys = _keys(
        f"{SAFE}ppo_lag --train_datasets PKU-SafeRLHF/train --actor_model_name_or_path a "
        "--reward_model_name_or_path r --cost_model_name_or_path c --output_dir o --threshold 1"
    )
    assert keys["rl_algorithm"] == "ppo_lagrangian" and keys["clip_placement"] == "token"
    assert keys["policy_loss_reduction"] == "sequence" and keys["clip_range_cost"] == 50.0 and keys["threshold"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{PPO} --no_such_flag 3 --other", "unknown flag(s) --no_such_flag, --other"),
        (f"{OPENRLHF}train_sft --pretrain $MODEL --save_path o", "$MODEL has no value in the script"),
        ("python train.py --a 1", "no command of another suite is in it (understood: openrlhf.cli.train_sft"),
        (f"{OPENRLHF}train_sft stray --pretrain a", "expected --flag value, got 'stray'"),
        ("python dpo_iteration/run_dpo.py dpo.yaml", "got 'dpo.yaml' (its keys must be given as flags)"),
        ("python sheeprlhf.py train task=sft model=llama", "model=llama is no configuration of SheepRLHF (opt, gpt2"),
        (f"{OPENRLHF}train_dpo --pretrain a --dataset d/e --beta x --save_path o", "beta: "),
        (f"{OPENRLHF}train_sft --pretrain $1 --save_path o", "$1 is an argument of a function or of the script"),
        (f"{OPENRLHF}train_sft --pretrain m --save_path o$(date)", "what $(...) gives is known only when the script"),
        (f"{OPENRLHF}train_sft --pretrain ${{M%/*}} --save_path o", "${M%/*} is not understood"),
        ("python sheeprlhf.py eval task=rouge experiment_dir=my-sft", "append data=NAME (summarization, helpful"),
        ("bash run_loop.sh", "nearest: alignment loop config/loops/rapo_iterative_dpo.json"),
        (f"{OPENRLHF}train_dpo --pretrain a --save_path o", "missing required argument 'train_datasets'"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_its_line(text, said):
    with pytest.raises(ArgumentError, match=re.escape(said)) as error:
        _import(f"\n{text}")
    assert "line 2" in str(error.value) or "understood" in said


def test_files_are_written_once_and_named_after_their_order(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "run.sh"
    script.write_text(f"{OPENRLHF}train_rm --pretrain a --dataset d/e --save_path o\nbash run_8gpu.sh m\npython x.py\n")
    main(["run.sh"])
    written = json.loads((tmp_path / "rm_argument.json").read_text())
    assert (
        written["_imported_from"] == "OpenRLHF, openrlhf.cli.train_rm" and written["train_datasets"] == "jsonl:1.0:d/e"
    )
    shown = capsys.readouterr().out
    assert "alignment train rm rm_argument.json" in shown and "not read, line 3: python x.py" in shown
    assert "not read, line 2: bash run_8gpu.sh m\n  nearest: alignment serve" in shown
    with pytest.raises(ArgumentError, match="rm_argument.json exists: --overwrite"):
        main(["run.sh"])
    command = f"{OPENRLHF}batch_inference --eval_task rm --pretrain r --dataset g.jsonl --post_processor rs"
    main(["--overwrite", "--output_dir", "f", "--", *command.split(), "--output_path", "s.jsonl"])
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["1_score_argument.json", "2_select_argument.json"]
    assert "not there yet: answers_file" in capsys.readouterr().out
