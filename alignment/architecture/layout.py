"""The degrees of parallelism of a layout."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Degrees of parallelism; their product is the number of processes."""

    tensor: int = 1
    """Processes that share every layer."""
    pipeline: int = 1
    """Processes (stages) that each hold some of the layers."""
    sharding: int = 1
    """Processes that shard the optimizer state and train on different rows."""
    data: int = 1
    """Processes that replicate the state and train on different rows."""
    sharding_stage: int = 0
    """1: optimizer states are sharded; 2: gradients too; 3: weights too; 0: nothing."""
    sequence_parallel: bool = False
    """Whether tokens outside attention and feed-forward are split over the tensor-parallel processes."""
    virtual_stages: int = 1
    """Chunks of layers per stage (interleaved pipeline)."""
    expert: int = 1
    """Groups of the tensor-parallel processes that each hold some of the experts of a layer."""

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.sharding * self.data

    @property
    def batch(self) -> int:
        """Number of processes with different rows."""
        return self.sharding * self.data

    def __str__(self) -> str:
        degrees = {"TP": self.tensor, "PP": self.pipeline, "Sh": self.sharding, "DP": self.data}
        parts = [f"{name}{degree}" for name, degree in degrees.items() if degree > 1]
        stage = f" stage{self.sharding_stage}" if self.sharding > 1 else ""
        experts = f" EP{self.expert}" if self.expert > 1 else ""
        return ("x".join(parts) or "one process") + experts + stage


ONE_PROCESS = Layout()


def rollout_layout(layout: Layout, eval_mode: str | None, degree: int) -> Layout:
    """Return the layout of one replica of the rollout; ``degree`` below 1: the tensor degree of training."""
    if eval_mode == "single":
        return ONE_PROCESS
    if eval_mode == "tensor_parallel":
        return Layout(tensor=degree if degree > 0 else layout.tensor)
    assert not eval_mode, eval_mode
    return layout
