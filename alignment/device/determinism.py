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


def forbid_tf32() -> None:
    """Compute products of float32 numbers on a GPU in float32: TF32 keeps 10 bits of each factor, and is off.

    The norm's scale, score heads and sums of log-probs are such products. Older releases of Paddle use TF32 unless it
    is forbidden.
    """
    from paddle.base import core

    core.set_cublas_switch(False)
    core.set_cudnn_switch(False)
    assert not core.get_cublas_switch() and not core.get_cudnn_switch(), "Paddle keeps TF32"
