"""Keys and values that cannot work."""

from __future__ import annotations

from bench import Case

WRONG_VALUES = {
    "learning_rate": [("inf", "finite"), (-1, ">= 0"), ("fast", "a number"), (True, "a number"), ([1], "a number")],
    "min_learning_rate": [(-1, ">= 0"), (1, "must not exceed learning_rate")],
    "per_device_train_batch_size": [(0, ">= 1"), (2.5, "a whole number"), ("9" * 500, "per_device_train_batch_size")],
    "gradient_accumulation_steps": [(0, ">= 1"), (-3, ">= 1")],
    "max_steps": [(0, "not 0"), (-2, ">= -1"), ("ten", "a whole number")],
    "num_train_epochs": [(0, "> 0"), ("nan", "finite")],
    "warmup_ratio": [(1.5, "<= 1"), (-0.1, ">= 0")],
    "warmup_steps": [(-1, ">= 0"), (2, "must be below max_steps")],
    "weight_decay": [(-1, ">= 0")],
    "adam_beta1": [(1, "< 1")],
    "adam_beta2": [(-0.1, ">= 0")],
    "adam_epsilon": [(0, "> 0")],
    "max_grad_norm": [(-1, ">= 0")],
    "max_length": [(1, ">= 2"), ("long", "a whole number"), (1000, "max_position_embeddings")],
    "max_prompt_len": [(64, "must be below max_length"), (0, ">= 1")],
    "seed": [(-1, ">= 0"), (2**63, "< 9.22"), (1.5, "a whole number")],
    "do_train": [("perhaps", "true or false"), (2, "true or false"), (False, "needs eval_datasets")],
    "bf16": [("half", "true or false")],
    "fp16": [(True, "use bf16")],
    "lr_scheduler_type": [("cosinus", "'cosine'"), (1, "'cosine'")],
    "evaluation_strategy": [("epoch", "needs eval_datasets"), ("always", "'steps'")],
    "eval_split_ratio": [(1, "< 1"), (0, "> 0")],
    "save_strategy": [("sometimes", "'epoch'")],
    "save_steps": [(0, ">= 1")],
    "save_total_limit": [(0, ">= 1")],
    "logging_steps": [(0, ">= 1")],
    "report_to": [("visaldl", "'visualdl'"), ("all,none", "cannot be combined")],
    "device": [("tpu", "'cpu'")],
    "on_overlong": [("cut", "'drop', 'left', 'right', 'error'")],
    "on_bad_row": [("keep", "'drop'")],
    "chat_template": [("mine", "chat_template")],
    "recompute_granularity": [("some", "'full'")],
    "tensor_parallel_degree": [(-2, ">= -1"), ("two", "a whole number")],
    "sharding": [("stage4", "'stage1'")],
    "offload_level": [("everything", "'freeze_model'")],
    "distributed_timeout": [(0, ">= 1")],
    "sep_parallel_degree": [(2, "is refused")],
    "expert_parallel_degree": [(-2, ">= -1")],
    "aux_loss_coef": [(-0.1, ">= 0")],
    "optim": [("sgd", "adamw is the only optimizer built")],
    "early_stopping_patience": [(0, ">= 1")],
    "early_stopping_threshold": [(-1, ">= 0")],
    "packing_samples": [("often", "true or false")],
    "max_tokens_per_batch": [(0, ">= 1"), ("many", "a whole number")],
    "use_dora": [(True, "DoRA is not built")],
    "output_dir": [(None, "missing required argument 'output_dir'"), ("", "output_dir")],
    "train_datasets": [(None, "missing required argument 'train_datasets'"), ("", "train_datasets")],
}
PPO_VALUES = {
    "temperature": [(0, "> 0"), ("hot", "a number")],
    "top_p": [(0, "> 0"), (1.1, "<= 1")],
    "top_k": [(-1, ">= 0"), (1, "equal responses")],
    "repetition_penalty": [(0, "> 0")],
    "max_dec_len": [(64, "below max_length=64"), (0, ">= 1")],
    "min_dec_len": [(9, "must not exceed max_dec_len"), (-1, ">= 0")],
    "stop_token_ids": [("a", "a whole number"), (-1, ">= 0"), (99999, "stop_token_ids")],
    "kl_coeff": [(-0.1, ">= 0")],
    "kl_estimator": [("k4", "'k1', 'k2', 'k3'")],
    "kl_target": [(0, "> 0")],
    "gamma": [(1.1, "<= 1")],
    "gae_lambda": [(-0.1, ">= 0")],
    "clip_range_ratio": [(0, "> 0"), (1.5, "clip_range_ratio_low below 1")],
    "dual_clip": [(1, "> 1")],
    "target_kl": [(0, "> 0")],
    "ema_beta": [(1, "< 1")],
    "critic_init": [("zeros", "'reward_model', 'policy', 'scratch'")],
    "freezing_actor_steps": [(-2, ">= -1")],
    "clip_range_score": [(0, "> 0")],
    "clip_placement": [("both", "'score', 'token'")],
    "update_iters": [(0, ">= 1")],
    "num_return_sequences": [(0, ">= 1")],
    "per_device_prompt_batch_size": [(0, ">= 1"), (3, "neither divides the other")],
    "global_batch_size": [(0, "not 0"), (3, "neither divides the other")],
    "global_mini_batch_size": [(3, "cannot be shared evenly")],
    "rollout_weight_type": [("int4", "'int8'")],
    "rollout_kv_type": [("int8", "'bfloat16'")],
    "speculative_tokens": [(-1, ">= 0")],
    "speculative_method": [("beam", "'previous'")],
    "rollout_kv_memory": [("much", "rollout_kv_memory"), ("-1GiB", "rollout_kv_memory"), ("1KiB", "rollout_kv_memory")],
    "logprob_gap_limit": [(0, "> 0")],
    "on_logprob_gap": [("ignore", "'warn'")],
    "importance_weight_cap": [(0.5, ">= 1")],
    "use_kl_loss": [("maybe", "use_kl_loss")],
    "use_adaptive_entropy": [("maybe", "use_adaptive_entropy")],
    "entropy_target": [(0, "> 0")],
    "entropy_coeff_delta": [(0, "> 0")],
    "entropy_coeff_min": [(-1, ">= 0")],
    "entropy_coeff_max": [(0, "> 0")],
    "rollout_ahead": [(2, "<= 1"), ("yes", "rollout_ahead")],
    "rl_algorithm": [("gppo", "'grpo'"), ("reinforce_plus", "'reinforce_plus_plus'")],
    "eval_mode": [("double", "'single'")],
    "critic_learning_rate": [(-1, ">= 0")],
    "reward_timeout": [(0, "> 0")],
    "reference_server": [("localhost:1", "must begin with http")],
    "reference_timeout": [(0, "> 0")],
    "reference_retries": [(-1, ">= 0")],
    "reward_retries": [(-1, ">= 0")],
    "on_reward_failure": [("zero", "'stop'")],
    "max_gen_batches": [(0, ">= 1")],
}
RM_VALUES = {
    "objective": [("joy", "'reward', 'cost'")],
    "loss_type": [("word-wise", "'sequence-wise'")],
    "regularization": [(-1, ">= 0")],
    "center_rewards_coefficient": [(-1, ">= 0")],
    "regularization_convention": [("mine", "'paddlenlp'")],
    "normalizer_type": [("Mean", "'RunningMeanStd'")],
    "normalizer_momentum": [(1.5, "<= 1")],
}


def _shown(value: object) -> str:
    return f"{value!r:.24}"


def _cases(trainer: str, table: dict) -> list[Case]:
    return [
        Case(f"{key}={_shown(value)}", trainer, {key: value}, (key, says))
        for key, values in table.items()
        for value, says in values
    ]


FILES = {
    "no file": (None, "does not exist"),
    "an empty file": ("", "invalid JSON"),
    "half an object": ('{"seed": 1', "line 1"),
    "a list": ("[1]", "one JSON object"),
    "a number": ("3", "one JSON object"),
    "a key twice": ('{"seed": 1, "seed": 2}', "more than once"),
    "no text": (b"\xff\xfe\x00{", "it is not UTF-8 text (byte 0xff at position 0)"),
    "deep nesting": ('{"a": ' * 3000 + "1" + "}" * 3000, "invalid JSON"),
    "a huge number": ('{"seed": ' + "9" * 6000 + "}", "invalid JSON"),
}
YAML_FILES = {
    "a tab": ("a:\n\t- 1\n", "line 2"),
    "a list": ("- a\n", "one YAML mapping"),
    "an object of Python's": ("seed: !!python/object/apply:os.getcwd []\n", "line 1"),
    "a key twice": ("seed: 1\nseed: 2\n", "more than once"),
}


def _file_case(name: str, content: object, says: str, suffix: str) -> Case:
    def prepare(bench):
        if content is not None:
            bench.write(f"mine.{suffix}", content)

    return Case(
        f"{suffix} with {name}", "plan", [f"mine.{suffix}", "--gpus", "1", "--memory_gib", "1"], (says,), prepare
    )


ARGUMENT_CASES = (
    *_cases("sft", WRONG_VALUES),
    *_cases("ppo", PPO_VALUES),
    *_cases("rm", RM_VALUES),
    *(_file_case(name, *pair, "json") for name, pair in FILES.items()),
    *(_file_case(name, *pair, "yaml") for name, pair in YAML_FILES.items()),
    Case("a path of 5000 characters", "sft", {"model_name_or_path": "./" + "a" * 5000}, ("does not exist",)),
    Case("a path with a NUL", "sft", {"model_name_or_path": "a\0b"}, ("without NUL",)),
    Case("a misspelt key", "sft", {"learning_rat": 1}, ("'learning_rat'", "did you mean 'learning_rate'")),
    Case("a key of another trainer", "sft", {"kl_coeff": 0.1}, ("'kl_coeff'",)),
    Case("a name of a sampler's key", "ppo", {"max_new_tokens": 8}, ("give max_dec_len",)),
    Case("a secret", "sft", {"wandb_api_key": "s"}, ("does not belong in a file",)),
    Case(
        "the best of no evaluations",
        "sft",
        {"load_best_model_at_end": True, "save_strategy": "steps"},
        ("evaluation_strategy and save_strategy",),
    ),
    Case("no model", "sft", {"model_name_or_path": None}, ("exactly one of model_name_or_path",)),
    Case(
        "random weights without a tokenizer",
        "sft",
        {"model_name_or_path": None, "model_config_name_or_path": "{policy}"},
        ("needs tokenizer_name_or_path",),
    ),
    Case(
        "replacing the model that is trained",
        "sft",
        {"model_name_or_path": "{run}", "output_dir": "{run}", "overwrite_output_dir": True},
        ("would delete model_name_or_path=",),
    ),
    Case("no reward", "ppo", {"reward_model_name_or_path": None}, ("exactly one of reward_model_name_or_path",)),
    Case("two names of one key", "ppo", {"rollout_n": 3}, ("two names of one argument",)),
    Case(
        "resume and replace",
        "sft",
        {"resume_from_checkpoint": True, "overwrite_output_dir": True},
        ("give one of them",),
    ),
    Case("resume from nowhere", "sft", {"resume_from_checkpoint": "nowhere"}, ("'nowhere' does not exist",)),
    Case(
        "a prompt and a response too long together",
        "ppo",
        {"max_prompt_len": 60},
        ("60 + 8 = 68 exceeds max_length=64",),
    ),
)
