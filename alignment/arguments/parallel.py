"""Arguments of the parallel layout and of memory; see ``effect_rows`` for what one process can honour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.fields import argument, inert

_ONE_WAY = "there is one implementation of this, which the option does not change"
OffloadPart = Literal["freeze_model", "optimizer", "train_model"]


@dataclass(frozen=True, kw_only=True)
class ParallelArguments:
    """How the work is spread over processes, and what leaves the device when it is not needed."""

    tensor_parallel_degree: int = argument(-1, minimum=-1)
    """Processes that share each layer; -1, 0 or 1: off."""
    pipeline_parallel_degree: int = argument(-1, minimum=-1)
    """Processes that each hold some of the layers; -1, 0 or 1: off."""
    sharding_parallel_degree: int = argument(-1, minimum=-1, aliases=("sharding_degree",))
    """Processes that share the optimizer state; -1: all that the other degrees leave."""
    sharding: tuple[Literal["stage1", "stage2", "stage3", "offload"], ...] = ()
    """What is shared: stage1 optimizer state, stage2 also gradients, stage3 also weights; offload: in host memory."""
    sep_parallel_degree: int = argument(-1, minimum=-1)
    """Processes that share a sequence (by attention heads)."""
    context_parallel_degree: int = argument(-1, minimum=-1)
    """Processes that share a sequence (by ring attention)."""
    expert_parallel_degree: int = argument(-1, minimum=-1)
    """Processes that share the experts of a mixture."""
    eval_mode: Literal["single", "tensor_parallel"] | None = None
    """Layout of the rollout's weights: empty as in training, single one process, tensor_parallel without stages."""
    offload_level: tuple[OffloadPart, ...] = argument((), spellings={"eval": "freeze_model", "reward": "freeze_model"})
    """What is in host memory while unused: freeze_model, optimizer, train_model, or several (no gain on a CPU)."""
    rollout_tensor_parallel_degree: int = argument(-1, minimum=-1)
    """Processes that share each layer in rollouts with eval_mode tensor_parallel; -1: tensor_parallel_degree."""
    sequence_parallel: bool = False
    """Split the tokens among the tensor-parallel processes outside attention and feed-forward: less memory."""
    virtual_pp_degree: int = argument(1, minimum=1)
    """Chunks of layers a pipeline process holds: smaller bubbles, more messages."""
    distributed_timeout: int = argument(600, minimum=1)
    """Seconds an operation between processes may take before the run ends and names who waited for what."""
    distributed_dry_run: bool = False
    """Print who sends which weights to whom for the rollouts, and stop."""
    tensor_parallel_config: tuple[str, ...] = inert((), _ONE_WAY)
    """Options of tensor parallelism."""
    pipeline_parallel_config: tuple[str, ...] = inert((), _ONE_WAY)
    """Options of the pipeline, for example disable_p2p_cache_shape."""
    sharding_parallel_config: tuple[str, ...] = inert((), _ONE_WAY)
    """Options of sharding, for example enable_stage1_overlap."""
    data_parallel_config: tuple[str, ...] = inert((), _ONE_WAY)
    """Options of data parallelism."""
    sequence_parallel_config: tuple[str, ...] = inert((), _ONE_WAY)
    """Options of sequence parallelism."""
    hybrid_parallel_topo_order: Literal["pp_first", "sharding_first"] | None = inert(
        None, "ranks are ordered data, pipeline, sharding, tensor; results do not depend on it"
    )
    """Order of the axes in the grid of processes."""
    tensor_parallel_output: bool = inert(False, "logits are never gathered")
    """Keep logits split over the tensor-parallel processes (2025 versions: true by default)."""

    @property
    def pipeline_degree(self) -> int:
        """Pipeline stages, 1 or more."""
        return max(1, self.pipeline_parallel_degree)

    @property
    def sharding_stage(self) -> int:
        """The highest stage named in ``sharding``, 0 without one."""
        return max((int(word[-1]) for word in self.sharding if word.startswith("stage")), default=0)

    @property
    def offloaded(self) -> frozenset[str]:
        """What leaves the device while unused; ``sharding=... offload`` means the optimizer."""
        return frozenset(self.offload_level) | ({"optimizer"} if "offload" in self.sharding else set())
