"""Keys of the training loop and of the layout."""

from __future__ import annotations

import dataclasses
from typing import Any

from alignment.models.decoder.layers import packed_layers
from alignment.parallel.topology import Topology
from alignment.runs.degrees import resolve_layout
from alignment.trainers.objectives import OBJECTIVES, REWARD
from tests.contract.keys.assembled import Run
from tests.contract.keys.rows import ALL, EIGHT_ROWS, EVALUATED, SUPERVISED, Row, is_ppo, plan

STOPS = {**EVALUATED, "early_stopping": True}
BEST = {**EVALUATED, "load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 3}
SEEDS = {**dict.fromkeys(SUPERVISED, [7] * 3), "rm": [7] * 4, "ppo": [7, 7, 7, 7, 7 + 1_000_003, 7]}
PPO = ("ppo",)
BUDGETS = {name: 4 * 96 * OBJECTIVES.get(name, REWARD).rows_per_sample for name in SUPERVISED} | {"ppo": 4 * 96}


def _schedule(run: Run) -> Any:
    return run.learner.schedule


def _adam(run: Run) -> Any:
    return run.learner._optimizer._optimizer


def _micro_batches(run: Run) -> Any:
    return plan(run).micro_batches if is_ppo(run) else run.loop.micro_batches


def _adapter(run: Run) -> Any:
    return run.learner.runner.model.adapter


def _layout(run: Run) -> Any:
    return resolve_layout(run.launch.parsed.parallel, world_size=8)


def _dtype_on_gpu(run: Run) -> str:
    return dataclasses.replace(run.launch, topology=Topology(device="gpu")).dtype


def _seeds(run: Run) -> list[int]:
    """Of the framework, the dataset, its order; in PPO of answers, evaluation and updates, else of a new score head."""
    seeds = [run.call("runs.launch.initialise")["seed"], run.dataset.seed, run.loader._seed]
    if is_ppo(run):
        return [*seeds, run.loop.collector._seed, run.evaluation.seed, plan(run).seed]
    return seeds + [call[1]["seed"] for call in run.given.get("runs.offline.models.load_score_model", ())]


def _rows_of_evaluation(run: Run) -> Any:
    evaluation = run.evaluation
    return (evaluation.rows_per_call, evaluation.judge.logprob_rows) if is_ppo(run) else evaluation.rows_per_batch


def _offloaded(run: Run) -> list[bool]:
    """Of the learner its model and its optimizer, and PPO's reference and reward model."""
    owners = [run.learner.offloaded_model, run.learner.offloaded_optimizer]
    if is_ppo(run):
        frozen = run.loop.judge.reference.runner, run.loop.judge.scorer._runner
        owners += [getattr(runner, "_offloaded", None) for runner in frozen]
    return [owner is not None for owner in owners]


def _open_checkpoint(run: Run) -> Any:
    return run.call("runs.launch.open_checkpoint")


TRAINING = (
    Row("output_dir", "{named}", lambda r: str(r.state.store.output_dir), alone=True),
    Row("overwrite_output_dir", True, lambda r: "runs.assembly.remove_replaced" in r.given),
    Row("do_train", False, lambda r: r.loop is not None, with_=EVALUATED, alone=True),
    Row("do_eval", True, lambda r: r.evaluation is not None, with_={"eval_datasets": EIGHT_ROWS}),
    Row("num_train_epochs", 1.5, lambda r: r.session.total_updates, 9, alone=True),
    Row("max_steps", 12, lambda r: r.session.total_updates),
    Row("per_device_train_batch_size", 2, lambda r: _micro_batches(r).rows),
    Row("packing_samples", True, lambda r: _micro_batches(r).max_tokens, BUDGETS, alone=True),
    Row(
        "max_tokens_per_batch", 900, lambda r: _micro_batches(r).max_tokens, with_={"packing_samples": True},
    ),
    Row(
        "per_device_eval_batch_size", 3, _rows_of_evaluation, {**dict.fromkeys(SUPERVISED, 3), "ppo": (3, 3)},
        with_=EVALUATED,
    ),
    Row(
        "gradient_accumulation_steps", 3, lambda r: plan(r).rows_per_update if is_ppo(r) else r.loader.batch_size, 12,
        alone=True,
    ),
    Row("learning_rate", 3e-3, lambda r: _schedule(r).peak),
    Row("min_learning_rate", 2e-5, lambda r: _schedule(r).floor),
    Row("lr_scheduler_type", "cosine", lambda r: _schedule(r).kind),
    Row("warmup_ratio", 0.5, lambda r: _schedule(r).warmup_updates, 3, alone=True),
    Row("warmup_steps", 2, lambda r: _schedule(r).warmup_updates),
    Row("decay_steps", 5, lambda r: _schedule(r).decay_updates),
    Row("weight_decay", 0.25, lambda r: _adam(r)._weight_decay),
    Row("adam_beta1", 0.8, lambda r: _adam(r)._beta1),
    Row("adam_beta2", 0.95, lambda r: _adam(r)._beta2),
    Row("adam_epsilon", 1e-6, lambda r: _adam(r)._epsilon),
    Row("max_grad_norm", 0.3, lambda r: r.learner._max_grad_norm),
    Row("aux_loss_coef", 0.25, lambda r: r.learner.aux_loss_coef),
    Row("bf16", True, _dtype_on_gpu, "bfloat16", with_={"fp16_opt_level": "O2"}),
    Row("fp16_opt_level", "O2", _dtype_on_gpu, "bfloat16", with_={"bf16": True}),
    Row("recompute", True, lambda r: r.learner.runner.model.model.recompute),
    Row(
        "recompute_granularity", "core_attn", lambda r: r.learner.runner.model.model.recompute_granularity,
        with_={"recompute": True},
    ),
    Row("use_native_ops", False, lambda r: r.call("runs.launch.choose_operators")["wanted"]),
    Row("float32_matmul_precision", "medium", lambda r: r.call("runs.launch.choose_precision")["wanted"]),
    Row("share_prefixes", False, lambda r: r.call("runs.launch.choose_sharing")["wanted"]),
    Row("deterministic", True, lambda r: r.call("runs.launch.initialise")["deterministic"]),
    Row("device", "cpu", lambda r: r.call("runs.launch.initialise")["device"]),
    Row("seed", 7, _seeds, SEEDS, with_=EVALUATED, alone=True),
    Row("data_seed", 5, lambda r: (r.loader._seed, r.dataset.seed), (5, 42)),
    Row(
        "evaluation_strategy", "epoch", lambda r: r.session.cadences.evaluate.strategy,
        with_={"eval_datasets": EIGHT_ROWS},
    ),
    Row("eval_steps", 3, lambda r: r.session.cadences.evaluate.every, with_=EVALUATED),
    Row("save_strategy", "epoch", lambda r: r.session.cadences.save.strategy),
    Row("save_steps", 3, lambda r: r.session.cadences.save.every, with_={"save_strategy": "steps"}),
    Row("save_total_limit", 2, lambda r: r.launch.store._limit, with_={"save_strategy": "steps"}),
    Row("load_best_model_at_end", True, lambda r: r.session.hooks.best is not None, with_=BEST),
    Row("metric_for_best_model", "mine", lambda r: r.session.hooks.best.metric, "eval/mine", with_=BEST),
    Row(
        "greater_is_better", {**dict.fromkeys(SUPERVISED, True), "rm": False, "pairwise": False, "ppo": False},
        lambda r: r.session.hooks.best.greater_is_better, with_=BEST,
    ),
    Row("early_stopping", True, lambda r: r.session.hooks.stop is not None, with_=EVALUATED),
    Row("early_stopping_patience", 3, lambda r: r.session.hooks.stop.patience, with_=STOPS),
    Row("early_stopping_threshold", 0.25, lambda r: r.session.hooks.stop.threshold, with_=STOPS),
    Row("resume_from_checkpoint", True, lambda r: _open_checkpoint(r)["resume_from"], alone=True),
    Row("logging_steps", 5, lambda r: r.session.cadences.log.every),
    Row("logging_first_step", True, lambda r: r.session.log_first),
    Row("report_to", "visualdl", lambda r: r.call("runs.assembly.open_writers")[0], ("visualdl",), alone=True),
    Row("run_name", "mine", lambda r: r.call("runs.assembly.open_writers")["run_name"]),
    Row("disable_tqdm", True, lambda r: r.call("runs.assembly.Progress")["enabled"], False),
)  # fmt: skip

LAYOUT = (
    Row("tensor_parallel_degree", 2, lambda r: _layout(r).tensor),
    Row("pipeline_parallel_degree", 2, lambda r: _layout(r).pipeline),
    Row("sharding_parallel_degree", 2, lambda r: _layout(r).sharding, with_={"sharding": "stage2"}),
    Row("sharding", "stage2", lambda r: _layout(r).sharding_stage, 2),
    Row("sequence_parallel", True, lambda r: _layout(r).sequence_parallel, with_={"tensor_parallel_degree": 2}),
    Row("expert_parallel_degree", 2, lambda r: _layout(r).expert, with_={"tensor_parallel_degree": 2}),
    Row("virtual_pp_degree", 2, lambda r: _layout(r).virtual_stages, with_={"pipeline_parallel_degree": 2}),
    Row(
        "offload_level", "train_model optimizer eval", _offloaded,
        {**dict.fromkeys(SUPERVISED, [True] * 2), "ppo": [True] * 4},
        with_={"reward_model_name_or_path": {"ppo": "{reward}"}},
    ),
    Row("distributed_timeout", 77, lambda r: r.call("runs.launch.initialise")["timeout"]),
    Row("eval_mode", "single", lambda r: r.call("runs.on_policy.engines.rollout_placement")["eval_mode"], only=PPO),
    Row(
        "rollout_tensor_parallel_degree", 1, lambda r: r.call("runs.on_policy.engines.rollout_placement")["degree"],
        with_={"eval_mode": "tensor_parallel"}, only=PPO,
    ),
    Row("distributed_dry_run", True, lambda r: r.loop is None, only=PPO, alone=True),
)  # fmt: skip
LORA = {"lora": True, "offload_level": "", "max_length": 96}
"""With an adapter there is no reference model, which the rows of the other two keys look at."""
ADAPTER = (
    Row("lora", True, lambda r: all(x.runner.model.adapter is not None for x in r.state.learners.values()), alone=True),
    Row("lora_rank", 3, lambda r: [x.runner.model.adapter.rank for x in r.state.learners.values()],
        {**dict.fromkeys(ALL, [3]), "ppo": [3, 3]}, with_=LORA),
    Row("lora_alpha", 5.0, lambda r: _adapter(r).alpha, with_=LORA),
    Row("lora_dropout", 0.25, lambda r: r.learner.adapter.dropout, with_=LORA),
    Row(
        "lora_target_modules", "v_proj", lambda r: _adapter(r).modules, ("model.layers.0.self_attn.v_proj",),
        with_=LORA,
    ),
    Row("rslora", True, lambda r: _adapter(r).rank_stabilized, with_=LORA),
    Row(
        "load_in_4bit", True, lambda r: [len([*packed_layers(x.runner.model)]) for x in r.state.learners.values()],
        {**dict.fromkeys(ALL, [7]), "ppo": [7, 7]}, with_=LORA, alone=True,
    ),
    Row("lora_path", "{adapter}", lambda r: _adapter(r).rank, 5, with_=LORA, alone=True),
)  # fmt: skip
ROWS = (*TRAINING, *LAYOUT, *ADAPTER)
