"""The layouts of the parity table, as changes to a trainer's arguments."""

from __future__ import annotations

import math
from typing import Any

LAYOUTS: dict[str, dict[str, Any]] = {
    "DP2": {},
    "TP2": {"tensor_parallel_degree": 2},
    "PP2": {"pipeline_parallel_degree": 2},
    "PP4": {"pipeline_parallel_degree": 4},
    "Sh2 stage1": {"sharding": "stage1", "sharding_parallel_degree": 2},
    "Sh2 stage2": {"sharding": "stage2", "sharding_parallel_degree": 2},
    "Sh2 stage3": {"sharding": "stage3", "sharding_parallel_degree": 2},
    "TP2xPP2": {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2},
    "TP2xSh2 stage1": {"tensor_parallel_degree": 2, "sharding": "stage1", "sharding_parallel_degree": 2},
    "TP2xSh2 stage3": {"tensor_parallel_degree": 2, "sharding": "stage3", "sharding_parallel_degree": 2},
    "PP2xSh2 stage2": {"pipeline_parallel_degree": 2, "sharding": "stage2", "sharding_parallel_degree": 2},
    "PP2xSh2 stage3": {"pipeline_parallel_degree": 2, "sharding": "stage3", "sharding_parallel_degree": 2},
    "PP2 virtual2": {"pipeline_parallel_degree": 2, "virtual_pp_degree": 2},
    "TP2 sequence": {"tensor_parallel_degree": 2, "sequence_parallel": True},
    "TP2xPP2 single": {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2, "eval_mode": "single"},
    "PP4 tensor": {
        "pipeline_parallel_degree": 4,
        "eval_mode": "tensor_parallel",
        "rollout_tensor_parallel_degree": 2,
    },
    "Sh2 stage3 offload": {
        "sharding": "stage3",
        "sharding_parallel_degree": 2,
        "offload_level": "freeze_model optimizer train_model",
    },
    "TP2xPP2xSh2 stage1": {
        "tensor_parallel_degree": 2,
        "pipeline_parallel_degree": 2,
        "sharding": "stage1",
        "sharding_parallel_degree": 2,
    },
    "TP2xPP2xSh2 stage3": {
        "tensor_parallel_degree": 2,
        "pipeline_parallel_degree": 2,
        "sharding": "stage3",
        "sharding_parallel_degree": 2,
    },
    "TP2xPP2xDP2": {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2},
}
"""Name in the table to changed arguments."""

BASIC = ("DP2", "TP2", "PP2", "Sh2 stage1", "Sh2 stage2", "Sh2 stage3", "TP2xPP2")
"""Those in which the table shows every subject; the others show every trainer."""

PROCESSES = {"DP2": 2, "TP2xPP2xDP2": 8}
"""Number of processes of layouts with data parallelism, which exceeds the product of the degrees."""


def num_processes(name: str) -> int:
    """Return the number of processes of the layout ``name``."""
    degrees = ("tensor_parallel_degree", "pipeline_parallel_degree", "sharding_parallel_degree")
    return PROCESSES.get(name, math.prod(LAYOUTS[name].get(key, 1) for key in degrees))


def num_batch_ranks(name: str) -> int:
    """Return the number of its processes with different rows."""
    changes = LAYOUTS[name]
    return num_processes(name) // (
        changes.get("tensor_parallel_degree", 1) * changes.get("pipeline_parallel_degree", 1)
    )
