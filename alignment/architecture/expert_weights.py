"""Weights of feed-forward blocks that choose among experts, for the tables of families."""

from __future__ import annotations

from dataclasses import replace

from alignment.architecture.family import EACH, Weight
from alignment.architecture.layer_weights import ATTENTION, FEED_FORWARD, HEAD_NORMS, NORMS


def expert_weights(block: str, *, gate: str, up: str, down: str) -> tuple[Weight, ...]:
    """Return router and experts of the block named ``block``; ``gate``, ``up``, ``down`` are an expert's matrices."""
    name = f"{block}.experts.{EACH}"
    return (
        Weight("router", f"{block}.gate", ("hidden", "experts"), layers="experts"),
        Weight("expert_gate", f"{name}.{gate}", ("hidden", "expert_inner"), cut="columns", layers="experts"),
        Weight("expert_up", f"{name}.{up}", ("hidden", "expert_inner"), cut="columns", layers="experts"),
        Weight("expert_down", f"{name}.{down}", ("expert_inner", "hidden"), cut="rows", layers="experts"),
    )


QWEN_EXPERTS = expert_weights("mlp", gate="gate_proj", up="up_proj", down="down_proj")
SHARED_EXPERT = (
    Weight("shared_gate", "mlp.shared_expert.gate_proj", ("hidden", "shared_inner"), cut="columns", layers="experts"),
    Weight("shared_up", "mlp.shared_expert.up_proj", ("hidden", "shared_inner"), cut="columns", layers="experts"),
    Weight("shared_down", "mlp.shared_expert.down_proj", ("shared_inner", "hidden"), cut="rows", layers="experts"),
    Weight("shared_switch", "mlp.shared_expert_gate", ("hidden", "one"), layers="experts"),
)
"""The expert that every token is given to, and its gate."""
DENSE_FEED_FORWARD = tuple(replace(weight, layers="dense") for weight in FEED_FORWARD)
"""The plain block of a layer without experts."""
MIXTRAL_LAYER = (*ATTENTION, *expert_weights("block_sparse_moe", gate="w1", up="w3", down="w2"), *NORMS)
QWEN2_MOE_LAYER = (*ATTENTION, *DENSE_FEED_FORWARD, *QWEN_EXPERTS, *SHARED_EXPERT, *NORMS)
QWEN3_MOE_LAYER = (*ATTENTION, *DENSE_FEED_FORWARD, *QWEN_EXPERTS, *HEAD_NORMS, *NORMS)
