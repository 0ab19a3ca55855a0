"""The interface of a fused engine's kernels, and the CPU kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import paddle

from alignment.generation.engine import GenerationOptions
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.generation.fused.capabilities import model_obstacle
from alignment.generation.fused.decode_loop import RowModel, SlotDrawer
from alignment.generation.fused.fused_drawing import FusedDrawer
from alignment.generation.fused.fused_model import FusedModel
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.packing import BlockBudget
from alignment.generation.fused.request_drawing import RequestDrawer
from alignment.ops.native.library import find_core, load_core


class PackedModel(RowModel, Protocol):
    """A decoder in the kernels' layout, with its block pool; memory is allocated on construction."""

    pool: BlockBudget

    @property
    def num_bytes(self) -> int:
        """Bytes of weights and key-value cache."""
        ...

    def load(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Pack ``weights`` (Hugging Face name, Paddle tensor) over the old ones; UserError if names do not fit."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


class Kernels(Protocol):
    """Creates the packed models and drawers of a fused engine."""

    checks_drafts: bool
    """Whether several tokens of a sequence can be drawn in one pass, which speculative decoding needs."""

    @property
    def description(self) -> str:
        """Which kernels these are, and their origin, in one line."""
        ...

    def obstacle(self, config: Any, placement: EnginePlacement = WHOLE_MODEL) -> str | None:
        """Return in one line why a DecoderConfig cannot run in ``placement``, None if it can."""
        ...

    def length_obstacle(self, config: Any, longest: int) -> str | None:
        """Return in one line why sequences of ``longest`` tokens cannot run, None if they can."""
        ...

    def pack(self, config: Any, settings: FusedSettings, placement: EnginePlacement) -> PackedModel:
        """Return a model without weights."""
        ...

    def drawer(
        self, options: GenerationOptions, settings: FusedSettings, *, seed: int, vocab_size: int, usable: int | None
    ) -> SlotDrawer:
        """Return the drawer for one call of ``generate``; ids from ``usable`` on are never drawn."""
        ...

    def request_drawer(
        self, settings: FusedSettings, *, vocab_size: int, usable: int | None, max_answer: int
    ) -> RequestDrawer | None:
        """Return a drawer for answers with options of their own; None: these kernels have none."""
        ...


def layout_obstacle(config: Any, placement: EnginePlacement) -> str | None:
    """Return in one line why no kernels can run ``config`` (a DecoderConfig) in ``placement``, None if some may."""
    tensor, stages = placement.tensor, placement.pipeline.size
    return model_obstacle(
        config,
        tensor_degree=tensor.size,
        tensor_index=tensor.index,
        expert_degree=placement.experts,
        num_stages=stages,
    )


class CpuKernels:
    """The ``Kernels`` of csrc/core."""

    checks_drafts = True
    """See ``Kernels.checks_drafts``."""

    @property
    def description(self) -> str:
        """See ``Kernels.description``."""
        return find_core().reason

    def obstacle(self, config: Any, placement: EnginePlacement = WHOLE_MODEL) -> str | None:
        """See ``Kernels.obstacle``. May build the library, which takes about a minute the first time."""
        obstacle = layout_obstacle(config, placement)
        if obstacle is not None:
            return obstacle
        device = paddle.device.get_device()
        if device != "cpu":
            return f"the CPU kernels run on cpu, the device is {device}"
        return f"no kernel library: {find_core().reason}" if load_core() is None else None

    def length_obstacle(self, config: Any, longest: int) -> None:
        """See ``Kernels.length_obstacle``: all that the model can read can run."""

    def pack(self, config: Any, settings: FusedSettings, placement: EnginePlacement) -> FusedModel:
        """See ``Kernels.pack``."""
        return FusedModel(load_core(), config, settings, placement)

    def drawer(
        self, options: GenerationOptions, settings: FusedSettings, *, seed: int, vocab_size: int, usable: int | None
    ) -> FusedDrawer:
        """See ``Kernels.drawer``."""
        return FusedDrawer(
            load_core(),
            options,
            seed=seed,
            vocab_size=vocab_size,
            usable_vocab_size=usable,
            num_slots=settings.num_slots,
            threads=settings.threads,
        )

    def request_drawer(
        self, settings: FusedSettings, *, vocab_size: int, usable: int | None, max_answer: int
    ) -> RequestDrawer:
        """See ``Kernels.request_drawer``."""
        return RequestDrawer(
            load_core(),
            vocab_size=vocab_size,
            usable_vocab_size=usable,
            num_slots=settings.num_slots,
            max_answer=max_answer,
            threads=settings.threads,
        )


CPU_KERNELS = CpuKernels()
