"""Arguments of the parallel layout and of offloading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from alignment.fields import Case, Situation, argument, unless

OffloadPart = Literal["freeze_model", "optimizer", "train_model"]


def _is_layout_of_one(value: Any, s: Situation) -> bool:
    return bool(value) and value not in (-1, 1) and s.world_size == 1


def _never_generates(value: Any, s: Situation) -> bool:
    return bool(value) and value != -1 and "num_return_sequences" not in s.values and not s.values.get("lmbda")


def _never_plans_rollouts(value: Any, s: Situation) -> bool:
    return bool(value) and "num_return_sequences" not in s.values


def _has_no_tensor_parallelism(value: Any, s: Situation) -> bool:
    return bool(value) and s.values["tensor_parallel_degree"] < 2


def _divides_no_experts(value: Any, s: Situation) -> bool:
    return value > 1 and s.values["tensor_parallel_degree"] < 2


def _shards_nothing(value: Any, s: Situation) -> bool:
    return value > 1 and s.world_size > 1 and not s.values["sharding"]


def _is_more_than_one(value: Any, s: Situation) -> bool:
    return value > 1


_ONE = Case(_is_layout_of_one, "this run has one process")
_NO_ROLLOUTS = Case(_never_generates, "this trainer has no rollouts")
_NO_PLAN = Case(_never_plans_rollouts, "only on-policy runs say it before they start")
_NO_SEQUENCE_AXIS = Case(
    _is_more_than_one,
    "sequences are not split over processes; rows are, by tensor, pipeline and data parallelism",
    "it is above 1",
)
_NO_STAGE = Case(_shards_nothing, "sharding names no stage (stage1, stage2 or stage3)")
_NO_GROUPS = Case(_divides_no_experts, "tensor_parallel_degree is 1, whose processes it groups")
_NO_TENSOR_AXIS = Case(_has_no_tensor_parallelism, "tensor_parallel_degree is 1")


@dataclass(frozen=True, kw_only=True)
class ParallelArguments:
    """How the work is distributed over processes, and what is offloaded while unused."""

    tensor_parallel_degree: int = argument(-1, minimum=-1, inert_when=_ONE)
    """Processes that share each layer; -1, 0 or 1: off."""
    pipeline_parallel_degree: int = argument(-1, minimum=-1, inert_when=_ONE)
    """Processes that each hold some of the layers; -1, 0 or 1: off."""
    sharding_parallel_degree: int = argument(-1, minimum=-1, aliases=("sharding_degree",), inert_when=(_ONE, _NO_STAGE))
    """Processes that shard the optimizer state; -1: all that the other degrees leave."""
    sharding: tuple[Literal["stage1", "stage2", "stage3", "offload"], ...] = argument((), inert_when=_ONE)
    """What is sharded: stage1 optimizer state, stage2 also gradients, stage3 also weights; offload: in host memory."""
    sep_parallel_degree: int = argument(-1, minimum=-1, refused_when=_NO_SEQUENCE_AXIS)
    """Processes that share a sequence (by attention heads)."""
    context_parallel_degree: int = argument(-1, minimum=-1, refused_when=_NO_SEQUENCE_AXIS)
    """Processes that share a sequence (by ring attention)."""
    expert_parallel_degree: int = argument(-1, minimum=-1, inert_when=(_NO_GROUPS, _ONE))
    """Groups of the tensor-parallel processes that each hold whole experts of a mixture, or with fewer groups than
    processes some columns of them; -1: one group, so that every process holds some columns of every expert.
    """
    eval_mode: Literal["single", "tensor_parallel"] | None = argument(None, inert_when=(_NO_ROLLOUTS, _ONE))
    """Layout of rollouts: null as in training, single in one process each, tensor_parallel without pipeline stages."""
    offload_level: tuple[OffloadPart, ...] = argument(
        (),
        spellings={"eval": "freeze_model", "reward": "freeze_model"},
        advice={"adam_offload": "give offload_level=optimizer"},
    )
    """What to keep in host memory while unused: freeze_model, optimizer, train_model, or several (no gain on a CPU)."""
    rollout_tensor_parallel_degree: int = argument(
        -1, minimum=-1, inert_when=(unless("eval_mode", "tensor_parallel"), _NO_ROLLOUTS, _ONE)
    )
    """Processes that share each layer in rollouts with eval_mode tensor_parallel; -1: tensor_parallel_degree."""
    sequence_parallel: bool = argument(False, inert_when=_NO_TENSOR_AXIS)
    """Split tokens over the tensor-parallel processes outside attention and feed-forward, to save memory."""
    virtual_pp_degree: int = argument(1, minimum=1, inert_when=_ONE)
    """Chunks of layers per pipeline process: more chunks mean smaller bubbles and more messages."""
    distributed_timeout: int = argument(600, minimum=1)
    """Seconds that processes wait for each other before the run ends and says who waited for what."""
    distributed_dry_run: bool = argument(False, inert_when=_NO_PLAN)
    """Print which process sends which weights for rollouts to which, and stop."""

    @property
    def pipeline_degree(self) -> int:
        """Pipeline stages, 1 or more."""
        return max(1, self.pipeline_parallel_degree)

    @property
    def sharding_stage(self) -> int:
        """The highest stage named in ``sharding``, or 0."""
        return max((int(word[-1]) for word in self.sharding if word.startswith("stage")), default=0)

    @property
    def offloaded(self) -> frozenset[str]:
        """What is offloaded while unused; ``sharding=... offload`` means the optimizer."""
        return frozenset(self.offload_level) | ({"optimizer"} if "offload" in self.sharding else set())
