"""Keys of PaddleNLP files that cannot change anything here, or are refused with the way out."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.fields import inert, refused

_KERNEL = "there is one implementation of this operation, the fastest that is built"
_SAVING = "checkpoints have one format: written aside, synced, renamed"
_AMP = "mixed precision by operator is not built; weights are bfloat16 (bf16 with O2) or float32"
_STEP = "gradients are freed after every update anyway"
_DROPOUT = "the supported models have no dropout"
_EXPERTS = "the supported models have no experts"
_ALL_MEASURED = "it is always measured"
_RANDOM_TOKENS = "random tokenization is not built"
_NO_ADAPTERS = "adapters are not built; merge them into the model first"
_NO_PACKING = "packing is not built; every row is a sequence of its own, and padding is never computed"
_OVERLONG = "shape the reward in a reward_function"
_NO_DYNAMIC_SAMPLING = "dynamic sampling is not built"


@dataclass(frozen=True, kw_only=True)
class CompatibilityArguments:
    """Keys without an effect of their own; each says why when it is given."""

    fp16: bool = refused(False, "float16 needs loss scaling, which is not built; use bf16")
    """Compute in float16."""
    autotuner_benchmark: bool = refused(False, "it would train random weights instead of the model named")
    """Benchmark with random weights."""
    optim: str = refused("adamw", "adamw is the only optimizer built")
    """Optimizer."""
    no_cuda: bool = refused(False, "write device=cpu")
    """Run on the CPU."""
    ignore_data_skip: bool = refused(False, "resuming continues with the next row, so that it equals the unbroken run")
    """Start the data anew on resume."""
    skip_data_intervals: str | None = refused(None, "leave the rows out of the dataset")
    """Updates to skip."""
    ignore_load_lr_and_optim: bool = refused(False, "resuming restores everything; to start anew give the model path")
    """Resume without optimizer."""
    ignore_save_lr_and_optim: bool = inert(False, "checkpoints hold the optimizer, so that they can be resumed")
    """Save without optimizer."""
    early_stopping: bool = refused(False, "it is not built; load_best_model_at_end keeps the best weights")
    """Stop when the metric no longer improves."""
    early_stopping_patience: int = inert(4, "early_stopping is not built")
    """Evaluations without improvement before the stop."""
    early_stopping_threshold: float = inert(0.0, "early_stopping is not built")
    """Smallest improvement that counts."""
    use_ema: bool = refused(False, "averaged weights are not built")
    """Roll out with averaged weights."""
    shard_ema: bool = inert(False, "averaged weights are not built")
    """Share averaged weights."""
    offload_ema: bool = inert(True, "averaged weights are not built")
    """Averaged weights in host memory."""
    ema_beta: float = inert(0.992, "averaged weights are not built")
    """Decay of averaged weights."""
    eos_token: str | None = refused(None, "give its id in stop_token_ids")
    """Text of another end token."""
    do_predict: bool = refused(False, "there is no prediction stage")
    """Predict on a test set."""
    do_export: bool = refused(False, "run `python -m alignment.export`")
    """Export for inference."""
    to_static: bool = refused(False, "training runs eagerly")
    """Compile the model."""
    enable_auto_parallel: bool = refused(False, "automatic parallelism is not built")
    """Automatic parallelism."""
    logging_strategy: str = refused("steps", "give logging_steps")
    """When to record metrics."""

    zero_padding: bool = refused(False, _NO_PACKING)
    """Pack several rows into one sequence."""
    greedy_zero_padding: bool = refused(False, _NO_PACKING)
    """Pack rows as tightly as they fit."""
    flash_mask: bool = refused(False, _NO_PACKING)
    """Attention masks of packed rows."""
    lora: bool = refused(False, _NO_ADAPTERS)
    """Train low-rank adapters."""
    lora_path: str | None = refused(None, _NO_ADAPTERS)
    """Folder of an adapter to go on with."""
    prefix_tuning: bool = refused(False, _NO_ADAPTERS)
    """Train a prefix."""
    dynamic_sampling: bool = refused(False, _NO_DYNAMIC_SAMPLING)
    """Sample prompts again whose rewards are all equal."""
    enable_overlong_reward_buffer: bool = refused(False, _OVERLONG)
    """Lower the reward of responses that are nearly too long."""
    rollout_quant_type: str | None = refused(None, "give rollout_weight_type=int8 for the fused engine")
    """Quantisation of the rollout's weights."""

    lora_rank: int = inert(8, _NO_ADAPTERS)
    """Rank of adapters."""
    lora_alpha: int = inert(-1, _NO_ADAPTERS)
    """Scale of adapters."""
    overlong_reward_buffer: int = inert(256, "enable_overlong_reward_buffer is not built")
    """Tokens over which the reward falls."""
    overlong_penalty_factor: float = inert(1.0, "enable_overlong_reward_buffer is not built")
    """Largest penalty of an overlong response."""
    max_gen_batches: int = inert(2, _NO_DYNAMIC_SAMPLING)
    """Rollouts that dynamic sampling may take."""
    global_gen_batch_size: int = inert(-1, _NO_DYNAMIC_SAMPLING)
    """Prompts of one rollout of dynamic sampling, over all processes."""
    balance_batch: bool = inert(False, "losses are divided by counts over all processes, so no number depends on it")
    """Spread long rows evenly over the processes."""
    use_remove_padding: bool = inert(True, "padding is never computed")
    """Compute real tokens only."""
    use_fused_rope: bool = inert(False, _KERNEL)
    """Fuse rotary positions."""
    use_fused_linear: bool = inert(False, _KERNEL)
    """Fuse matrix product and bias."""
    use_fused_linear_cross_entropy: bool = inert(False, _KERNEL)
    """Fuse head and loss."""
    use_sparse_head_and_loss_fn: bool = inert(True, "the head runs on target tokens only")
    """Compute the head on target tokens only."""
    fuse_attention_qkv: bool = inert(False, _KERNEL)
    """One matrix product for queries, keys and values."""
    fuse_attention_ffn: bool = inert(False, _KERNEL)
    """One matrix product for gate and up projection."""
    wandb_http_proxy: str | None = inert(None, "wandb reads HTTPS_PROXY of the environment")
    """Proxy of wandb."""
    logging_dir: str | None = inert(None, "curves are written to output_dir/runs")
    """Folder of the curves."""
    recompute_use_reentrant: bool = inert(True, _KERNEL)
    """How recompute is done."""
    refined_recompute: str | None = inert(None, "whole layers are recomputed")
    """What recompute leaves out."""
    use_fused_head_and_loss_fn: bool = inert(False, _KERNEL)
    """Fuse head and loss."""
    fused_linear: bool = inert(False, _KERNEL)
    """Fuse matrix product and bias."""
    use_fused_rms_norm: bool = inert(False, _KERNEL)
    """Fuse the norm."""
    use_attn_mask_start_row_indices: bool = inert(False, _KERNEL)
    """Sparse attention masks."""
    flatten_param_grads: bool = inert(False, _KERNEL)
    """Flatten parameters and gradients."""
    use_fp32_compute: bool = inert(True, "log-probs, rewards, advantages and losses are always computed in float32")
    """Compute losses in float32."""
    use_tgt_len_value: bool = inert(True, "values and advantages always cover the response alone")
    """Values on the response alone."""
    kl_loss_coeff: float = inert(0.0, "ppo puts the KL into the reward: give kl_coeff")
    """Weight of a KL loss (grpo)."""
    pg_loss_coeff: float = inert(1.0, "ppo has one policy loss, of weight 1: scale learning_rate")
    """Weight of the policy loss (grpo)."""
    release_grads: bool = inert(True, _STEP)
    """Free gradients between updates."""
    unified_checkpoint: bool = inert(False, _SAVING)
    """One checkpoint format for all layouts."""
    unified_checkpoint_config: str | None = inert(None, _SAVING)
    """Options of unified checkpoints."""
    use_async_save: bool = inert(False, _SAVING)
    """Save in the background."""
    save_sharded_model: bool = inert(False, _SAVING)
    """Save shards of the model."""
    load_sharded_model: bool = inert(False, _SAVING)
    """Load shards of the model."""
    save_on_each_node: bool = inert(False, _SAVING)
    """Save on every machine."""
    ckpt_quant_stage: str = inert("O0", _SAVING)
    """Quantise checkpoints."""
    amp_master_grad: bool = inert(False, _AMP)
    """Gradients in float32."""
    amp_custom_black_list: tuple[str, ...] = inert((), _AMP)
    """Operators kept in float32."""
    amp_custom_white_list: tuple[str, ...] = inert((), _AMP)
    """Operators in 16 bits."""
    bf16_full_eval: bool = inert(False, "evaluation computes as training does")
    """Evaluate in bfloat16."""
    fp16_full_eval: bool = inert(False, "evaluation computes as training does")
    """Evaluate in float16."""
    scale_loss: float = inert(2.0**15, "loss scaling belongs to fp16")
    """First loss scale of float16."""
    offload_optim: bool = inert(False, "give offload_level")
    """Optimizer state in host memory."""
    hidden_dropout_prob: float = inert(0.0, _DROPOUT)
    """Dropout of layers."""
    attention_probs_dropout_prob: float = inert(0.0, _DROPOUT)
    """Dropout of attention."""
    dropout_warmup_steps: int = inert(0, _DROPOUT)
    """Updates with dropout."""
    use_expert_parallel: bool = inert(False, _EXPERTS)
    """Share experts."""
    actor_tokenizer_alpha: float | None = inert(None, _RANDOM_TOKENS)
    """Random tokenization of the policy."""
    reward_tokenizer_alpha: float | None = inert(None, _RANDOM_TOKENS)
    """Random tokenization of the reward model."""
    reward_critic_tokenizer_alpha: float | None = inert(None, _RANDOM_TOKENS)
    """Random tokenization of the critic."""
    num_cycles: float = inert(0.5, "the cosine falls once from the peak to min_learning_rate")
    """Waves of the cosine."""
    lr_end: float = inert(0.0, "give min_learning_rate")
    """Last learning rate of the polynomial."""
    power: float = inert(2.0, "the polynomial schedule is a square")
    """Exponent of the polynomial."""
    eval_accumulation_steps: int | None = inert(None, "results go to host memory after every batch")
    """Evaluation batches kept on the device."""
    prediction_loss_only: bool = inert(False, _ALL_MEASURED)
    """Evaluate the loss alone."""
    max_evaluate_steps: int = inert(-1, "evaluation covers its dataset; shorten it with name:proportion")
    """Evaluation batches."""
    minimum_eval_times: int | None = inert(None, "give eval_steps")
    """Smallest number of evaluations."""
    skip_profile_timer: bool = inert(False, "the seconds of each stage are always measured")
    """Do not time stages."""
    skip_memory_metrics: bool = inert(True, "memory is not measured")
    """Do not measure memory."""
    count_trained_tokens: bool = inert(True, _ALL_MEASURED)
    """Count tokens."""
    log_on_each_node: bool = inert(False, "the first process logs")
    """Log on every machine."""
    remove_unused_columns: bool = inert(True, "rows hold the fields that are used")
    """Drop unused columns."""
    lazy_data_processing: bool = inert(True, "rows are encoded when they are read")
    """Encode late."""
    distributed_dataloader: bool = inert(False, "each process reads its own rows")
    """One process reads the data for all."""
    lazy: bool = inert(False, "datasets are always indexed")
    """Stream the data."""
    task_name: str | None = inert(None, "give name:proportion:path in the dataset")
    """Subset of a dataset."""
    eval_with_do_generation: bool = inert(False, "PPO evaluation generates, the others score")
    """Generate in evaluation."""
    save_generation_output: bool = inert(True, "samples.jsonl is always written")
    """Keep evaluation answers."""
    metrics_output_path: str | None = inert(None, "metrics are in output_dir/metrics.jsonl")
    """File of metrics."""
    local_rank: int = inert(-1, "the launcher says which process this is")
    """Number of this process."""
    stage: str | None = inert(None, "the entry script says what is trained")
    """Kind of training."""
    benchmark: bool = inert(False, "the seconds of each stage are always measured")
    """Benchmark mode."""
