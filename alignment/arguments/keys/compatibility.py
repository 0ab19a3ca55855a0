"""Keys of PaddleNLP's files that have no effect here, or are refused with advice."""

from __future__ import annotations

import dataclasses
from typing import Literal

from alignment.fields import inert, refused

_KERNEL = "there is one implementation of this operation, the fastest that is built"
_ONE_WAY = "there is one implementation of this, which the option does not change"
_SAVING = "checkpoints have one format: written aside, synced, renamed"
_NO_AMP = "mixed precision by operator is not built; weights are bfloat16 (bf16 with O2) or float32"
_PACKED = "rows never see each other, and padding is never computed; packing_samples composes micro-batches by tokens"
_NO_LORA_PLUS = "one learning rate serves both factors; give rslora"
_NO_OTHER_BITS = "load_in_4bit=true holds the base in NF4, with a float32 scale for 64 numbers"
_FURTHER = "the further rollouts of dynamic sampling have the size of the first"
_NO_RANDOM_TOKENS = "random tokenization is not built"
_NO_QUANT = "give rollout_weight_type=int8 for the fused engine"
_NO_DROPOUT = "the supported models have no dropout"
_NO_EXPERTS = "give expert_parallel_degree"
_MEASURED = "it is always measured"
_TIMED = "the seconds of each stage are always measured"
_SAME_EVAL = "evaluation computes as training does"
_IN_PLACE = "give name:proportion:path in the dataset"

# One line per key: name, type, the accepted value, meaning, reason.
# fmt: off
_REFUSED = (
    ("fp16", bool, False, "Compute in float16.", "float16 needs loss scaling, which is not built; use bf16"),
    ("autotuner_benchmark", bool, False, "Benchmark with random weights.",
     "it would train random weights instead of the model named"),
    ("optim", str, "adamw", "Optimizer.", "adamw is the only optimizer built"),
    ("no_cuda", bool, False, "Run on the CPU.", "write device=cpu"),
    ("ignore_data_skip", bool, False, "Start the data again on resume.",
     "resuming continues with the next row, so that it equals the uninterrupted run"),
    ("skip_data_intervals", str | None, None, "Updates to skip.", "leave the rows out of the dataset"),
    ("ignore_load_lr_and_optim", bool, False, "Resume without optimizer.",
     "resuming restores everything; to start again give the model path"),
    ("eos_token", str | None, None, "Text of another end token.", "give its id in stop_token_ids"),
    ("do_predict", bool, False, "Predict on a test set.", "there is no prediction stage"),
    ("do_export", bool, False, "Export for inference.", "run `python -m alignment export`"),
    ("to_static", bool, False, "Compile the model.", "training runs eagerly"),
    ("enable_auto_parallel", bool, False, "Automatic parallelism.", "automatic parallelism is not built"),
    ("logging_strategy", str, "steps", "When to record metrics.", "give logging_steps"),
    ("prefix_tuning", bool, False, "Train a prefix.", "prefixes are not built; give lora=true"),
    ("lora_plus_scale", float, 1.0, "Factor of the learning rate of B in an adapter.", _NO_LORA_PLUS),
    ("rslora_plus", bool, False, "rslora with a higher learning rate of B.", _NO_LORA_PLUS),
    ("use_dora", bool, False, "Train the norms of the adapted weights too.", "DoRA is not built; give rslora"),
    ("load_in_8bit", bool, False, "Hold the base of an adapter in 8 bits.", _NO_OTHER_BITS),
    ("bnb_4bit_quant_type", str, "nf4", "Form of a base in 4 bits.", _NO_OTHER_BITS),
    ("use_bnb_nested_quant", bool, False, "Hold the scales of a base in 4 bits in 8 bits.", _NO_OTHER_BITS),
    ("qlora_weight_double_quant", bool, False, "Hold the scales of a base in 4 bits in 8 bits.", _NO_OTHER_BITS),
    ("qlora_weight_blocksize", int, 64, "Numbers of a base in 4 bits that share a scale.", _NO_OTHER_BITS),
    ("pissa", bool, False, "Start adapters from singular vectors.", "it would change the base; adapters start at zero"),
    ("quant_type", str | None, None, "Quantisation of the rollout's weights.", _NO_QUANT),
    ("rollout_quant_type", str | None, None, "Quantisation of the rollout's weights.", _NO_QUANT),
)
_INERT = (
    ("ignore_save_lr_and_optim", bool, False, "Save without optimizer.",
     "checkpoints hold the optimizer, so that they can be resumed"),
    ("shard_ema", bool, False, "Share averaged weights.", "each process averages the weights that it holds"),
    ("offload_ema", bool, True, "Averaged weights in host memory.", "they always are"),
    ("use_quick_lora", bool, True, "Fuse the operators of adapters.", _KERNEL),
    ("global_gen_batch_size", int, -1, "Prompts of one rollout of dynamic sampling, over all processes.",
     _FURTHER),
    ("greedy_zero_padding", bool, False, "Pack rows as tightly as they fit.", _PACKED),
    ("flash_mask", bool, False, "Attention masks of packed rows.", _PACKED),
    ("balance_batch", bool, False, "Distribute long rows evenly over the processes.",
     "packing_samples does, and results do not depend on it"),
    ("use_remove_padding", bool, True, "Compute real tokens only.", "padding is never computed"),
    ("use_fused_rope", bool, False, "Fuse rotary positions.", _KERNEL),
    ("use_fused_linear", bool, False, "Fuse matrix product and bias.", _KERNEL),
    ("use_fused_linear_cross_entropy", bool, False, "Fuse head and loss.", _KERNEL),
    ("fuse_attention_qkv", bool, False, "One matrix product for queries, keys and values.", _KERNEL),
    ("fuse_attention_ffn", bool, False, "One matrix product for gate and up projection.", _KERNEL),
    ("recompute_use_reentrant", bool, True, "How recompute is done.", _KERNEL),
    ("use_fused_head_and_loss_fn", bool, False, "Fuse head and loss.", _KERNEL),
    ("fused_linear", bool, False, "Fuse matrix product and bias.", _KERNEL),
    ("use_fused_rms_norm", bool, False, "Fuse the norm.", _KERNEL),
    ("use_attn_mask_start_row_indices", bool, False, "Sparse attention masks.", _KERNEL),
    ("flatten_param_grads", bool, False, "Flatten parameters and gradients.", _KERNEL),
    ("use_sparse_head_and_loss_fn", bool, True, "Compute the head on target tokens only.",
     "the head runs on target tokens only"),
    ("wandb_http_proxy", str | None, None, "Proxy of wandb.", "wandb reads HTTPS_PROXY of the environment"),
    ("logging_dir", str | None, None, "Folder of the curves.", "curves are written to output_dir/runs"),
    ("refined_recompute", str | None, None, "What recompute leaves out.", "whole layers are recomputed"),
    ("use_fp32_compute", bool, True, "Compute losses in float32.",
     "log-probs, rewards, advantages and losses are always computed in float32"),
    ("use_tgt_len_value", bool, True, "Values on the response alone.",
     "values and advantages always cover the response alone"),
    ("release_grads", bool, True, "Free gradients between updates.", "gradients are freed after every update anyway"),
    ("unified_checkpoint", bool, False, "One checkpoint format for all layouts.", _SAVING),
    ("unified_checkpoint_config", str | None, None, "Options of unified checkpoints.", _SAVING),
    ("use_async_save", bool, False, "Save in the background.", _SAVING),
    ("save_sharded_model", bool, False, "Save shards of the model.", _SAVING),
    ("load_sharded_model", bool, False, "Load shards of the model.", _SAVING),
    ("save_on_each_node", bool, False, "Save on every machine.", _SAVING),
    ("ckpt_quant_stage", str, "O0", "Quantise checkpoints.", _SAVING),
    ("amp_master_grad", bool, False, "Gradients in float32.", _NO_AMP),
    ("amp_custom_black_list", tuple[str, ...], (), "Operators kept in float32.", _NO_AMP),
    ("amp_custom_white_list", tuple[str, ...], (), "Operators in 16 bits.", _NO_AMP),
    ("bf16_full_eval", bool, False, "Evaluate in bfloat16.", _SAME_EVAL),
    ("fp16_full_eval", bool, False, "Evaluate in float16.", _SAME_EVAL),
    ("scale_loss", float, 2.0**15, "First loss scale of float16.", "loss scaling belongs to fp16"),
    ("offload_optim", bool, False, "Optimizer state in host memory.", "give offload_level"),
    ("hidden_dropout_prob", float, 0.0, "Dropout of layers.", _NO_DROPOUT),
    ("attention_probs_dropout_prob", float, 0.0, "Dropout of attention.", _NO_DROPOUT),
    ("dropout_warmup_steps", int, 0, "Updates with dropout.", _NO_DROPOUT),
    ("use_expert_parallel", bool, False, "Share experts.", _NO_EXPERTS),
    ("actor_tokenizer_alpha", float | None, None, "Random tokenization of the policy.", _NO_RANDOM_TOKENS),
    ("reward_tokenizer_alpha", float | None, None, "Random tokenization of the reward model.", _NO_RANDOM_TOKENS),
    ("reward_critic_tokenizer_alpha", float | None, None, "Random tokenization of the critic.", _NO_RANDOM_TOKENS),
    ("num_cycles", float, 0.5, "Waves of the cosine.", "the cosine falls once from the peak to min_learning_rate"),
    ("lr_end", float, 0.0, "Last learning rate of the polynomial.", "give min_learning_rate"),
    ("power", float, 2.0, "Exponent of the polynomial.", "the polynomial schedule is a square"),
    ("eval_accumulation_steps", int | None, None, "Evaluation batches kept on the device.",
     "results go to host memory after every batch"),
    ("prediction_loss_only", bool, False, "Evaluate the loss alone.", _MEASURED),
    ("count_trained_tokens", bool, True, "Count tokens.", _MEASURED),
    ("max_evaluate_steps", int, -1, "Evaluation batches.",
     "evaluation covers its dataset; shorten it with name:proportion"),
    ("minimum_eval_times", int | None, None, "Smallest number of evaluations.", "give eval_steps"),
    ("skip_profile_timer", bool, False, "Do not time stages.", _TIMED),
    ("benchmark", bool, False, "Benchmark mode.", _TIMED),
    ("dpo_benchmark", bool, False, "Benchmark mode.", _TIMED),
    ("num_of_gpus", int, -1, "Processes of an estimate.", "the launcher says how many processes there are"),
    ("skip_memory_metrics", bool, True, "Do not measure memory.", "memory is not measured"),
    ("log_on_each_node", bool, False, "Log on every machine.", "the first process logs"),
    ("remove_unused_columns", bool, True, "Drop unused columns.", "rows hold the fields that are used"),
    ("lazy_data_processing", bool, True, "Encode late.", "rows are encoded when they are read"),
    ("distributed_dataloader", bool, False, "One process reads the data for all.", "each process reads its own rows"),
    ("lazy", bool, False, "Stream the data.", "datasets are always indexed"),
    ("task_name", str | None, None, "Subset of a dataset.", _IN_PLACE),
    ("eval_with_do_generation", bool, False, "Generate in evaluation.", "PPO evaluation generates, the others score"),
    ("save_generation_output", bool, True, "Keep evaluation answers.", "samples.jsonl is always written"),
    ("metrics_output_path", str | None, None, "File of metrics.", "metrics are in output_dir/metrics.jsonl"),
    ("local_rank", int, -1, "Number of this process.", "the launcher says which process this is"),
    ("stage", str | None, None, "Kind of training.", "the entry script says what is trained"),
    ("flash_attn", bool, False, "Use flash attention.",
     "it is used wherever it exists: in bfloat16 on a GPU, and nowhere else"),
    ("disable_dropout", bool, True, "Train without dropout.", _NO_DROPOUT),
    ("use_flash_attention", bool, False, "Use flash attention.",
     "it is used wherever it exists: in bfloat16 on a GPU, and nowhere else"),
    ("tensor_parallel_config", tuple[str, ...], (), "Options of tensor parallelism.", _ONE_WAY),
    ("pipeline_parallel_config", tuple[str, ...], (), "Options of the pipeline, for example disable_p2p_cache_shape.",
     _ONE_WAY),
    ("sharding_parallel_config", tuple[str, ...], (), "Options of sharding, for example enable_stage1_overlap.",
     _ONE_WAY),
    ("data_parallel_config", tuple[str, ...], (), "Options of data parallelism.", _ONE_WAY),
    ("sequence_parallel_config", tuple[str, ...], (), "Options of sequence parallelism.", _ONE_WAY),
    ("hybrid_parallel_topo_order", Literal["pp_first", "sharding_first"] | None, None,
     "Order of the axes in the grid of processes.",
     "ranks are ordered data, pipeline, sharding, tensor; results do not depend on it"),
    ("tensor_parallel_output", bool, False,
     "Keep logits split over the tensor-parallel processes (2025 versions: true by default).",
     "logits are never gathered"),
)
# fmt: on

CompatibilityArguments: type = dataclasses.make_dataclass(
    "CompatibilityArguments",
    [(name, hint, refused(value, why, meaning=meaning)) for name, hint, value, meaning, why in _REFUSED]
    + [(name, hint, inert(value, why, meaning=meaning)) for name, hint, value, meaning, why in _INERT],
    namespace={"__doc__": "Keys without effect; a run that is given one says why."},
    frozen=True,
    kw_only=True,
)
