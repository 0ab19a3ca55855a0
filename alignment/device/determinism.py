"""Make GPU results bitwise reproducible by giving sums a fixed order.

``docs/gpu.md`` lists what each operator needs.
"""

from __future__ import annotations

import os

FLAGS = {"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1}
"""Flags of Paddle for the backward passes of attention, gathers and the embedding."""
VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_NVLS_ENABLE": "0"}
"""Variables of NVIDIA's libraries: one workspace per stream for matrix products, no reductions inside the switch."""


def make_deterministic() -> None:
    """Set the flags, and the variables that the user has not set; call it before the GPU is selected."""
    import paddle

    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    paddle.set_flags(FLAGS)
