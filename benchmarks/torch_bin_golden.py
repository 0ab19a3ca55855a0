"""Write ``tests/golden/torch_bin``: small weights as ``torch.save`` writes them, and their numbers.

Run it where the extra ``interop`` is installed: ``python benchmarks/torch_bin_golden.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "torch_bin"


def main() -> None:
    """Write both kinds of file, and what they hold."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 7, generator=generator)
    tensors = {
        "matrix": matrix,
        "transposed": matrix.T,
        "window": matrix[1:4, 2:5],
        "steps": matrix[::2, ::3],
        "expanded": matrix[:1].expand(3, 7),
        "vector": torch.randn(4, generator=generator),
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "double": torch.randn(2, 2, generator=generator, dtype=torch.float64),
        "half": torch.randn(3, generator=generator).half(),
        "bfloat16": torch.randn(2, 3, generator=generator).bfloat16(),
        "whole_numbers": torch.arange(5),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "truths": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
    }
    state = OrderedDict(tensors)
    state._metadata = OrderedDict({"": {"version": 1}})
    TARGET.mkdir(parents=True, exist_ok=True)
    torch.save(state, TARGET / "zip.bin")
    torch.save(state, TARGET / "plain.bin", _use_new_zipfile_serialization=False)
    np.savez(TARGET / "expected.npz", **{name: tensor.detach().float().numpy() for name, tensor in tensors.items()})


if __name__ == "__main__":
    main()
