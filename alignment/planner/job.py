"""The description of a run that determines its memory and communication."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from alignment.architecture.adapter import Adapter
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout, rollout_layout
from alignment.models.decoder.forest import LEAST_SHARE

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
    checked_share: float = 1.0
    """The share of an iteration's responses whose old log-probs the policy computes; the others are the engine's."""
    values_from_update: bool = False
    """Whether the critic's values come from the pass in which it learns."""
    joined: int = 1
    """Offline: micro-batches that the reference reads in one pass, without pipeline stages."""
    shared_prompt: int | None = None
    """Tokens that the rows of a group share; None: all but the longest response."""
    reference_group: int | None = None
    """Rows with the same prompt in a pass of the reference, if they are not ``group_size``."""
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
    kept_choices: int = 0
    """Rollouts whose experts' choices are kept at the same time, to learn with the same experts; 0: of none."""
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
        adapter, length = self.adapters.get(role), self.length_of(role)
        prompt = self.length - self.response if self.shared_prompt is None else self.shared_prompt
        group = self.reference_group or self.group_size if role == "reference" else self.group_size
        apart = trains and self.draws_part
        drops = adapter is not None and adapter.dropout > 0
        routes = self.models[role].experts is not None
        if apart or drops or routes or not (self.shares and self.native):
            return 0
        if prompt * LEAST_SHARE < length:
            prompt = 0
        if role not in self.pairwise:
            return (rows - ceil(rows / group)) * prompt
        # A comparison begins with the prompt and one response; all with the same one follow each other.
        begun = ceil(rows / max(1, self.group_size - 1))
        prompts = ceil(begun / self.group_size)
        return (rows - begun) * (length - self.response) + (begun - prompts) * prompt

    @property
    def draws_part(self) -> bool:
        """Whether an update has only a part of an iteration's responses, drawn at random."""
        return self.rows_per_batch * self.micro_batches < self.iteration_rows

    def scored_rows(self, role: str) -> int:
        """Return the rows of an iteration that ``role`` reads without gradients: responses, or pairs of them."""
        if role == "critic" and self.values_from_update:
            return 0
        share = self.checked_share if role == "policy" else 1
        return ceil(round(share * self.iteration_rows, 6)) * (self.group_size - 1 if role in self.pairwise else 1)

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
