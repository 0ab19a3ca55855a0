"""Makes a GPU repeat its bits: what else adds in the order in which threads arrive gets a fixed order.

``docs/gpu.md`` says which operator needs what.
"""

from __future__ import annotations

import os

FLAGS = {"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1}
"""Paddle's, for the backward passes of attention and of gathers, and for that of the embedding."""
VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_NVLS_ENABLE": "0"}
"""Of NVIDIA's libraries: one workspace a stream for matrix products, sums of processes outside of the switch."""


def make_deterministic() -> None:
    """Set flags and variables, those of the environment unless the user has set them; before the GPU is selected."""
    import paddle

    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    paddle.set_flags(FLAGS)
