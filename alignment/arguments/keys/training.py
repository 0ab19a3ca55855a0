"""Arguments of the training loop: PaddleNLP's ``TrainingArguments`` and its defaults, unless a field says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from alignment.fields import Case, Situation, argument, unless, where, where_given

MatmulPrecision = Literal["highest", "medium"]
"""As torch calls them: float32, or operands rounded to bfloat16 with sums in float32."""
HIGHEST: MatmulPrecision = "highest"
SchedulerType = Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial"]


def _on_cpu(value: Any, s: Situation) -> bool:
    return bool(value) and s.device == "cpu"


def _off_cpu(value: Any, s: Situation) -> bool:
    return bool(value) and s.device != "cpu"


def _bf16_without_o2(value: Any, s: Situation) -> bool:
    return _off_cpu(value, s) and s.values["fp16_opt_level"] != "O2"


def _level_without_bf16(value: Any, s: Situation) -> bool:
    return value != "O1" and (s.device == "cpu" or not s.values["bf16"])


def _no_evaluation(value: Any, s: Situation) -> bool:
    return not s.values["do_eval"] and s.values["evaluation_strategy"] == "no" and s.values["do_train"]


NO_EVALUATION = Case(_no_evaluation, "nothing is evaluated (evaluation_strategy is no and do_eval is false)")
"""For keys of the evaluation."""
_NO_BF16 = Case(_on_cpu, "the CPU computes in float32", "the device is a CPU")
_NO_MIXED = Case(
    _bf16_without_o2,
    "mixed precision by operator is not built; add fp16_opt_level=O2",
    "fp16_opt_level is not O2, on a GPU",
)
_NO_LEVEL = Case(
    _level_without_bf16,
    "it only matters with bf16 on a GPU (the CPU computes in float32)",
    "bf16 is false or the device is a CPU",
)
_REPEATS_ANYWAY = Case(_on_cpu, "CPU results are always reproducible", "the device is a CPU")


def _without_kernels(value: Any, s: Situation) -> bool:
    return bool(value) and (s.device != "cpu" or not s.values["use_native_ops"])


def _with_dropout(value: Any, s: Situation) -> bool:
    return bool(value) and bool(s.values.get("lora")) and s.values["lora_dropout"] > 0


_NO_FOREST = (
    Case(
        _without_kernels,
        "only the compiled operators of a CPU share tokens; leave it null",
        "the device is a GPU or use_native_ops is false",
    ),
    Case(
        _with_dropout,
        "with lora_dropout every row drops other numbers; leave it null or set lora_dropout to 0",
        "lora_dropout is above 0",
    ),
)


def _rounds_off_cpu(value: Any, s: Situation) -> bool:
    return value != HIGHEST and s.device != "cpu"


_NO_ROUNDING = Case(_rounds_off_cpu, "it is for the CPU; on a GPU set bf16", "the device is a GPU")
_NO_NATIVE = Case(_off_cpu, "the compiled operators are for the CPU", "the device is a GPU")
_NO_WARMUP = where("lr_scheduler_type", "constant", why="a constant learning rate has no warm-up")
_FLAT = where("lr_scheduler_type", "constant", "constant_with_warmup", why="the learning rate does not decay")
_NO_CHOICE = where("evaluation_strategy", "no", why="nothing is evaluated and no checkpoint is written")
_NEVER_STOPS = where("early_stopping", False)


def _no_best(value: Any, s: Situation) -> bool:
    stops = s.values["early_stopping"] or s.values.get("on_reward_hacking") == "stop_at_best"
    return value is not None and not s.values["load_best_model_at_end"] and not stops


_KEEPS_LAST = Case(_no_best, "load_best_model_at_end and early_stopping are false")


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """Length of training, optimizer, precision, and when to evaluate, save and log."""

    output_dir: str = argument(path="output", aliases=("save_path",))
    """Folder for weights, checkpoints, metrics and the report; relative to the current folder."""
    overwrite_output_dir: bool = False
    """Start again in a folder that already has a run, and replace it."""
    do_train: bool = True
    """Train (PaddleNLP: false by default, yet its scripts train). false: only evaluate, which needs evaluation data."""
    do_eval: bool = False
    """Evaluate at the end even if evaluation_strategy is no; any other strategy evaluates anyway."""

    num_train_epochs: float = argument(
        1.0,
        above=0,
        inert_when=where_given("max_steps"),
        advice=dict.fromkeys(
            ("max_epochs", "max_epoch"), "give num_train_epochs (passes over a rollout in PPO: update_iters)"
        ),
    )
    """Passes over the training data; may be a fraction."""
    max_steps: int = argument(-1, minimum=-1, excluded=(0,))
    """Total number of optimizer updates; -1: given by num_train_epochs."""
    per_device_train_batch_size: int = argument(8, minimum=1, aliases=("micro_train_batch_size",))
    """Rows per micro-batch (forward and backward) in one process."""
    per_device_eval_batch_size: int = argument(8, minimum=1, inert_when=NO_EVALUATION)
    """Rows per forward pass in evaluation, in one process."""
    gradient_accumulation_steps: int = argument(
        1,
        minimum=1,
        inert_when=where_given("global_mini_batch_size", "global_mini_batch_size wins"),
        advice={
            "train_batch_size": "the rows of an update over all processes are per_device_train_batch_size * "
            "gradient_accumulation_steps * processes with rows of their own: give gradient_accumulation_steps"
        },
    )
    """Micro-batches per optimizer update."""
    packing_samples: bool = argument(False, aliases=("zero_padding", "use_dynamic_batch", "use_dynamic_bsz"))
    """Divide the rows of an update into micro-batches by their tokens instead of their number: as few as
    max_tokens_per_batch allows, balanced over the processes. The rows of an update stay those of
    per_device_train_batch_size * gradient_accumulation_steps in every process, so results do not depend on it.
    """
    max_tokens_per_batch: int | None = argument(
        None,
        minimum=1,
        aliases=("train_max_tokens_per_gpu", "max_tokens_per_gpu", "ppo_max_token_len_per_gpu"),
        inert_when=unless("packing_samples", True),
    )
    """The most tokens of a micro-batch (forward and backward) in one process, padding not counted; a pair counts both
    answers, and a prompt that rows share (share_prefixes) counts once. null: the tokens of per_device_train_batch_size
    rows (or pairs) of max_length.
    """

    learning_rate: float = argument(5e-5, minimum=0)
    """Peak learning rate of AdamW."""
    min_learning_rate: float | None = argument(None, minimum=0, inert_when=_FLAT)
    """Learning rate at the end of the decay; null: 0."""
    lr_scheduler_type: SchedulerType = "linear"
    """Learning rate schedule after the warm-up; constant has no warm-up."""
    warmup_ratio: float = argument(0.0, minimum=0, maximum=1, inert_when=(where_given("warmup_steps"), _NO_WARMUP))
    """Share of all updates in which the learning rate rises from 0."""
    warmup_steps: int = argument(0, minimum=0, inert_when=_NO_WARMUP)
    """Updates in which the learning rate rises from 0."""
    decay_steps: int | None = argument(None, minimum=1, inert_when=_FLAT)
    """Update at which min_learning_rate is reached; null: the last one."""
    weight_decay: float = argument(0.0, minimum=0, aliases=("l2",))
    """Decoupled weight decay, not applied to biases and norms."""
    adam_beta1: float = argument(0.9, minimum=0, below=1)
    """Decay of AdamW's first moment."""
    adam_beta2: float = argument(0.999, minimum=0, below=1)
    """Decay of AdamW's second moment."""
    adam_epsilon: float = argument(1e-8, above=0)
    """Added to AdamW's denominator."""
    max_grad_norm: float = argument(1.0, minimum=0, aliases=("max_norm",))
    """Maximum global norm of the gradient; 0: no clipping."""
    aux_loss_coef: float = argument(0.0, minimum=0, aliases=("router_aux_loss_coef",))
    """Factor of the loss that balances the experts of a mixture (of transformers: over all tokens of an update); 0: the
    loads are only measured. The router_aux_loss_coef of the model's config.json is not used.
    """

    bf16: bool = argument(False, inert_when=_NO_BF16, refused_when=_NO_MIXED)
    """Compute in bfloat16."""
    fp16_opt_level: Literal["O0", "O1", "O2"] = argument("O1", inert_when=_NO_LEVEL)
    """O2: weights in bfloat16 with float32 masters; O0: float32."""
    recompute: bool = argument(False, aliases=("gradient_checkpointing",))
    """Recompute layer activations in the backward pass, to save memory at the cost of time."""
    recompute_granularity: Literal["full", "full_attn", "core_attn"] = argument(
        "full", inert_when=where("recompute", False)
    )
    """What recompute recomputes: whole layers, the attention block, or only the attention weights."""
    use_native_ops: bool = argument(True, inert_when=_NO_NATIVE)
    """Train and score with compiled CPU operators (attention, norms, activation, log-probs) if they can be built."""
    float32_matmul_precision: MatmulPrecision = argument(HIGHEST, inert_when=_NO_ROUNDING)
    """Products of linear layers and vocabulary heads in training and scoring on a CPU, named as in torch. highest:
    float32; medium: both operands rounded to bfloat16, sums, weights, gradients and moments in float32. Needs a
    processor with AVX512_BF16 or AMX; docs/bf16.md states the error. The compiled engine, attention, the experts of a
    mixture and matrices in 4 bits stay as they are.
    """
    share_prefixes: bool | None = argument(None, refused_when=_NO_FOREST)
    """Compute tokens that rows of a micro-batch begin with (the prompt of several answers) once for all of them,
    forward and backward. null: where that is exact and built: with the compiled operators, without lora_dropout. A
    mixture of experts never does: the balance of its experts counts the tokens of every row.
    """
    device: Literal["cpu", "gpu"] | None = None
    """Where to run; null: gpu if Paddle finds one, else cpu (PaddleNLP: gpu)."""
    deterministic: bool = argument(False, inert_when=_REPEATS_ANYWAY)
    """Make GPU results bitwise reproducible, at the cost of slower backward passes (see docs/gpu.md)."""
    seed: int = argument(42, minimum=0, below=2**63)
    """Seed of weights, sampling and data order."""
    data_seed: int | None = argument(None, minimum=0, below=2**63)
    """Seed of the data order; null: seed."""

    evaluation_strategy: Literal["no", "steps", "epoch"] = argument("no", aliases=("eval_strategy",))
    """When to evaluate: no, every eval_steps updates (steps), or after each epoch."""
    eval_steps: int | None = argument(None, minimum=1, inert_when=unless("evaluation_strategy", "steps"))
    """Updates between evaluations; null: logging_steps. On-policy runs evaluate at the end of the rollout that reaches
    them, and say when that is.
    """
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When to write a checkpoint: no, every save_steps updates (steps), or after each epoch."""
    save_steps: int = argument(500, minimum=1, inert_when=unless("save_strategy", "steps"))
    """Updates between checkpoints, in on-policy runs rounded up as eval_steps is."""
    save_total_limit: int | None = argument(None, minimum=1, inert_when=where("save_strategy", "no"))
    """Checkpoints to keep; null: all."""
    load_best_model_at_end: bool = argument(False, inert_when=_NO_CHOICE)
    """Finish with the weights of the best evaluation."""
    metric_for_best_model: str | None = argument(None, inert_when=_KEEPS_LAST)
    """Metric that decides what is best, with or without eval/; null: loss (SFT), accuracy (RM), reward (PPO)."""
    greater_is_better: bool | None = argument(None, inert_when=_KEEPS_LAST)
    """Whether a larger metric is better; null: unless its name ends in loss."""
    early_stopping: bool = argument(False, inert_when=NO_EVALUATION)
    """Stop when metric_for_best_model has not improved in early_stopping_patience evaluations in a row."""
    early_stopping_patience: int = argument(4, minimum=1, inert_when=_NEVER_STOPS)
    """Evaluations in a row without improvement before the stop."""
    early_stopping_threshold: float = argument(0.0, minimum=0, inert_when=_NEVER_STOPS)
    """A metric has improved if it exceeds its best value by more than this."""
    resume_from_checkpoint: bool | str | None = argument(None, path="checkpoint")
    """true: the newest complete checkpoint in output_dir; a path: that checkpoint; null or false: start afresh."""

    logging_steps: int = argument(500, minimum=1)
    """Updates between records of metrics."""
    logging_first_step: bool = False
    """Also record the first update."""
    report_to: tuple[Literal["visualdl", "tensorboard", "wandb", "all", "none"], ...] = argument(
        ("visualdl",),
        advice={
            "wandb_api_key": "a secret does not belong in a file; run `wandb login`",
            "use_wandb": "give report_to=wandb, and run `wandb login`: a secret does not belong in a file",
        },
    )
    """Where to write metrics in addition to metrics.jsonl (PaddleNLP: to all that are installed)."""
    run_name: str | None = None
    """Name of the run in wandb and in the report; null: the name of output_dir."""
    disable_tqdm: bool | None = None
    """true: no progress display."""

    @property
    def evaluates(self) -> bool:
        """Whether evaluation data is needed."""
        return self.do_eval or not self.do_train or self.evaluation_strategy != "no"

    @property
    def eval_interval(self) -> int:
        """Updates between evaluations if evaluation_strategy is ``steps``."""
        return self.eval_steps or self.logging_steps

    def token_budget(self, longest: int) -> int | None:
        """Return the most tokens of a micro-batch; None: micro-batches have ``per_device_train_batch_size`` rows.

        ``longest``: the most tokens that a row (or pair) may have.
        """
        if not self.packing_samples:
            return None
        return self.max_tokens_per_batch or self.per_device_train_batch_size * longest

    def weight_dtype(self, device: str) -> str:
        """Return the data type of weights on ``device`` (``cpu`` or ``gpu``): ``bfloat16`` or ``float32``."""
        return "bfloat16" if self.bf16 and self.fp16_opt_level == "O2" and device != "cpu" else "float32"

    def product_dtype(self, device: str) -> str:
        """Return the data type that products of weights read their operands in on ``device``."""
        rounds = self.float32_matmul_precision != HIGHEST and device == "cpu"
        return "bfloat16" if rounds else self.weight_dtype(device)
