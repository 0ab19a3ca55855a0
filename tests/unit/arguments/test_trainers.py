"""The trainers' groups: the files of PaddleNLP, the shipped files, and checks across keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.arguments.effects import refuse_unbuilt, report_effects
from alignment.errors import ArgumentError
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from alignment.trainers.registered import TRAINERS
from alignment.trainers.reward.arguments import parse_reward_arguments

FIXTURES = Path(__file__).parent / "fixtures"
PARSERS = {name: TRAINERS[name].parse for name in TRAINERS}
PPO = [
    "--train_datasets",
    "p",
    "--actor_model_name_or_path",
    "a",
    "--reward_model_name_or_path",
    "r",
    "--output_dir",
    "o",
]
RM = ["--train_datasets", "p", "--model_name_or_path", "a", "--output_dir", "o"]


def _problems(parse, argv):
    with pytest.raises(ArgumentError) as error:
        parse(argv)
    return str(error.value)


def test_file_of_the_reference_suite_for_ppo():
    parsed = parse_ppo_arguments([str(FIXTURES / "ppo_argument.json")])
    assert parsed.on_policy.actor_model_name_or_path == "PKU-Alignment/alpaca-7b-reproduced"
    assert parsed.on_policy.ptx_coeff == 16.0
    assert parsed.critic.critic_lr_scheduler_type == "constant"
    assert parsed.generation.top_p == 0.8
    assert parsed.parallel.offload_level == ("freeze_model",)
    assert parsed.compatibility.pipeline_parallel_config == ("disable_p2p_cache_shape",)
    assert parsed.parallel.eval_mode is None
    assert parsed.training.save_steps == 100000


def test_every_key_of_both_files_is_as_written():
    for name, parse in (("ppo", parse_ppo_arguments), ("rm", parse_reward_arguments)):
        path = FIXTURES / f"{name}_argument.json"
        written = json.loads(path.read_text(encoding="utf-8"))
        parsed = parse([str(path)])
        assert all(parsed.origins[key] == "file" for key in written)
        values = parsed.as_dict()
        changed = {key for key, value in written.items() if values[key] != value}
        lists = {"sharding", "pipeline_parallel_config", "offload_level"}
        assert changed <= lists | {"eval_mode", "output_dir"}
        assert values["output_dir"] == str(Path.cwd() / written["output_dir"])


def test_the_2025_keys_are_accepted(tmp_path):
    written = json.loads((FIXTURES / "ppo_argument.json").read_text(encoding="utf-8"))
    del written["num_return_sequences"]
    written |= {
        "use_fusemt": 1, "use_flash_attention": 1, "max_prompt_len": 256, "max_dec_len": 256, "min_dec_len": 1,
        "max_src_len": 256, "rollout_n": 2, "per_device_rollout_batch_size": -1, "min_learning_rate": 2e-7,
        "decay_steps": 100, "critic_min_learning_rate": 2e-7, "critic_decay_steps": 100, "normalize_advantage": 1,
        "use_tgt_len_value": False, "use_rm_server": False, "reward_server": "http://127.0.0.1:8731",
        "rl_algorithm": "ppo", "kl_loss_coeff": 0.001, "pg_loss_coeff": 1, "entropy_coeff": 0, "use_fp32_compute": 0,
        "recompute_granularity": "full", "critic_recompute_granularity": "full", "recompute_use_reentrant": 1,
        "use_fused_head_and_loss_fn": 0, "fused_linear": 1, "tensor_parallel_output": 0, "sequence_parallel": 0,
        "unified_checkpoint": 1, "unified_checkpoint_config": "", "release_grads": 1, "early_stopping": 0,
        "early_stopping_patience": 4, "early_stopping_threshold": 0.0, "chat_template": "none",
        "actor_tokenizer_alpha": None, "reward_tokenizer_alpha": None, "reward_critic_tokenizer_alpha": None,
        "autotuner_benchmark": 0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "eos_token": "",
        "logging_dir": "vdl_log", "fp16": 0, "skip_profile_timer": 1, "max_steps": 17, "seed": 23,
        "offload_level": "freeze_model optimizer train_model",
    }  # fmt: skip
    path = tmp_path / "ppo.json"
    path.write_text(json.dumps(written), encoding="utf-8")
    parsed = parse_ppo_arguments([str(path)])
    assert parsed.on_policy.num_return_sequences == 2
    assert parsed.data.max_prompt_len == 256
    assert parsed.parallel.offload_level == ("freeze_model", "optimizer", "train_model")
    told = {effect.key for effect in report_effects(parsed, device="cpu", world_size=1)}
    assert {"fused_linear", "use_fp32_compute", "logging_dir", "kl_loss_coeff", "skip_profile_timer"} <= told
    assert not {"release_grads", "early_stopping", "fp16", "recompute_granularity"} & told


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--mask_history", "true"], "last"),
        (["--train_on_prompt", "true"], "all"),
        (["--multiturn"], "assistant"),
        (["--assistant_only_loss", "true"], "assistant"),
        (["--mask_history", "false", "--train_on_prompt", "false"], "assistant"),
    ],
)
def test_names_of_other_suites_for_what_a_conversation_is_trained_on(given, expected):
    """Those of LLaMA-Factory, OpenRLHF and TRL; false asks for nothing."""
    base = ["--train_datasets", "d", "--model_name_or_path", "m", "--output_dir", "o"]
    assert PARSERS["sft"](base + given).offline.loss_on == expected
    both = _problems(PARSERS["sft"], [*base, "--mask_history", "true", "--train_on_prompt", "true"])
    assert "loss_on" in both and "'last'" in both and "'all'" in both


def test_a_base_in_4_bits_by_paddlenlps_name():
    base = ["--train_datasets", "d", "--model_name_or_path", "m", "--output_dir", "o", "--lora", "true"]
    assert PARSERS["sft"]([*base, "--weight_quantize_algo", "nf4"]).adapter.load_in_4bit
    assert "nf4 is (load_in_4bit=true)" in _problems(PARSERS["sft"], [*base, "--weight_quantize_algo", "fp4"])
    sharded = ["--load_in_4bit", "true", "--sharding", "stage3"]
    assert "a base in 4 bits is not sharded; give stage1 or stage2" in _problems(PARSERS["sft"], [*base, *sharded])
    assert not PARSERS["sft"](["--lora", "false", *base[:6], "--load_in_4bit", "true"]).adapter.lora


def test_names_of_other_suites_for_micro_batches_by_tokens():
    """OpenRLHF's two flags say one thing."""
    base = ["--train_datasets", "d", "--model_name_or_path", "m", "--output_dir", "o"]
    given = ["--packing_samples", "--use_dynamic_batch", "--train_max_tokens_per_gpu", "4096"]
    training = PARSERS["sft"](base + given).training
    assert (training.packing_samples, training.max_tokens_per_batch, training.token_budget(9)) == (True, 4096, 4096)
    assert PARSERS["sft"]([*base, "--zero_padding", "true"]).training.token_budget(2048) == 8 * 2048
    assert PARSERS["sft"](base).training.token_budget(2048) is None


def _data_folder(folder):
    """Make what the files name: a model folder, data/train.jsonl and data/dev.jsonl."""
    files = ("data/train.jsonl", "data/dev.jsonl", "gsm8k/train.jsonl", "gsm8k/test.jsonl", "alpaca/config.json")
    for name in (*files, "ppo-kk/34567ppl/train.jsonl", "ppo-kk/5ppl/test.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n", encoding="utf-8")
    (folder / "alpaca").rename(folder / "alpaca-7b-reproduced-saved")


OTHER_FILES = {
    "sft_argument.json": ("sft", {
        "train_datasets": "jsonl:1.0:{here}/data", "eval_datasets": "jsonl:1.0:{here}/data", "max_prompt_len": 1024,
        "max_length": 2048, "metric_for_best_model": "accuracy", "packing_samples": False, "sharding": ("stage2",),
    }),
    "rm_flashmask_argument.json": ("rm", {
        "train_datasets": "jsonl:1.0:{here}/data/train.jsonl", "eval_datasets": "jsonl:1.0:{here}/data/dev.jsonl",
        "max_length": 4096, "max_prompt_len": 2048, "flash_mask": False, "warmup_steps": 10,
    }),
    "examples_ppo_config.json": ("ppo", {
        "actor_model_name_or_path": "PKU-Alignment/alpaca-7b-reproduced", "max_length": 100, "max_grad_norm": 1.0,
        "offload_level": ("freeze_model",), "eval_mode": "tensor_parallel",
    }),
    "examples_reward_config.json": ("rm", {"max_prompt_len": 256, "max_length": 512, "regularization": 0.001}),
    "ppo_config_2025.json": ("ppo", {"num_return_sequences": 1, "normalize_advantage": True, "seed": 23}),
    "ppo_argument.yaml": ("ppo", {
        "train_datasets": "jsonl:1.0:{here}/gsm8k/train.jsonl", "reward_model_name_or_path": None,
        "reward_critic_model_name_or_path": "Qwen/Qwen2.5-1.5B-Instruct", "learning_rate": 1e-6,
        "reward_function": "alignment.rollout.rule_rewards:gsm8k", "per_device_rollout_batch_size": 1024,
        "global_batch_size": 256, "global_mini_batch_size": 64, "clip_range_value": 0.5,
        "amp_custom_white_list": ("lookup_table", "flash_attn", "matmul"),
    }),
    "grpo_argument.yaml": ("ppo", {
        "train_datasets": "jsonl:1.0:{here}/ppo-kk/34567ppl/train.jsonl", "rl_algorithm": "grpo",
        "num_return_sequences": 8, "kl_coeff": 0.0, "kl_loss_coeff": 0.001, "clip_range_score": 10.0,
        "normalize_advantage": False, "use_rm_server": True, "global_batch_size": 4,
    }),
    "grpo_argument.json": ("ppo", {
        "eval_datasets": "jsonl:1.0:{here}/ppo-kk/5ppl/test.jsonl", "rl_algorithm": "grpo", "num_return_sequences": 8,
        "kl_coeff": 0.0, "kl_loss_coeff": 0.001, "pg_loss_coeff": 1.0, "normalize_advantage": True,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_of_the_reference_suite_run_unchanged(name, tmp_path, monkeypatch):
    trainer, expected = OTHER_FILES[name]
    _data_folder(tmp_path)
    (tmp_path / name).write_bytes((FIXTURES / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    parsed = PARSERS[trainer]([name])
    for world_size in (1, 8):
        refuse_unbuilt(parsed, device="gpu", world_size=world_size)
        report_effects(parsed, device="gpu", world_size=world_size)
    values = {key: parsed.as_dict()[key] for key in expected}
    assert values == {
        key: value.format(here=tmp_path) if isinstance(value, str) else value for key, value in expected.items()
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--use_dora"], "use_dora: True is refused: DoRA is not built"),
        (["--packing_samples", "--max_tokens_per_gpu", "64"], "max_tokens_per_batch=64 is below max_length=2048"),
        (["--rollout_quant_type", "weight_only_int8"], "rollout_weight_type=int8"),
        (["--use_rule_reward", "maybe"], "use_rule_reward: expected true or false, got 'maybe' (command line)"),
        (["--use_rule_reward"], "got reward_model_name_or_path, reward_function"),
        (["--train_dataset_path", "no/such.jsonl"], "train_dataset_path"),
    ],
)
def test_a_key_of_another_suite_that_asks_for_something_unbuilt_is_refused(given, says):
    assert says in _problems(parse_ppo_arguments, PPO + given)


@pytest.mark.parametrize(
    "given",
    [
        ["--lora", "false", "--lora_rank", "8"], ["--dynamic_sampling", "0"],
        ["--flash_mask", "false"],
        ["--rollout_quant_type", ""], ["--use_rule_reward", "false"], ["--enable_overlong_reward_buffer", "0"],
    ],
)  # fmt: skip
def test_a_key_that_asks_for_nothing_is_never_refused(given):
    assert report_effects(parse_ppo_arguments(PPO + given), device="cpu", world_size=1) == []


def test_the_length_of_an_overlong_buffer_enables_it():
    terms = parse_ppo_arguments([*PPO, "--overlong_buffer_len", "7", "--overlong_penalty_factor", "2"]).reward_terms
    assert terms.numbers == {"overlong": {"buffer": 7, "factor": 2.0}}
    assert parse_ppo_arguments([*PPO, "--overlong_buffer_len", "null"]).reward_terms.numbers == {}


def test_one_dataset_named_twice_with_different_paths_is_a_contradiction(tmp_path, monkeypatch):
    _data_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset_name_or_path", "data", "--train_datasets", "p", "--model_name_or_path", "a", "--output_dir", "o"]
    assert "different values" in _problems(TRAINERS["sft"].parse, argv)


def test_neither_evaluation_nor_checkpoint_leaves_no_best_model():
    argv = [*RM, "--load_best_model_at_end", "--evaluation_strategy", "no", "--save_strategy", "no"]
    told = {e.key: e.message for e in report_effects(parse_reward_arguments(argv), device="cpu", world_size=1)}
    assert told == {"load_best_model_at_end": "nothing is evaluated and no checkpoint is written"}


def test_defaults_of_the_reference_suite():
    parsed = parse_ppo_arguments(PPO)
    expected = {
        "max_length": 2048, "per_device_prompt_batch_size": 16, "num_return_sequences": 1, "temperature": 1.0,
        "top_p": 0.8, "repetition_penalty": 1.0, "update_iters": 1, "kl_coeff": 0.02, "clip_range_ratio": 0.2,
        "clip_range_score": 50.0, "clip_range_value": 5.0, "ptx_coeff": 0.0, "use_fusemt": True, "gamma": 1.0,
        "gae_lambda": 0.95, "learning_rate": 5e-5, "adam_beta2": 0.999, "max_grad_norm": 1.0, "num_train_epochs": 1.0,
        "per_device_train_batch_size": 8, "lr_scheduler_type": "linear", "logging_steps": 500, "save_steps": 500,
        "seed": 42, "critic_learning_rate": None, "normalize_advantage": False,
    }  # fmt: skip
    assert {key: parsed.as_dict()[key] for key in expected} == expected
    reward = parse_reward_arguments(RM)
    loss, head = reward.loss, reward.offline
    assert (loss.loss_type, loss.regularization, head.normalizer_type, head.normalizer_momentum) == (
        "sequence-wise",
        0.0,
        "ExponentialMovingAverage",
        None,
    )


def test_a_normaliser_that_keeps_nothing_is_refused_where_scores_are_to_be_normalised():
    asked = [*RM, "--normalize_score_during_training", "true", "--normalizer_type"]
    with pytest.raises(ArgumentError, match="needs a normalizer_type, got null.*allowed: RunningMeanStd, Expo"):
        parse_reward_arguments([*asked, "null"])
    assert parse_reward_arguments([*asked, "RunningMeanStd"]).offline.normalizer_type == "RunningMeanStd"
    assert parse_reward_arguments([*RM, "--normalizer_type", "null"]).offline.normalizer_type is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--per_device_train_batch_size", "6"], "neither divides the other"),
        (["--max_dec_len", "2048"], "max_dec_len=2048 must be below max_length=2048"),
        (["--max_dec_len", "9", "--min_dec_len", "10"], "min_dec_len=10 must not exceed max_dec_len = 9"),
        (["--max_dec_len", "1500", "--max_prompt_len", "1000"], "1000 + 1500 = 2500 exceeds"),
        (["--max_prompt_len", "2048"], "max_prompt_len=2048 must be below"),
        (["--reward_function", "m:f"], "got reward_model_name_or_path, reward_function"),
        (["--use_rm_server", "--reward_model_name_or_path", ""], "use_rm_server=true needs reward_server"),
        (["--reward_model_name_or_path", ""], "give exactly one of"),
        (["--reward_model_name_or_path", "none", "--reward_function", "m:f"], "the critic needs"),
        (["--reward_server", "localhost:1"], "must begin with http"),
        (["--reward_function", "m.f"], "package.module:function"),
        (["--clip_range_ratio", "1.5"], "must be below 1"),
        (["--evaluation_strategy", "steps"], "needs eval_datasets"),
        (["--do_eval", "--eval_datasets", "e", "--load_best_model_at_end"], "got 'no' and 'steps'"),
        (["--warmup_steps", "10", "--max_steps", "10"], "warmup_steps=10 must be below max_steps=10"),
        (["--decay_steps", "5", "--warmup_steps", "5"], "decay_steps=5 must be above"),
        (["--min_learning_rate", "1"], "must not exceed learning_rate"),
        (["--critic_learning_rate", "1e-9", "--min_learning_rate", "1e-6"], "critic's minimum"),
        (["--report_to", "all,visualdl"], "cannot be combined"),
        (["--overwrite_output_dir", "--resume_from_checkpoint", "true"], "give one of them"),
        (["--resume_from_checkpoint", "no/such/place"], "checkpoint folder 'no/such/place' does not exist; tried"),
        (["--num_return_sequences", "2", "--top_k", "1"], "equal responses"),
        (["--top_p", "0"], "top_p: expected a value > 0 and <= 1"),
        (["--max_steps", "0"], "not 0"),
        (["--fp16"], "fp16: True is refused"),
        (["--rl_algorithm", "gppo"], f"rl_algorithm: expected one of {', '.join(map(repr, ALGORITHMS))}, got 'gppo'"),
        (["--wandb_api_key", "s3cret"], "(command line): a secret does not belong in a file"),
    ],
)
def test_ppo_mistakes(given, words):
    argv = PPO[:4] + PPO[6:] if "--reward_model_name_or_path" in given else PPO
    assert words in _problems(parse_ppo_arguments, argv + given)


def test_batch_message_names_values_that_work():
    message = _problems(parse_ppo_arguments, [*PPO, "--per_device_train_batch_size", "6"])
    assert "16 * 1 = 16 rows per rollout" in message
    assert "6 * 1 = 6 rows per update" in message
    assert "per_device_prompt_batch_size=18" in message
    assert "per_device_train_batch_size=4 or 8 or 2" in message
    fixed = parse_ppo_arguments([*PPO, "--per_device_train_batch_size", "6", "--per_device_prompt_batch_size", "18"])
    assert fixed.on_policy.per_device_prompt_batch_size == 18


def test_an_update_may_pool_several_rollouts():
    argv = ["--per_device_prompt_batch_size", "4", "--gradient_accumulation_steps", "2"]
    assert parse_ppo_arguments(PPO + argv).training.gradient_accumulation_steps == 2


def test_old_offload_words_and_critic_alias():
    parsed = parse_ppo_arguments([*PPO, "--offload_level", "eval reward optimizer", "--critic_model_name_or_path", "c"])
    assert parsed.parallel.offload_level == ("freeze_model", "optimizer")
    assert parsed.critic.reward_critic_model_name_or_path == "c"


def test_random_weights_need_a_tokenizer(tmp_path):
    base = ["--train_datasets", "p", "--output_dir", "o", "--model_config_name_or_path", str(tmp_path)]
    for parse in (TRAINERS["sft"].parse, parse_reward_arguments):
        assert "needs tokenizer_name_or_path" in _problems(parse, base)
        assert "give exactly one of" in _problems(parse, base[:4])
        assert "got model_name_or_path and" in _problems(parse, [*base, "--model_name_or_path", "m"])
        assert parse([*base, "--tokenizer_name_or_path", str(tmp_path)]).model.tokenizer_name_or_path == str(tmp_path)


def test_resume_is_a_switch_or_a_path(tmp_path):
    assert parse_reward_arguments([*RM, "--resume_from_checkpoint", "true"]).training.resume_from_checkpoint is True
    assert parse_reward_arguments([*RM, "--resume_from_checkpoint"]).training.resume_from_checkpoint is True
    parsed = parse_reward_arguments([*RM, "--resume_from_checkpoint", str(tmp_path)])
    assert parsed.training.resume_from_checkpoint == str(tmp_path)


def test_weight_dtype_by_device():
    training = parse_reward_arguments([*RM, "--bf16", "1", "--fp16_opt_level", "O2"]).training
    assert (training.weight_dtype("gpu"), training.weight_dtype("cpu")) == ("bfloat16", "float32")


def test_a_secret_is_not_repeated():
    assert "s3cret" not in _problems(parse_ppo_arguments, [*PPO, "--wandb_api_key", "s3cret"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--input_template", "User:"], "input_template='User:' must contain {} once"),
        (["--input_template", "{}", "--chat_template", "tokenizer"], "leave out chat_template and tokenizer_chat"),
        (["--input_template", "{}", "--tokenizer_chat_template", "{{ x }}"], "leave out chat_template and tokenizer"),
    ],
)
def test_there_is_one_template_with_a_place_for_the_text(keys, message):
    assert message in _problems(parse_reward_arguments, [*RM, *keys])


def test_a_template_by_key_is_the_template():
    data = parse_reward_arguments([*RM, "--input_template", "User: {}\\nAssistant: "]).data
    assert data.template == "User: {}\nAssistant: "
    assert parse_reward_arguments([*RM, "--tokenizer_chat_template", "{{ x }}"]).data.template == "tokenizer"
    assert parse_reward_arguments(RM).data.template == "none"
