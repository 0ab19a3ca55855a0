"""The description of a run that determines its memory and communication."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.architecture.adapter import Adapter
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout, rollout_layout
from alignment.arguments.keys.critic import CriticArguments
from alignment.arguments.keys.reward_source import RewardSourceArguments
from alignment.arguments.keys.training import TrainingArguments
from alignment.arguments.parsed import Parsed
from alignment.errors import ArgumentError
from alignment.models.adapters.peft_config import CONFIG_FILE as ADAPTER_FILE
from alignment.models.adapters.peft_config import read_adapter
from alignment.models.config import CONFIG_FILE, read_config
from alignment.models.decoder.forest import LEAST_SHARE
from alignment.runs.on_policy.algorithm import ChosenAlgorithm, cost_names, critic_name

LANGUAGE_MODELS = ("policy", "reference", "teacher")
"""Roles with language models; the others have score models, but for those in ``Job.pairwise``."""
JUDGE = "judge-"
"""Begins the roles of second judges, which run in evaluations only."""
CRITICS = ("critic", "cost_critic")
"""Roles of critics."""
ON_POLICY_PHASES = ("rollout", "score", "update")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Shapes and batches of one run; rows are counted per process of the batch group."""

    trainer: str = "ppo"
    """The trainer's name in ``TRAINERS``."""
    policy: DecoderConfig | None
    """None: only a score model is trained."""
    critic: DecoderConfig | None
    """None: the run has no critic."""
    reward: DecoderConfig | None
    """None: rewards come from a function or service, or nothing is scored."""
    other_rewards: Mapping[str, DecoderConfig] = field(default_factory=dict)
    """Models among several reward sources and second judges, by role."""
    pairwise: frozenset[str] = frozenset()
    """Roles of those, or of the reward model, that are language models which compare two responses."""
    source_rows: Mapping[str, int] = field(default_factory=dict)
    """Rows per forward pass of those with a batch size of their own, by role."""
    cost: DecoderConfig | None = None
    """None: the algorithm needs no cost."""
    cost_critic: DecoderConfig | None = None
    """None: the run has no critic of the cost."""
    half: bool
    """Whether weights are bfloat16 with float32 masters."""
    length: int
    """Tokens of the longest sequence."""
    response: int
    """Tokens of the longest response."""
    rows_per_batch: int
    """Rows per training micro-batch."""
    logprob_rows: int
    """Rows per forward pass for log-probs of policy and reference."""
    value_rows: int
    """Rows per forward pass of a critic without gradients."""
    reward_rows: int
    """Rows per forward pass of the reward model, and of the cost model."""
    micro_batches: int
    """Micro-batches per update."""
    max_tokens: int | None = None
    """The most tokens of a training micro-batch, if rows are packed."""
    iteration_rows: int
    """Responses per iteration."""
    group_size: int = 1
    """Responses per prompt."""
    shares: bool = False
    """Whether rows of a micro-batch share the tokens they begin with, where compiled operators run."""
    update_iters: int = 1
    """Passes over an iteration's responses."""
    phases: tuple[str, ...] = ON_POLICY_PHASES
    """The phases of the run, as its loop names them."""
    passes: tuple[str, ...] = ()
    """Offline: the roles whose models run over an update's rows without gradients before it, one entry per pass."""
    has_reference: bool = True
    """Whether a frozen reference model is loaded."""
    own_reference: DecoderConfig | None = None
    """The reference's shape; None: the policy's."""
    teacher: DecoderConfig | None = None
    """The frozen teacher of a distillation; None: there is none."""
    teacher_tensor: int | None = None
    """The processes that hold a whole teacher together; None: it has the student's layout."""
    sampled_share: float = 0.0
    """Distillation: the share of updates whose answers the student samples."""
    answer: int | None = None
    """Tokens of the longest of those; None: ``response``."""
    smooths_labels: bool = False
    """Whether the loss needs the logits' mean over the vocabulary."""
    trained_part: str = ""
    """What the names of the trained parameters begin with; the decoder below them is frozen. Empty: all are trained."""
    score_head: Mapping[str, Any] = field(default_factory=dict)
    """The sizes of what is above the decoder of a score model, as ``whole_shapes`` takes them."""
    divergence_tensors: int = 0
    """Tensors of the logits' size that the divergence from the teacher holds."""
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    """The adapters of trained models, by role; their bases are frozen, and the policy's is its reference."""
    four_bit: bool = False
    """Whether the matrices of those bases' layers are in 4 bits."""
    keeps_average: bool = False
    """Whether an average of the policy's trained weights is kept."""
    side_by_side: int = -1
    """The most sequences generated at once; -1: all of an iteration."""
    recompute: str = ""
    """What the policy's backward pass recomputes: ``full``, ``full_attn``, ``core_attn``, or nothing (empty)."""
    critic_recompute: str = ""
    with_ptx: bool = False
    """Whether every update also has supervised rows."""
    is_scaled: bool = False
    """Whether the sampling temperature is not 1."""
    entropy_gradient: bool = False
    """Whether the policy's loss includes an entropy term."""
    offloaded: frozenset[str] = frozenset()
    eval_mode: str | None = None
    rollout_tensor: int = -1
    """Tensor-parallel degree of the rollout (eval_mode tensor_parallel); below 1: that of training."""
    native: bool = False
    """Whether training and scoring use compiled operators (CPU only)."""
    fused: bool = False
    """Whether rollouts use the fused engine if possible (not over pipeline stages)."""
    on_gpu: bool = False
    """Whether the device is a GPU, where the fused engine holds its memory."""
    rollout_weight_type: str = "float32"
    rollout_kv_type: str = "float32"
    rollout_kv_memory: str | None = None
    """Limit for the fused engine's key-value cache; None: what all rows need."""

    @property
    def item(self) -> int:
        """Bytes per weight or activation."""
        return 2 if self.half else 4

    @property
    def models(self) -> dict[str, DecoderConfig]:
        """The models of the run by role, in display order."""
        reference = (self.own_reference or self.policy) if self.has_reference else None
        trained = {"policy": self.policy, "critic": self.critic, "cost_critic": self.cost_critic}
        rewards = {"reward": self.reward, **self.other_rewards, "cost": self.cost}
        roles = {**trained, "reference": reference, "teacher": self.teacher, **rewards}
        return {role: config for role, config in roles.items() if config is not None}

    def weights_of(self, role: str) -> str:
        """Return under what the weights of ``role`` are counted: several reward models are one component."""
        return f"{'reward' if role in self.other_rewards else role} weights"

    def is_language_model(self, role: str) -> bool:
        """Return whether the model of ``role`` has a vocabulary head."""
        return role in LANGUAGE_MODELS or role in self.pairwise

    def length_of(self, role: str) -> int:
        """Return the tokens of the longest row that ``role`` reads: a comparison has two responses."""
        return self.length + (self.response if role in self.pairwise else 0)

    def saved_tokens(self, role: str, rows: int, *, trains: bool = False) -> int:
        """Return how many of the tokens of ``rows`` full rows ``role`` need not compute, as responses share a prompt.

        An update of only a part of an iteration's responses is counted as if they had different prompts.
        """
        adapter, prompt = self.adapters.get(role), self.length - self.response
        apart = trains and self.rows_per_batch * self.micro_batches < self.iteration_rows
        drops = adapter is not None and adapter.dropout > 0
        routes = self.models[role].experts is not None
        if apart or drops or routes or not (self.shares and self.native) or role in self.pairwise:
            return 0
        return (rows - -(-rows // self.group_size)) * prompt if prompt * LEAST_SHARE >= self.length else 0

    @property
    def generates(self) -> bool:
        """Whether the run samples what it trains on, always or now and then."""
        return "rollout" in self.phases

    @property
    def is_on_policy(self) -> bool:
        """Whether this is an on-policy run."""
        return "score" in self.phases

    def rollout_layout(self, layout: Layout) -> Layout:
        """Return the layout of one replica of the rollout."""
        return rollout_layout(layout, self.eval_mode, self.rollout_tensor)

    def own_layout(self, layout: Layout) -> Layout | None:
        """Return the layout of a teacher that has one of its own beside the student's ``layout``."""
        if self.teacher_tensor is None or layout.world_size == 1:
            return None
        return Layout(tensor=self.teacher_tensor, data=max(1, layout.world_size // self.teacher_tensor))

    @property
    def learner(self) -> str:
        """The role whose updates are timed: the policy, or the score model if there is no policy."""
        return "reward" if self.policy is None else "policy"

    @property
    def trained(self) -> tuple[str, ...]:
        """Roles whose models are trained."""
        return (self.learner, *(name for name in CRITICS if getattr(self, name) is not None))

    @property
    def prompt(self) -> int:
        """Tokens of the longest prompt that leaves room for the longest response."""
        return self.length - (self.answer or self.response)


def read_job(parsed: Parsed, *, device: str) -> Job:
    """Return the job of an on-policy run; only config.json of each model is read. ArgumentError if one is missing."""
    on_policy, training, data, parallel = parsed.on_policy, parsed.training, parsed.data, parsed.parallel
    source, micro = parsed.reward_source, training.per_device_train_batch_size
    rows, micro_batches = planned_batches(training, data.max_length)
    response = min(parsed.generation.max_dec_len or data.max_length - 1, data.max_length - 1)
    # The same as in alignment.runs.on_policy.prompts.RowPlan, which needs Paddle.
    rollout = on_policy.per_device_prompt_batch_size * on_policy.num_return_sequences
    iteration = rollout * max(1, micro * training.gradient_accumulation_steps // rollout)
    algorithm = ChosenAlgorithm.of(parsed)
    keys = parsed.critic if algorithm.needs_critic else CriticArguments()
    policy = read_shape(on_policy.actor_model_name_or_path, "actor_model_name_or_path")
    critic = read_shape(critic_name(parsed), "reward_critic_model_name_or_path") if algorithm.needs_critic else None
    costs, again = _read_costs(parsed), training.recompute if keys.critic_recompute is None else keys.critic_recompute
    return Job(
        policy=policy,
        critic=critic,
        **costs,
        has_reference=algorithm.needs_reference and not (parsed.adapter.lora or parsed.reference_server.is_given),
        adapters=plan_adapters(parsed, {"policy": policy, "critic": critic, "cost_critic": costs.get("cost_critic")}),
        four_bit=parsed.adapter.load_in_4bit,
        **_read_sources(source, evaluates=training.evaluates),
        group_size=on_policy.num_return_sequences,
        half=training.weight_dtype(device) == "bfloat16",
        length=data.max_length,
        response=response,
        rows_per_batch=rows,
        logprob_rows=_positive_or(on_policy.per_device_logprob_batch_size, micro),
        value_rows=_positive_or(keys.per_device_value_batch_size, micro),
        reward_rows=_positive_or(source.per_device_reward_batch_size, micro),
        micro_batches=micro_batches,
        max_tokens=training.token_budget(data.max_length),
        iteration_rows=iteration,
        update_iters=on_policy.update_iters,
        keeps_average=on_policy.use_ema,
        side_by_side=on_policy.per_device_rollout_batch_size,
        recompute=training.recompute_granularity if training.recompute else "",
        critic_recompute=(keys.critic_recompute_granularity or training.recompute_granularity) if again else "",
        with_ptx=bool(on_policy.ptx_datasets and on_policy.ptx_coeff),
        is_scaled=parsed.generation.temperature != 1.0,
        entropy_gradient=algorithm.hyperparameters.has_entropy_bonus,
        offloaded=parallel.offloaded,
        eval_mode=parallel.eval_mode,
        rollout_tensor=parallel.rollout_tensor_parallel_degree,
        native=training.use_native_ops and device == "cpu",
        shares=training.share_prefixes is not False,
        fused=parsed.engine.use_fusemt,
        on_gpu=device == "gpu",
        rollout_weight_type=parsed.engine.rollout_weight_type or training.weight_dtype(device),
        rollout_kv_type=parsed.engine.rollout_kv_type or training.weight_dtype(device),
        rollout_kv_memory=parsed.engine.rollout_kv_memory,
    )


def _read_sources(source: RewardSourceArguments, *, evaluates: bool) -> dict[str, Any]:
    """Return ``reward``, ``other_rewards``, ``pairwise`` and ``source_rows`` of a job."""
    reward = source.reward_model_name_or_path
    models = {f"reward-{entry.log_as}": entry for entry in source.entries if entry.is_model}
    models |= {f"{JUDGE}{entry.log_as}": entry for entry in source.judges if entry.is_model and evaluates}
    return {
        "reward": read_shape(_in_run(reward), "reward_model_name_or_path") if reward else None,
        "other_rewards": {role: read_shape(_in_run(entry.name), "reward_sources") for role, entry in models.items()},
        "pairwise": frozenset(
            role
            for role, entry in {**models, "reward": source.model_entry}.items()
            if entry is not None and entry.kind == "pairwise"
        ),
        "source_rows": {role: entry.batch_size for role, entry in models.items() if entry.batch_size > 0},
    }


def _in_run(name: str) -> str:
    """Return the reward model's folder for the output folder of the run that trained it; other names unchanged."""
    folder = Path(name).expanduser()
    is_run = not (folder / CONFIG_FILE).is_file() and (folder / "reward" / CONFIG_FILE).is_file()
    return str(folder / "reward") if is_run else name


def _read_costs(parsed: Parsed) -> dict[str, DecoderConfig]:
    """Return the shapes of the cost model and of its critic, by role; nothing if the algorithm needs no cost."""
    roles = zip(("cost", "cost_critic"), cost_names(parsed), strict=True)
    return {role: read_shape(name, f"{role}_model_name_or_path") for role, name in roles if name}


def planned_batches(training: TrainingArguments, length: int) -> tuple[int, int]:
    """Return (rows per micro-batch, micro-batches per update) of one process for rows of ``length`` tokens.

    A token budget is rounded up to whole rows.
    """
    rows, steps = training.per_device_train_batch_size, training.gradient_accumulation_steps
    budget = training.token_budget(length)
    if budget is None:
        return rows, steps
    fitting = min(-(-budget // length), rows * steps)
    return fitting, -(-rows * steps // fitting)


def plan_adapters(parsed: Parsed, models: Mapping[str, DecoderConfig | None]) -> dict[str, Adapter]:
    """Return the adapter of each of the trained ``models``, if the run trains adapters.

    The first model continues ``lora_path``, if it is given.
    """
    asked = parsed.adapter
    if not asked.lora:
        return {}
    found = {role: asked.describe(config) for role, config in models.items() if config is not None}
    if asked.lora_path is not None:
        role, start = next(iter(found)), Path(asked.lora_path).expanduser()
        places = [place for place in (start, start / role) if (place / ADAPTER_FILE).is_file()]
        if not places:
            raise ArgumentError(f"lora_path={start}: no {ADAPTER_FILE} there")
        found[role] = read_adapter(places[0], models[role])
    return found


def _positive_or(value: int, default: int) -> int:
    return value if value > 0 else default


def read_shape(name: str | None, key: str) -> DecoderConfig:
    """Return the configuration in the folder ``name`` or of the hub's model ``name`` (downloading only config.json)."""
    if not name:
        raise ArgumentError(
            "a plan needs the critic's shape: give reward_critic_model_name_or_path or reward_model_name_or_path"
        )
    if (Path(name).expanduser() / CONFIG_FILE).is_file():
        return read_config(Path(name).expanduser())
    folder = _download(name)
    if folder is not None:
        return read_config(folder)
    raise ArgumentError(
        f"{key}={name}: no {CONFIG_FILE} in {Path(name).expanduser().absolute()}, and none was downloaded from the hub "
        f"under that name. A plan reads only {CONFIG_FILE}: put one with the model's shape into a folder and give that"
    )


@functools.lru_cache
def _download(name: str) -> Path | None:
    """Return the folder of the config.json of the hub's model ``name``, None without one; the hub is asked once."""
    with contextlib.suppress(Exception):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, CONFIG_FILE)).parent
    return None
