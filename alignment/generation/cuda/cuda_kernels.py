"""The ``Kernels`` of csrc/cuda."""

from __future__ import annotations

from typing import Any

from alignment.generation.cuda.cuda_drawing import CudaDrawer
from alignment.generation.cuda.cuda_model import CudaModel
from alignment.generation.cuda.paddle_device import PaddleDevice, device_obstacle
from alignment.generation.engine import GenerationOptions
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.generation.fused.capabilities import cuda_length_obstacle, cuda_obstacle
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.kernels import layout_obstacle
from alignment.ops.native.cuda.library import CudaLibrary, CudaSearch, find_cuda


class CudaKernels:
    """Computes on Paddle's current device with the library in ``search`` (default: search for it)."""

    checks_drafts = False
    """See ``Kernels.checks_drafts``."""

    def __init__(self, search: CudaSearch | None = None) -> None:
        self._search = search or find_cuda()

    @property
    def description(self) -> str:
        """See ``Kernels.description``."""
        return f"CUDA kernels: {self._search.reason}"

    def obstacle(self, config: Any, placement: EnginePlacement = WHOLE_MODEL) -> str | None:
        """See ``Kernels.obstacle``."""
        obstacle = layout_obstacle(config, placement) or cuda_obstacle(config)
        if obstacle is not None:
            return obstacle
        if self._search.library is None:
            return f"no CUDA kernels: {self._search.reason}"
        return device_obstacle(self._search.library)

    def length_obstacle(self, config: Any, longest: int) -> str | None:
        """See ``Kernels.length_obstacle``."""
        return cuda_length_obstacle(config, longest)

    def pack(self, config: Any, settings: FusedSettings, placement: EnginePlacement) -> CudaModel:
        """See ``Kernels.pack``."""
        return CudaModel(PaddleDevice(self._library), config, settings, group=placement.tensor)

    def drawer(
        self, options: GenerationOptions, settings: FusedSettings, *, seed: int, vocab_size: int, usable: int | None
    ) -> CudaDrawer:
        """See ``Kernels.drawer``."""
        return CudaDrawer(
            PaddleDevice(self._library),
            options,
            seed=seed,
            vocab_size=vocab_size,
            usable_vocab_size=usable,
            num_slots=settings.num_slots,
        )

    def request_drawer(self, settings: FusedSettings, *, vocab_size: int, usable: int | None, max_answer: int) -> None:
        """See ``Kernels.request_drawer``: there is none, the sampler takes the same options for all rows."""

    @property
    def _library(self) -> CudaLibrary:
        assert self._search.library is not None, "ask for the obstacle first"
        return self._search.library
