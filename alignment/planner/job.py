"""What a run does, as far as memory and messages are concerned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alignment.arguments.parsed import Parsed
from alignment.errors import ArgumentError
from alignment.models.config import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """Shapes and batches of one PPO run; rows are those of one process that sees its own rows."""

    policy: DecoderConfig
    critic: DecoderConfig
    reward: DecoderConfig | None
    half: bool
    """Whether weights are bfloat16 with float32 masters."""
    length: int
    """Tokens of the longest sequence."""
    response: int
    """Tokens of the longest response."""
    rows_per_batch: int
    """Rows of a training micro-batch."""
    score_rows: int
    """Rows of the largest forward pass without gradients."""
    micro_batches: int
    """Micro-batches of an update (gradient accumulation)."""
    rollout_rows: int
    """Sequences generated side by side."""
    iteration_rows: int
    """Responses of one iteration."""
    recompute: bool = False
    critic_recompute: bool = False
    offloaded: frozenset[str] = frozenset()
    eval_mode: str | None = None
    rollout_tensor: int = 1
    """Tensor-parallel degree of the rollout (eval_mode tensor_parallel)."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight or an activation."""
        return 2 if self.half else 4


def read_job(parsed: Parsed, *, device: str) -> Job:
    """Return the job of a PPO run's arguments; the models' folders must be here, of which only config.json is read."""
    ppo, training, data, parallel = parsed.ppo, parsed.training, parsed.data, parsed.parallel
    source = parsed.reward_source.reward_model_name_or_path
    critic = ppo.reward_critic_model_name_or_path or source
    response = parsed.generation.max_dec_len or data.max_length - 1
    micro = training.per_device_train_batch_size
    scoring = (ppo.per_device_logprob_batch_size, ppo.per_device_value_batch_size)
    iteration = max(
        ppo.per_device_prompt_batch_size * ppo.num_return_sequences, micro * training.gradient_accumulation_steps
    )
    rollout = ppo.per_device_rollout_batch_size
    recompute = parsed.critic.critic_recompute
    return Job(
        policy=_config(ppo.actor_model_name_or_path, "actor_model_name_or_path"),
        critic=_config(critic, "reward_critic_model_name_or_path"),
        reward=_config(source, "reward_model_name_or_path") if source else None,
        half=training.weight_dtype(device) == "bfloat16",
        length=data.max_length,
        response=min(response, data.max_length - 1),
        rows_per_batch=micro,
        score_rows=max(micro, *scoring, parsed.reward_source.per_device_reward_batch_size if source else 0),
        micro_batches=training.gradient_accumulation_steps,
        rollout_rows=min(iteration, rollout) if rollout > 0 else iteration,
        iteration_rows=iteration,
        recompute=training.recompute,
        critic_recompute=training.recompute if recompute is None else recompute,
        offloaded=parallel.offloaded,
        eval_mode=parallel.eval_mode,
        rollout_tensor=max(1, parallel.rollout_tensor_parallel_degree, parallel.tensor_parallel_degree)
        if parallel.rollout_tensor_parallel_degree < 1
        else parallel.rollout_tensor_parallel_degree,
    )


def _config(folder: str, key: str) -> DecoderConfig:
    if not (Path(folder) / "config.json").is_file():
        raise ArgumentError(
            f"{key}={folder}: a plan needs the model's config.json here; download the folder first (its weights are "
            "not read)"
        )
    return DecoderConfig.read(folder)
