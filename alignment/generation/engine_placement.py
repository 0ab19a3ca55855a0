"""Which part of a model a process has when it generates together with others."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.parallel.comms.group import ALONE, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlacement:
    """This process in the layout of the weights an engine is handed."""

    tensor: Group = ALONE
    """Those that share each layer: heads, inner width and vocabulary are cut."""
    pipeline: Group = ALONE
    """Those that each have some of the layers (stages), in the order in which tokens pass them."""
    layers: tuple[range, ...] | None = None
    """Numbers of this stage's layers, a range for each time that tokens pass it; None: all layers."""

    def chunks(self, num_layers: int) -> tuple[range, ...]:
        """Return ``layers``, for a model of ``num_layers``."""
        assert self.layers is not None or self.pipeline.size == 1, "a stage needs to know its layers"
        return (range(num_layers),) if self.layers is None else self.layers


WHOLE_MODEL = EnginePlacement()
"""Everything in this process."""
