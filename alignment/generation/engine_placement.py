"""The part of a model that a process has when it generates together with others."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.parallel.comms.group import ALONE, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlacement:
    """The placement of this process in the layout of an engine's weights."""

    tensor: Group = ALONE
    """Processes that split each layer by heads, inner width and vocabulary."""
    experts: int = 1
    """Groups of these processes that hold different experts (``expert_parallel_degree``)."""
    pipeline: Group = ALONE
    """The stages, in the order in which tokens pass through them."""
    layers: tuple[range, ...] | None = None
    """This stage's layer numbers, one range for each pass of tokens; None: all layers."""

    def chunks(self, num_layers: int) -> tuple[range, ...]:
        """Return ``layers``, or all layers of a model with ``num_layers``."""
        assert self.layers is not None or self.pipeline.size == 1, "a stage needs to know its layers"
        return (range(num_layers),) if self.layers is None else self.layers


WHOLE_MODEL = EnginePlacement()
"""The whole model in this process."""
